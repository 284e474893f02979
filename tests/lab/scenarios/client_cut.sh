#!/bin/bash
#
# The link of heartbeats and clients is cut while the log lives. One side remains live, and a client at its
# host sees nothing but a pause; one at the other host waits until the link is restored.

. "${0%/*}/../lab.sh"
lab_boot "a cut of the heartbeats' link leaves one live side"

start_standby second b
start_primary first a
check "two hosts protect a guest" wait_protected first second 60
start_client b --rate "$LAB_RATE" --seconds 20 --deadline 40 --wait 40
check "the client is served" answered_beyond 100
cut_link client
check "one side goes on alone, the other one halts" one_survives first second 40
sleep 2
restore_link client
check "the client goes on" finish_client 90
check "every request is answered, and counts once" equal "requests without an answer" "$(summary lost)" 0
echo "figure survivor=$(survivor) max_gap_ms=$(summary max_gap_ms)"
lab_finish
