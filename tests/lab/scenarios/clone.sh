#!/bin/bash
#
# How long a guest with 256 MiB of memory, nearly all of it zero, stands still while it is copied to a standby,
# and how much goes over the link.

. "${0%/*}/../lab.sh"
lab_boot "a guest with 256 MiB is cloned over the link"

# link_bytes X: that have come in by the log's link.
link_bytes()
{
	on "$1" 'cat /sys/class/net/log/statistics/rx_bytes'
}

start_primary first a --memory 256M
sleep 3
before=$(link_bytes b)
start_standby second b
check "two hosts protect a guest with 256 MiB" wait_protected first second 120
after=$(link_bytes b)
check "what is zero is not sent" test $((after - before)) -lt $((16 << 20))
sed -n "s/.*protected by .*: \([0-9.]*\) MiB copied, the guest stood still for \([0-9.]*\) ms/figure guest_MiB=256 copied_MiB=\1 link_bytes=$((after - before)) stood_still_ms=\2/p" \
	"$LAB/first/log"
lab_finish
