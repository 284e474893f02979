#!/bin/bash
#
# The harness's health, not its figures: every mode is measured, each row of the table has a value, the JSON is whole,
# the plots are there, and nothing is faster than the link that it went over.

set -u
cd "${0%/*}/.." || exit
. tests/integration/cases.sh
. tests/kvm.sh
export BUILD="${BUILD:-build}"
user_kvm
LAB=$(mktemp -d "${TMPDIR:-/tmp}/doppel-perf.XXXXXX") || exit
trap 'rm -rf "$LAB"' EXIT

columns_full()
{
	! grep -E '^\| (transmit|receive|echo)' "$LAB/results/table.md" | grep -e ' - ' &&
		[ "$(grep -cE '^\| (transmit|receive|echo p50)[-a-z]*, (Mbit/s|us) \|' "$LAB/results/table.md")" = 5 ]
}

json_whole()
{
	jq -e '.figures | length > 200 and all(.[]; length > 0)' "$LAB/results/figures.json"
}

# A model of 1 Gbit/s carries 949 Mbit/s of payload in full frames; how long a test was is known to a few percent. At
# `durable` a stream waits for a disk, which may take as long as a whole test.
none_too_fast()
{
	jq -e '[.figures | to_entries[] | select(.key | endswith(".mbit") and (startswith("host") | not))] |
		(map(.value[]) | max < 1000) and (map(select(.key | startswith("durable") | not) | .value[]) | min > 0)' \
		"$LAB/results/figures.json"
}

plots_there()
{
	[ "$(grep -l '</svg>' "$LAB/results/"*.svg | wc -l)" = 11 ]
}

# idle_stays_protected PEER: of a guest with nothing to do nobody is suspected, for three heartbeat timeouts.
idle_stays_protected()
{
	local i address=shm:peer-$$ pids=()
	local options=(--name "peer-$$" --arbiter "dir:$LAB/$1" --key "$LAB/key" --commit received --lag 60000)
	mkdir -p "$LAB/$1/a" "$LAB/$1/b"
	DOPPEL_RUN_DIR=$LAB/$1/b "$BUILD/perf/$1" standby "${options[@]}" --listen "$address" \
		--console "unix:$LAB/$1/b/console" --net net_null0,no-rx=1 >"$LAB/$1/b/log" 2>&1 &
	pids+=($!)
	DOPPEL_RUN_DIR=$LAB/$1/a "$BUILD/perf/$1" primary "${options[@]}" --standby "$address" \
		--console "unix:$LAB/$1/a/console" --net net_null0,no-rx=1 --kernel "$BUILD/guests/stream.elf" \
		--memory 64M >"$LAB/$1/a/log" 2>&1 &
	pids+=($!)
	for ((i = 0; i < 100; i++)); do
		grep -q "protected by" "$LAB/$1/a/log" && break
		sleep 0.1
	done
	sleep 1.5
	kill -KILL "${pids[@]}"
	wait "${pids[@]}" 2>/dev/null
	cat "$LAB/$1"/?/log
	grep -q "protected by" "$LAB/$1/a/log" && ! grep -qE "suspected|lost" "$LAB/$1"/?/log
}

(umask 077 && head -c 32 /dev/urandom >"$LAB/key")
check "an idle guest stays protected under epochs" idle_stays_protected epochs
check "and under checkpoints" idle_stays_protected checkpoints
check "the harness measures every mode" env QUICK=1 ROUNDS=1 EACH=0.3 RESULTS="$LAB/results" perf/perf.sh
check "every row of its table has a value for each" columns_full
check "its JSON is whole" json_whole
check "nothing is faster than its link" none_too_fast
check "its plots are there" plots_there
end_cases
