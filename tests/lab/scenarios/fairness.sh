#!/bin/bash
#
# On kvm-amd and over RDMA a guest that computes for long without leaving KVM is interrupted by resyncs, its
# recording is the same machine again, and it outlives its host.

. "${0%/*}/../lab.sh"
lab_boot "a guest that computes is interrupted"

check "ledger computes, recorded, on machine a" on_a 'mkdir /tmp/run && export DOPPEL_RUN_DIR=/tmp/run
	doppel run --kernel /build/guests/ledger.elf --append compute=2 --console - \
		--record /lab/recording --name fair >/lab/fair.out & pid=$!
	for _ in $(seq 60); do grep -q t=2s /lab/fair.out && break; sleep 1; done
	doppel status fair --json >/lab/fair.status; kill -TERM $pid; wait $pid' 90
check "its timer has ticked" grep -q 't=2s' "$LAB/fair.out"
echo "figure recorded: $(grep -oE '"(resyncs|pages|[a-z]*_stop_ms)": *[0-9.]*' "$LAB/fair.status" | tr -d '"' | tr '\n' ' ')"
check "by resyncs" grep -qE '"resyncs": *[1-9]' "$LAB/fair.status"
check "its replay on machine b finds every digest equal" \
	on_b 'doppel replay /lab/recording 2>&1 >/lab/fair.replayed | grep "every digest matched"' 60
check "and writes what the recorded run wrote" cmp "$LAB/fair.out" "$LAB/fair.replayed"

start_standby second b
start_primary first a --append compute=2
check "two hosts protect it" wait_protected first second 60
start_client b --rate 10 --seconds 25 --deadline 40 --wait 40
check "the client is served by the other host" answered_beyond 50
check "by resyncs too" [ "$(host_status first resyncs)" -gt 10 ]
outlive_host a second
lab_finish
