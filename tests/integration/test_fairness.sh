#!/bin/bash
#
# A guest that computes for long without leaving KVM is interrupted all the same: alone at once, recorded
# or protected by resyncs (engine/resync.h). ledger computes until its own timer has ticked, again and again;
# nobody would ever hear of it if it were not interrupted. It checks what it works on.
#
# Alone: pauses are measured.

set -u
cd "${0%/*}/../.." || exit
. tests/integration/lib.sh
. tests/integration/cases.sh
compute=(--append compute=3)

# resyncs NAME: how many there were.
resyncs()
{
	host_status "$1" resyncs
}

at_least()
{
	[ "${1:-0}" -ge "$2" ] || { echo "$1 are less than $2"; return 1; }
}

# figures NAME WHAT
figures()
{
	local count pages total
	count=$(resyncs "$1") pages=$(host_status "$1" pages) total=$(host_status "$1" total_stop_ms)
	echo "figure $2: resyncs=$count pages_each=$((${pages:-0} / (${count:-0} + (${count:-0} == 0))))" \
		"last_stop_ms=$(host_status "$1" last_stop_ms) longest_stop_ms=$(host_status "$1" longest_stop_ms)" \
		"total_stop_ms=$total"
}

content()
{
	finish_client || { cat "$LAB/client/summary"; return 1; }
}

replays()
{
	"$DOPPEL" replay "$LAB/recording" >"$LAB/replayed" 2>"$LAB/replay.log" || { cat "$LAB/replay.log"; return 1; }
	grep -q 'every digest matched' "$LAB/replay.log"
}

skip_all_if_lacking "a guest that computes is interrupted"
lab_begin
start_alone alone dop0 "${compute[@]}" --console -
start_client --rate 60 --seconds 60
check "alone it serves its clients" until_true 60 grep -q 't=2s' "$LAB/alone/out"
check "without a resync" equal resyncs "$(resyncs alone)" 0
check "and their answers are right" content
stop_host alone

start_alone recorded dop2 "${compute[@]}" --console - --record "$LAB/recording"
start_client --rate 60 --seconds 60
check "recorded it serves them by resyncs" until_true 60 grep -q 't=3s' "$LAB/recorded/out"
figures recorded recorded
check "of which there are many" at_least "$(resyncs recorded)" 20
check "and the answers are right" content
stop_host recorded
check "its recording replays with every digest equal" replays
check "and prints the same" cmp "$LAB/recorded/out" "$LAB/replayed"

start_standby b dop1 b a
start_primary a dop0 b "${compute[@]}"
check "a backup joins it" wait_protected a b 60
start_client --rate 60 --seconds 120
sleep 4
figures a protected
check "protected it is interrupted by resyncs" at_least "$(resyncs a)" 50
kill_hard a
check "its backup goes live" wait_role b solo 60
start_standby c dop2 a b
check "and is protected again" wait_protected b c 60
sleep 2
check "by resyncs too" at_least "$(resyncs b)" 20
kill_hard b
check "a second time" wait_role c solo 60
sleep 1
check "no answer is lost or wrong" content
echo "figure pause_ms=$(summary pause_ms) max_gap_ms=$(summary max_gap_ms)"
end_cases
