#!/bin/bash
#
# The demo: a guest outlives two of its hosts, while a client makes requests and checks every answer.
# Run by `make demo`; alone: tests/demo.sh [BUILD]. Under a minute, asks nothing, leaves nothing behind.
# Without /dev/kvm it runs in the lab (tests/lab).
# Exit status: 0 as promised, 1 a promise was broken, 2 this machine lacks something.

set -u
cd "${0%/*}/.." || exit
BUILD=${1:-${BUILD:-build}}
. tests/integration/lib.sh

tell()
{
	printf '\n== %s\n' "$1"
	shift
	[ $# -eq 0 ] || printf '   %s\n' "$@"
}

# kill_and_wait DEAD SURVIVOR: the survivor was the backup and has to be live in the end.
kill_and_wait()
{
	local dead_pid=${HOST_PID[$1]}
	kill_hard "$1"
	wait_role "$2" solo 10 || lab_fail "process ${2^^} did not go live after the kill"
	echo "   Process ${1^^} ($dead_pid) is dead; ${2^^} (${HOST_PID[$2]}) has the guest and is live."
}

client_runs_for()
{
	local until=$((SECONDS + $1))
	while [ "$SECONDS" -lt "$until" ]; do
		running "$CLIENT_PID" || lab_fail "the client ended early"
		sleep 0.2
	done
}

if [ "$(id -u)" -eq 0 ] && ! device_opens /dev/kvm; then
	echo "demo: /dev/kvm cannot be opened, so this runs in the lab: two machines in QEMU, each with a KVM of" \
		"its own, and soft-RoCE between them. Give it some minutes."
	BUILD=$BUILD LAB_SKIP_STATUS=2 exec tests/lab/scenarios/host_returns.sh
fi
lacking=$(lab_lacks)
if [ -n "$lacking" ]; then
	echo "demo: $lacking" >&2
	exit 2
fi
rate=550 window=128
if [ "$(kvm_kind)" = hardware ]; then
	rate=10000 window=2048
fi

lab_begin
tell "One virtual machine, two processes" \
	"A runs the guest. B runs the same instructions a moment later, from A's log of inputs." \
	"Nothing leaves A before B has what it takes to have done the same."
start_primary a dop0 b || lab_fail "the primary did not start"
start_standby b dop1 b a || lab_fail "the standby did not start"
wait_protected a b 15 || lab_fail "A and B did not become a pair"
echo "   A (${HOST_PID[a]}) is the primary, B (${HOST_PID[b]}) is its backup: the guest is protected."

tell "A client adds numbers to a ledger in the guest, $rate a second" \
	"It keeps every request and every answer, and asks again what has none."
start_client --progress --rate "$rate" --window "$window" --seconds 50 2>&1
started=$SECONDS
client_runs_for 4

tell "kill -9 of A: its host is gone, in the middle of everything"
kill_and_wait a b
client_runs_for 1

tell "A new standby, C, joins the running guest"
start_standby c dop0 a b || lab_fail "the new standby did not start"
wait_protected b c 15 || lab_fail "B and C did not become a pair"
echo "   B is the primary, C (${HOST_PID[c]}) is its backup: protected again."
client_runs_for 3

tell "kill -9 of B as well"
kill_and_wait b c
client_runs_for 1
client_runs_for $((started + 12 - SECONDS))

tell "Was anything lost, or counted twice?" \
	"The client compares all its answers with one another and with the guest's last total."
finish_client || lab_fail "the client found: $(cat "$LAB/client/summary")"
pauses=$(summary pause_ms)
cat <<END
   $(summary adds) ADDs ($(summary adds_per_s) a second): each is in the total of $(summary total) exactly once.
   Through both kills the total and the guest's clock never went back.
   After the kills the client heard nothing for ${pauses%,*} ms and for ${pauses#*,} ms.

demo: requests=$(summary requests) answered=$(summary answered) lost=$(summary lost) \
repeated=$(summary repeated) failovers=2 pause_ms=$pauses
END
