#!/bin/bash
#
# The KVM of a machine is an AMD-V one, as on real hosts: the same guest from the same log is the same
# guest there, and on the other machine too.

. "${0%/*}/../lab.sh"
lab_boot "a recorded guest repeats itself on kvm-amd"

check "hammer runs, recorded, on machine a" on_a 'mkdir /tmp/run && DOPPEL_RUN_DIR=/tmp/run doppel run \
	--kernel /build/guests/hammer.elf --append seconds=3 --console - --record /lab/recording --name hammer \
	>/lab/hammer.out' 60
check "it has seen its timer" grep -E '^hammer: ticks=[1-9][0-9]{2}' "$LAB/hammer.out"
for machine in a b; do
	check "its replay on machine $machine finds every digest equal" \
		on "$machine" 'doppel replay /lab/recording 2>&1 >/lab/hammer.$ME | grep "every digest matched"' 60
	check "and writes what the recorded run wrote" cmp "$LAB/hammer.out" "$LAB/hammer.$machine"
done
lab_finish
