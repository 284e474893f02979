#!/bin/bash
. "${0%/*}/../lab.sh"
. "${0%/*}/../guest.sh"
LAB_MEMORY=2G VM=guest
lab_boot "servers outlive their hosts"
guest_make servers usr/bin/redis-server usr/sbin/lighttpd usr/bin/memcached

keys() { echo "/run/$1/keys <>/run/$1/keys"; }
start_standby second b --console - '<>/run/second/keys'
start_host first a primary --kernel /lab/guest.kernel --initrd /lab/guest.initrd --standby "$(log_address b)" --console - '<>/run/first/keys'
check "two hosts protect a guest" wait_protected first second 60
serving() { grep -aq "guest: serving" "$LAB/first/out"; }
check "it serves" until_true 120 serving
cat $LAB/first/out | tail -5
in_outside ping -c 5 -i 0.2 10.77.0.2 &
wait $!
time (in_outside "$IMAGE_KERNEL/busybox" wget -q -O - http://10.77.0.2/file | md5sum)
(in_outside $GUEST_PACKAGES/usr/bin/redis-benchmark -h 10.77.0.2 -n 2000 -c 4 -t set,get -q) 
on_a 'DOPPEL_RUN_DIR=/run/first doppel status guest'
on_b 'DOPPEL_RUN_DIR=/run/second doppel status guest'
on_a 'top -b -n 1 | head -15'
kill_host a
check "the backup goes live when the primary's host is killed" wait_role second solo 30
(in_outside ping -c 5 -i 0.2 10.77.0.2) &
wait $!
time (in_outside "$IMAGE_KERNEL/busybox" wget -q -O - http://10.77.0.2/file | md5sum)
on_b 'echo "echo \$((6*7)) \$(uptime)" >/run/second/keys; sleep 2'
tail -5 $LAB/second/out
tail -5 $LAB/*/log
LAB_SHELL= lab_finish
