#!/bin/sh
# Runs each cmocka program given, shows the failures, and closes with one line of counts. A program's
# exit status is what counts as failed; cmocka's own count of 256 failures would be 0.
#
# With WITH_KVM=1 the programs that find no /dev/kvm run once more, in a machine in QEMU that has one, which takes
# minutes; only that run counts.
passed=0 failed=0 skipped=0 again=

# How many tests cmocka lists as FAILED or SKIPPED in its summary.
listed()
{
	printf '%s\n' "$output" | sed -n "s/^\\[  $1 *\\] \\([0-9]*\\) test(s), listed below:/\\1/p" | awk '{ n += $1 } END { print n + 0 }'
}

for program in "$@"; do
	if output=$(timeout "${TEST_SECONDS:-300}" "$program" 2>&1); then
		status=0
	else
		status=$?
	fi
	p=$(printf '%s\n' "$output" | grep -c '^\[       OK \]')
	f=$(listed FAILED)
	s=$(listed SKIPPED)
	if [ "$status" -ne 0 ] || [ "$f" -ne 0 ] || [ $((p + s)) -eq 0 ]; then
		printf '%s\n' "$output"
		echo "failed: $program (status $status); run it alone to see it again"
		[ "$f" -gt 0 ] || f=1
	elif [ -n "${WITH_KVM:-}" ] && printf '%s\n' "$output" | grep -q '^skip: /dev/kvm'; then
		again="$again $program"
		continue
	else
		printf '  ok %s (%d)\n' "${program##*/}" "$p"
		printf '%s\n' "$output" | grep '^skip:' || true
	fi
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
if [ -n "$again" ]; then
	echo "  no /dev/kvm here: the others in a machine in QEMU"
	counts=$(mktemp)
	# shellcheck disable=SC2086  # a list of words
	WITH_KVM='' TEST_SECONDS=600 tests/lab/with_kvm.sh "$0" $again 2>&1 | tee "$counts" | grep -v ' skipped$'
	# shellcheck disable=SC2046  # six words
	set -- $(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$counts" | tail -n 1)
	if [ $# -eq 0 ]; then
		echo "failed: that machine has not come to the end"
		set -- 0 passed, 1 failed, 0 skipped
	fi
	rm -f "$counts"
	passed=$((passed + $1)) failed=$((failed + $3)) skipped=$((skipped + $5))
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
