#!/bin/bash
#
# The primary's host stands still, and thaws when its backup has long gone live: it must halt without having
# sent anything more.

. "${0%/*}/../lab.sh"
lab_boot "a host that thaws after the takeover is deposed"

start_standby second b
start_primary first a
check "two hosts protect a guest" wait_protected first second 60
start_client b --rate "$LAB_RATE" --seconds 20 --deadline 40 --wait 40
check "the client is served" answered_beyond 100
freeze_host a
check "the backup goes live when the primary's host stands still" wait_role second solo 30
sleep 2
thaw_host a
check "the deposed primary halts" ended_with first 5 40
check "the new one stays live" wait_role second solo 5
check "the client goes on" finish_client 90
check "every request is answered, and counts once" equal "requests without an answer" "$(summary lost)" 0
echo "figure max_gap_ms=$(summary max_gap_ms) pause_ms=$(summary pause_ms)"
lab_finish
