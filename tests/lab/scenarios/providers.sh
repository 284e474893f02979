#!/bin/bash
#
# The suite that every provider has to pass, over an RDMA stack: a machine is both ends for itself. On the
# way the same over tcp, since both machines' kernel is another one than ours.

. "${0%/*}/../lab.sh"
suites=$(cd "$BUILD" 2>/dev/null && ls tests/unit/transport/test_{provider,provider_stress,append_path} 2>/dev/null)
[ -n "$suites" ] || { echo "skip the providers' suite passes over soft-RoCE: build it with: make unit"; exit 0; }
lab_boot "the providers' suite passes over soft-RoCE"

for suite in $suites; do
	check "${suite##*/} passes over soft-RoCE" on_a "/build/$suite \"rdma:\$MY_LOG:7800\"" 240
	check "${suite##*/} passes over tcp" on_b "/build/$suite \"tcp:\$MY_LOG:7800\"" 240
done
lab_finish
