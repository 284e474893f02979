#!/bin/bash
#
# The backup's host stands still, the primary goes on alone, and the backup thaws: it must not go live, and a
# standby on its host can take its place.

. "${0%/*}/../lab.sh"
lab_boot "a backup that thaws when the primary has gone on alone halts"

start_standby second b
start_primary first a
check "two hosts protect a guest" wait_protected first second 60
start_client a --rate "$LAB_RATE" --seconds 20 --deadline 40 --wait 40
check "the client is served" answered_beyond 100
freeze_host b
check "the primary goes on alone" wait_role first solo 30
sleep 2
thaw_host b
check "the backup halts" ended_with second 5 40
start_standby third b
check "a new standby on its host protects the guest again" wait_protected first third 60
check "the client goes on" finish_client 90
check "every request is answered, and counts once" equal "requests without an answer" "$(summary lost)" 0
echo "figure max_gap_ms=$(summary max_gap_ms) pause_ms=$(summary pause_ms)"
lab_finish
