#!/bin/sh
# tests/run_integration.sh [TEST...]: runs integration tests, all by default, one after the other, and
# closes with one line of counts. A test is a program that prints a line a case:
#
#     ok SENTENCE
#     failed SENTENCE
#     skip SENTENCE: REASON
#
# and whatever else helps, and exits with 0 if none failed. What a failed one printed comes at the end,
# where nobody has to look for it. BUILD and CRASH_BUILD name the build folders.
cd "$(dirname "$0")/.." || exit
export BUILD="${BUILD:-build}" CRASH_BUILD="${CRASH_BUILD:-build-crash}"
[ $# -gt 0 ] || set -- tests/integration/test_*.sh
passed=0 failed=0 skipped=0
output=$(mktemp) reports=$(mktemp)
trap 'rm -f "$output" "$reports"' EXIT
for test in "$@"; do
	start=$(date +%s)
	timeout "${TEST_SECONDS:-420}" "$test" >"$output" 2>&1
	status=$?
	p=$(grep -c '^ok ' "$output")
	f=$(grep -c '^failed ' "$output")
	s=$(grep -c '^skip ' "$output")
	if [ "$status" -ne 0 ] || [ "$f" -ne 0 ] || [ $((p + s)) -eq 0 ]; then
		echo "  failed ${test##*/} (status $status, $(($(date +%s) - start)) s)"
		{ echo "== $test, which failed with status $status, said:" && cat "$output"; } >>"$reports"
		[ "$f" -gt 0 ] || f=1
	else
		echo "  ok ${test##*/} ($p, $(($(date +%s) - start)) s)"
		grep -E '^(skip|figure) ' "$output" | sed 's/^/     /'
	fi
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
cat "$reports"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
