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
outlive_host a second
lab_finish
