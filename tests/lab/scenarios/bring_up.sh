#!/bin/bash
#
# Two machines, an RDMA stack and a KVM in each, and a link between them that carries RDMA.

. "${0%/*}/../lab.sh"
lab_boot "two machines come up with soft-RoCE between them"

for machine in a b; do
	check "machine $machine has an RDMA device on the log's link" \
		on "$machine" 'rdma link show rxe0/1 | grep "state ACTIVE .* netdev log"'
	check "machine $machine has a KVM" on "$machine" 'test -c /dev/kvm && grep -w svm /proc/cpuinfo'
	check "machine $machine reaches the other one by both links" \
		on "$machine" 'ping -c 2 -W 2 $PEER_LOG && ping -c 2 -W 2 $PEER_NET'
	check "the directory that both see is theirs" on "$machine" 'echo "$ME" >/lab/arbiter/$ME && ln /lab/arbiter/{$ME,link_$ME}'
done
check "what one machine writes there the other one reads" on_b 'grep a /lab/arbiter/link_a'

# A client that comes too soon finds nobody, and ends. One of perftest's may take its server with it, or leave it
# waiting for a word that will not come, as the next client then does too.
patiently()
{
	echo "for i in {1..50}; do timeout 15 $1 && exit; sleep 0.2; done; exit 1"
}

start_on_b server 'rping -s -a $MY_LOG -C 100 -v'
check "a hundred round trips by RDMA reads and writes" \
	on_a "$(patiently 'rping -c -a $PEER_LOG -C 100 -v | grep -c "ping data"')" 90
check "and the server has seen them too" ended server

start_on_b bandwidth "$(patiently 'ib_write_bw -R -s 65536 -n 500')"
check "ib_write_bw runs" on_a "$(patiently 'ib_write_bw -R -s 65536 -n 500 $PEER_LOG')" 90
grep -h '^ 65536' "$LAB"/.command.*/out | awk '{ print "figure ib_write_bw_64k_MBs=" $4 }'
start_on_b latency "$(patiently 'ib_write_lat -R -s 64 -n 2000')"
check "ib_write_lat runs" on_a "$(patiently 'ib_write_lat -R -s 64 -n 2000 $PEER_LOG')" 90
grep -h '^ 64 ' "$LAB"/.command.*/out | awk '{ print "figure ib_write_lat_64_us=" $5 }'

cut_link log
check "a cut link carries nothing" on_a '! ping -c 1 -W 1 $PEER_LOG && ping -c 1 -W 2 $PEER_NET'
restore_link log
check "and carries again when it is restored" on_a 'for i in 1 2 3 4 5; do ping -c 1 -W 2 $PEER_LOG && exit; done; false'
lab_finish
