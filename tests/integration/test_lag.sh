#!/bin/bash
#
# Lag control: a backup that is slower than its primary, here because its process is stopped half of the time,
# slows the guest until it is about --lag behind, and no further; the log's ring never stops the guest. One that
# keeps up slows nobody.
#
# Alone: how far a backup is behind is measured.

set -u
cd "${0%/*}/../.." || exit
. tests/integration/lib.sh
. tests/integration/cases.sh
HAMMER=$BUILD/guests/hammer.elf
BOUND_MS=100

# make_pair [OPTION...]: a guest that never rests, without a network.
make_pair()
{
	rm -f "$LAB/arbiter/"*
	address b
	launch a primary "${pair[@]}" --memory 16M --kernel "$HAMMER" --append seconds=300 --standby "$ADDRESS" --lag $BOUND_MS "$@"
	launch b standby "${pair[@]}" --listen "$ADDRESS"
	wait_protected a b 60
}

# watch SECONDS: looks at the primary ten times a second, or as often as a slow machine can; leaves the median and
# the ninth tenth of the lag in `lag` and `high`, and the share of all that time that the guest slept in `slowed`.
watch()
{
	local began slept end=$((SECONDS + $1))
	: >"$LAB/lags"
	began=$(date +%s%N) slept=$(slowed_ms)
	while [ "$SECONDS" -lt "$end" ]; do
		host_status a lag_ms >>"$LAB/lags"
		sleep 0.1
	done
	slowed=$((($(slowed_ms) - slept) * 100000000 / ($(date +%s%N) - began)))
	read -r lag high < <(sort -g "$LAB/lags" | awk '{ v[NR] = $1 }
		END { printf "%d %d\n", v[int((NR + 1) / 2)], v[int(NR * 9 / 10)] }')
}

between()
{
	[ "${1:-x}" -ge "$2" ] && [ "$1" -le "$3" ] || { echo "$1 is not from $2 to $3"; return 1; }
}

slowed_ms()
{
	host_status a slowed_ms | cut -d . -f 1
}

exits()
{
	host_status a exits
}

not_slowed()
{
	[ "$(host_status a slowed_percent)" = 0 ]
}

both_have_their_roles()
{
	wait_protected a b 1
}

# slices PID: stopped half of the time.
slices()
{
	while kill -STOP "$1"; do
		sleep 0.05
		kill -CONT "$1"
		sleep 0.05
	done 2>/dev/null
}

skip_all_if_lacking "the guest is slowed for a slow backup"
lab_begin

# A guest with little to do.
start_primary a dop0 b --lag $BOUND_MS && start_standby b dop1 b a
check "a pair with a guest of little to do" wait_protected a b 60
start_client --rate 50 --seconds 8
sleep 2
watch 5
check "a backup that keeps up slows nobody" between "$slowed" 0 5
check "and is not behind" between "$lag" 0 $BOUND_MS
check "its client is content" finish_client
echo "figure keeps_up_lag_ms=$lag high=$high slowed_percent=$slowed"
stop_host b
stop_host a

# A guest that never rests, and a backup that does.
pair=(--name "$VM" "${PAIR_OPTIONS[@]}" --console - --heartbeat-timeout 10000)

check "a pair with a ring of 4 MiB" make_pair --ring 4M
slices "${HOST_PID[b]}" &
slicer=$!
sleep 5
before=$(exits)
watch 12
after=$(exits)
check "a backup with half of its time slows the guest" between "$slowed" 10 90
check "its lag is about the bound" between "$lag" 0 $((3 * BOUND_MS))
check "and stays within some times the bound" between "$high" 0 $((6 * BOUND_MS))
check "the guest goes on meanwhile" test "$after" -gt "$before"
check "the ring never stops the guest" equal "the number of stops" "$(host_status a ring_stops)" 0
echo "figure slices_lag_ms=$lag high=$high slowed_percent=$slowed exits_per_s=$(((after - before) / 12))"
kill "$slicer"
wait "$slicer" 2>/dev/null
kill -CONT "${HOST_PID[b]}"
check "a backup that has caught up slows nobody any more" until_true 60 not_slowed
check "both have their roles still" both_have_their_roles
check "the status tells how long the guest was slowed" \
	test "$(slowed_ms)" -gt 1000
stop_host b
stop_host a
end_cases
