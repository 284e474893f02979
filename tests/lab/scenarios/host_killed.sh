#!/bin/bash
#
# Two hosts protect a guest, the primary's is killed, and a client beside the backup goes on.

. "${0%/*}/../lab.sh"
lab_boot "a guest outlives its host"

start_standby second b
start_primary first a
check "two hosts protect a guest" wait_protected first second 60
start_client b --rate "$LAB_RATE" --seconds 25 --deadline 40 --wait 40
check "the client is served by the other host" answered_beyond 100
kill_host a
check "the backup goes live when the primary's host is killed" wait_role second solo 30
check "the client goes on" finish_client 90
check "every request is answered, and counts once" equal "requests without an answer" "$(summary lost)" 0
echo "figure requests=$(summary requests) answered=$(summary answered) repeated=$(summary repeated) pause_ms=$(summary pause_ms)"
sed -n 's/^\(doppel: \)*\(live as generation .*\)/figure \2/p' "$LAB/second/log"
lab_finish
