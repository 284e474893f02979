#!/bin/bash
#
# A stock Debian kernel on kvm-amd: from its boot through a shell's day to its power-off, recorded, and
# replayed twice.

. "${0%/*}/../lab.sh"
. "${0%/*}/../guest.sh"
lab_boot "a stock Linux guest is recorded and replayed"
guest_make day

start_on_a guest 'mkdir /tmp/run && DOPPEL_RUN_DIR=/tmp/run doppel run --kernel /lab/guest.kernel \
	--initrd /lab/guest.initrd --append quiet --console - --record /tmp/recording --name linux >/lab/console'
check "it boots, works and switches itself off" ended guest 240
check "a script's pipes, forks, signals and floating point work" grep -aq 'floating point 8.178368' "$LAB/console"
check "its signal comes, and its children end as they should" \
	test "$(grep -ac 'guest: a signal\|guest: child \([1-5]\) ended with \1' "$LAB/console")" = 6
check "it has a clock that is cheaper than its timer" grep -aq 'clock source acpi_pm' "$LAB/console"
seconds=$(sed -n "s/^guest: \([0-9]*\) s since 1970.*/\1/p" "$LAB/console" | tail -n 1)
check "and knows the time of day" test "$(($(date +%s) - ${seconds:-0}))" -lt 300
for number in first second; do
	start_on_a "$number" "doppel replay /tmp/recording >/lab/console.$number"
	check "its $number replay finds every digest equal" ended "$number" 240
	check "and says the same, byte for byte" cmp "$LAB/console" "$LAB/console.$number"
done
sed -n 's/^doppel: replayed/figure/p' "$LAB/second/log"
lab_finish
