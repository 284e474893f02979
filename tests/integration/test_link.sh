#!/bin/bash
#
# A pair whose log goes over a slow link, which is the link model in front of tcp: the guest is copied at
# the link's rate, what it answers waits for the link's delay, and the backup takes over all the same.
#
# Alone: latency is measured.

set -u
cd "${0%/*}/../.." || exit
RATE_MBIT=100 DELAY_MS=5
TRANSPORT=link:rate=${RATE_MBIT}M,delay=${DELAY_MS}ms/tcp
. tests/integration/lib.sh
. tests/integration/cases.sh
user_kvm

skip_all_if_lacking "a pair over a slow link"
lab_begin
# Deaths are seen by the connection; a machine that is busy with other tests is no death.
patient=(--heartbeat-timeout 10000)
start_primary a dop0 b "${patient[@]}"
start_standby b dop1 b a "${patient[@]}"
check "a pair over $TRANSPORT forms" wait_protected a b 60
clone_ms=$(host_status a clone_ms)
least=$(($(host_status a clone_bytes) * 8 / (RATE_MBIT * 1000)))
check "its clone takes the time that the link needs" test "${clone_ms%.*}" -ge "$least"
start_client --rate 100 --seconds 60
sleep 3
check "both have their roles under load" wait_protected a b 1
kill_hard a
check "the backup goes live" wait_role b solo 60
sleep 1
check "the client has seen nothing of all this" finish_client
check "its answers have waited for the log's way there and the ack's way back" \
	test "$(summary p50_us)" -ge $((2 * DELAY_MS * 1000))
echo "figure clone_ms=$clone_ms link_ms=$least p50_us=$(summary p50_us) pause_ms=$(summary pause_ms)"
end_cases
