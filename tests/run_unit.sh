#!/bin/sh
# Runs each cmocka program given, shows the failures, and closes with one line of counts. A program's
# exit status is what counts as failed; cmocka's own count of 256 failures would be 0.
passed=0 failed=0 skipped=0

# How many tests cmocka lists as FAILED or SKIPPED in its summary.
listed()
{
	printf '%s\n' "$output" | sed -n "s/^\\[  $1 *\\] \\([0-9]*\\) test(s), listed below:/\\1/p" | awk '{ n += $1 } END { print n + 0 }'
}

for program in "$@"; do
	if output=$(timeout 120 "$program" 2>&1); then
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
	else
		printf '  ok %s (%d)\n' "${program##*/}" "$p"
		printf '%s\n' "$output" | grep '^skip:' || true
	fi
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
