#!/bin/bash
#
# What protection costs, and how long a failover takes: figures, not verdicts. Run by `make bench`; alone:
# tests/bench.sh [ROUNDS [SECONDS]]. Two minutes and a half, asks nothing, leaves nothing behind.
#
# Each round measures the same guest alone (`doppel run`), with a backup at commit level `received`, and at
# `replayed`, one after the other in the same network, so that a machine that becomes busy harms all three;
# and each of them at a steady rate that leaves the processors time, with always one request without an
# answer, and with always several. Then the primary dies several times, in two ways: killed, which its
# backup sees at once on one machine, and frozen, which only the heartbeats' silence tells, as when a whole
# host is gone.
#
# Exit status: 0 measured, 1 something went wrong, 2 this machine lacks something.

set -u
cd "${0%/*}/.." || exit
. tests/integration/lib.sh
. tests/figures.sh
user_kvm

ROUNDS=${1:-5} EACH=${2:-2}
STEADY=250 # requests a second
MANY=16    # requests without an answer
DEATHS=4 TIMEOUT_MS=500

# above NAME LIMIT: whether the median is above the limit.
above()
{
	awk -v value="$(middle "$1")" -v limit="$2" 'BEGIN { exit !(value > limit) }'
}

# Nanoseconds of processor time that a process has used.
cpu_ns()
{
	cat "/proc/${HOST_PID[$1]}/task"/*/schedstat 2>/dev/null | awk '{ ns += $1 } END { printf "%.0f", ns }'
}

machine()
{
	machine_line "$(kvm_kind)"
}

# load KIND PACE PROCESS...: the client works for a while; its figures are KIND.PACE.*.
load()
{
	local what=$1.$2 process requests used=() log exits slowed
	local -A paces=([steady]="--rate $STEADY" [one]="--closed 1" [many]="--closed $MANY")
	local options=${paces[$2]}
	shift 2
	for process in "$@"; do
		used+=("$(cpu_ns "$process")")
	done
	log=$(host_status "$1" log_bytes) exits=$(host_status "$1" exits) slowed=$(host_status "$1" slowed_ms)
	# shellcheck disable=SC2086 # several words
	run_client $options --every 0 --seconds "$EACH" ||
		lab_fail "the client found: $(cat "$LAB/client/summary")"
	requests=$(summary adds)
	figure "$what.p50" "$(summary p50_us)"
	figure "$what.p99" "$(summary p99_us)"
	figure "$what.rate" "$(summary adds_per_s)"
	figure "$what.exits" "$(calculate "($(host_status "$1" exits) - $exits) / $requests")"
	for process in "$@"; do
		figure "$what.cpu.$process" \
			"$(calculate "($(cpu_ns "$process") - ${used[0]}) / 1000 / $requests")"
		used=("${used[@]:1}")
	done
	[ -n "$log" ] || return 0
	figure "$what.log" "$(calculate "($(host_status "$1" log_bytes) - $log) / $requests")"
	figure "$what.lag50" "$(host_status "$2" lag_p50_ms)"
	figure "$what.lag99" "$(host_status "$2" lag_p99_ms)"
	figure "$what.slowed" "$(calculate "($(host_status "$1" slowed_ms) - $slowed) / 10 / $EACH")"
}

measure_alone()
{
	local pace
	start_alone a dop0 || lab_fail "the guest did not start"
	for pace in steady one many; do
		load run "$pace" a
	done
	stop_host a
}

measure_pair()
{
	local pace
	start_primary a dop0 b --take-over --commit "$1" || lab_fail "the primary did not start"
	start_standby b dop1 b a || lab_fail "the standby did not start"
	wait_protected a b 20 || lab_fail "A and B did not become a pair"
	for pace in steady one many; do
		load "$1" "$pace" a b
		figure "$1.$pace.added" "$(calculate "$(last "$1.$pace.p50") - $(last "run.$pace.p50")")"
		figure "$1.$pace.ratio" "$(calculate "$(last "$1.$pace.rate") / $(last "run.$pace.rate")")"
	done
	stop_host b
	stop_host a
}

# die KIND NAME SURVIVOR: the figures of one failover but the pause, which the client knows in the end.
die()
{
	local kind=$1 at live replay arbiter
	at=${EPOCHREALTIME/[.,]/}
	if [ "$kind" = killed ]; then
		kill_hard "$2"
	else
		freeze_hard "$2"
	fi
	wait_role "$3" solo 10 || lab_fail "$3 did not go live"
	[ "$kind" = killed ] || kill_hard "$2" frozen
	live=$(host_status "$3" live_at) replay=$(host_status "$3" replay_ms)
	arbiter=$(host_status "$3" arbiter_ms)
	live=$(calculate "$live * 1e3 - $at / 1e3")
	figure "$kind.replay" "$replay"
	figure "$kind.arbiter" "$arbiter"
	figure "$kind.detection" "$(calculate "$live - $replay - $arbiter")"
	figure "$kind.live" "$live"
}

measure_failovers()
{
	local n=0 kind kinds=() pauses pause
	start_primary h0 dop0 h1 --take-over --heartbeat-timeout $TIMEOUT_MS ||
		lab_fail "the primary did not start"
	start_client --rate 200 --seconds 120
	while [ "$n" -lt $((2 * DEATHS)) ]; do
		kind=killed
		[ $((n % 2)) -eq 0 ] || kind=frozen
		kinds+=("$kind")
		start_standby "h$((n + 1))" "dop$(((n + 1) % 2))" "h$((n + 1))" "h$((n + 2))" \
			--heartbeat-timeout $TIMEOUT_MS || lab_fail "the standby did not start"
		wait_protected "h$n" "h$((n + 1))" 20 || lab_fail "h$n found no backup"
		sleep 0.5
		die "$kind" "h$n" "h$((n + 1))"
		n=$((n + 1))
	done
	finish_client || lab_fail "the client found: $(cat "$LAB/client/summary")"
	IFS=, read -ra pauses <<<"$(summary pause_us)"
	for ((n = 0; n < ${#kinds[@]}; n++)); do
		kind=${kinds[n]} pause=$(calculate "${pauses[n]} / 1e3")
		figure "$kind.pause" "$pause"
		figure "$kind.first" "$(calculate "$pause - $(cut -d ' ' -f $((n / 2 + 2)) <<<"${FIGURES[$kind.live]}")")"
		[ "$kind" = killed ] || figure frozen.beyond "$(calculate "$pause - $TIMEOUT_MS")"
	done
	stop_host "h${#kinds[@]}"
}

# rows PACE ADDED LAG: what is expected of the added latency and of the lag.
rows()
{
	local p=$1
	row "latency p50, us" 0 "" "run.$p.p50" "received.$p.p50" "replayed.$p.p50"
	row "  added" 0 "$2" - "received.$p.added" "replayed.$p.added"
	row "latency p99, us" 0 "" "run.$p.p99" "received.$p.p99" "replayed.$p.p99"
	row "requests/s" 0 "" "run.$p.rate" "received.$p.rate" "replayed.$p.rate"
	row "  to alone" 2 "" - "received.$p.ratio" "replayed.$p.ratio"
	row "log bytes a request" 0 "" - "received.$p.log" "replayed.$p.log"
	row "replay lag p50, ms" 2 "" - "received.$p.lag50" "replayed.$p.lag50"
	row "replay lag p99, ms" 2 "$3" - "received.$p.lag99" "replayed.$p.lag99"
	row "slowed for the lag, %" 1 "" - "received.$p.slowed" "replayed.$p.slowed"
	row "exits a request" 2 "" "run.$p.exits" "received.$p.exits" "replayed.$p.exits"
	row "CPU a request, us" 0 "" "run.$p.cpu.a" "received.$p.cpu.a" "replayed.$p.cpu.a"
	row "  of the backup" 0 "" - "received.$p.cpu.b" "replayed.$p.cpu.b"
}

report()
{
	echo
	printf '%-31s %-22s %-22s %-22s %s\n' "median (least-most) of $ROUNDS" alone received replayed expected
	echo "$STEADY requests a second"
	rows steady "received: under 150" "under 10"
	echo "always one request"
	rows one "received: under 150" ""
	echo "always $MANY requests"
	rows many "" ""
	echo
	printf '%-31s %-22s %-22s %-22s %s\n' "failover, ms, $DEATHS each" killed frozen "" expected
	row "pause" 1 "" killed.pause frozen.pause -
	row "  beyond the timeout of $TIMEOUT_MS" 1 "under 100" - frozen.beyond -
	row "  detection" 1 "" killed.detection frozen.detection -
	row "  replay of the rest" 1 "" killed.replay frozen.replay -
	row "  arbiter and release" 1 "" killed.arbiter frozen.arbiter -
	row "  first answer" 1 "" killed.first frozen.first -
}

lacking=$(lab_lacks)
if [ -n "$lacking" ]; then
	echo "bench: $lacking" >&2
	exit 2
fi
lab_begin
machine
for ((round = 1; round <= ROUNDS; round++)); do
	[ ! -t 2 ] || printf '\rround %s of %s' "$round" "$ROUNDS" >&2
	measure_alone
	measure_pair received
	measure_pair replayed
done
[ ! -t 2 ] || printf '\rfailovers      \r' >&2
measure_failovers
report
