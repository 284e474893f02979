#!/bin/bash
#
# A host that was killed comes back with a standby, the guest is protected again, and outlives the other
# host too. A client sees none of it but two pauses.

. "${0%/*}/../lab.sh"
lab_boot "a guest outlives both its hosts, one after the other"

start_standby second b
start_primary first a
check "two hosts protect a guest" wait_protected first second 60
start_client b --rate "$LAB_RATE" --seconds 10 --deadline 40 --wait 40
answered_beyond 50 >/dev/null
kill_host a
check "the backup goes live when the primary's host is killed" wait_role second solo 30
check "the client by the second host has seen nothing wrong" finish_client 90

boot_host a
await_boot a
start_standby third a
check "a standby on the returned host protects the guest again" wait_protected second third 60
start_client a --shared --rate "$LAB_RATE" --seconds 15 --deadline 40 --wait 40
answered_beyond 50 >/dev/null
kill_host b
check "it goes live when the second host is killed" wait_role third solo 30
check "the client by the returned host has seen nothing wrong" finish_client 90
check "generation 3 is live" equal generation "$(host_status third generation)" 3
lab_finish
