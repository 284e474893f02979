#!/bin/bash
#
# The backup's host is killed with a durable log on its disk. When it is back, everything is in the log that
# the client was told before.

. "${0%/*}/../lab.sh"
lab_boot "what a client was told is in the log of a host that was killed"

check "host b has a file system" on_b mount_disk
start_standby second b --log /disk/log --log-size 64M
start_primary first a --commit durable
check "two hosts protect a guest, with a durable log" wait_protected first second 60
start_client a --rate "$LAB_RATE" --seconds 10 --deadline 40 --wait 40
check "the client is served" answered_beyond 100
told=$(answers)
kill_host b
check "the primary goes on alone" wait_role first solo 30
check "the client goes on" finish_client 90
boot_host b
await_boot b
check "the log is on the disk of the returned host" on_b "mount_disk && doppel dump /disk/log >/lab/dumped"
sent=$(sed -n 's/.* OUTPUT .*: \([0-9]*\) frames\{0,1\} to the network .*/\1/p' "$LAB/dumped" | awk '{ n += $1 } END { print n + 0 }')
check "all that the client was told is in it" test "$sent" -ge "$told"
check "its replay finds every digest equal" \
	on_b 'doppel replay /disk/log 2>&1 >/dev/null | grep "every digest matched"' 120
echo "figure answers_before_the_kill=$told frames_in_log=$sent"
lab_finish
