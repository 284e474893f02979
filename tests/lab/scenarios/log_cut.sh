#!/bin/bash
#
# The link of the log is cut while heartbeats and clients live. Either side may win the guest, never both,
# and the client sees nothing but a pause.

. "${0%/*}/../lab.sh"
lab_boot "a cut of the log's link leaves one live side"

start_standby second b
start_primary first a
check "two hosts protect a guest" wait_protected first second 60
start_client b --rate "$LAB_RATE" --seconds 20 --deadline 40 --wait 40
check "the client is served" answered_beyond 100
cut_link log
check "one side goes on alone, the other one halts" one_survives first second 40
check "the client goes on" finish_client 90
check "every request is answered, and counts once" equal "requests without an answer" "$(summary lost)" 0
echo "figure survivor=$(survivor) max_gap_ms=$(summary max_gap_ms)"
restore_link log

# On the host of the one that halted.
case $(survivor) in
first) start_standby third b ;;
*) start_standby third a ;;
esac
check "a new standby protects the guest when the link is back" wait_protected "$(survivor)" third 60
lab_finish
