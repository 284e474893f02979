#!/bin/bash
# tests/run_integration.sh [TEST...]: runs integration tests, all by default, and closes with one line of counts.
# A test is a program that prints a line a case:
#
#     ok SENTENCE
#     failed SENTENCE
#     skip SENTENCE: REASON
#     figure WORDS              shown, not counted
#
# and whatever else helps, and exits with 0 if none failed. What a failed one printed comes behind all
# of them, and once more, directly before the counts, no more of it than says what has failed: of a long run
# the end may be all that is kept. BUILD and CRASH_BUILD name the build folders.
#
# AT_ONCE=N runs N tests beside one another, since most of them mostly wait, and tells of them in their order
# all the same. Then two lines in a test's own text count:
#
#     # Alone: REASON     it runs by itself, behind the others; but not in a machine of its own (cases.sh)
#     # First: REASON     it begins before the others
cd "$(dirname "$0")/.." || exit
export BUILD="${BUILD:-build}" CRASH_BUILD="${CRASH_BUILD:-build-crash}"
[ $# -gt 0 ] || set -- tests/integration/test_*.sh
at_once=${AT_ONCE:-1}
passed=0 failed=0 skipped=0
work=$(mktemp -d) || exit
trap 'kill $(jobs -p) 2>/dev/null; wait; rm -rf "$work"' EXIT
trap 'exit 143' HUP INT PIPE TERM

. tests/kvm.sh
kvm=$(kvm_kind)

# has_machine TEST: it needs a KVM, and has one of its own.
has_machine()
{
	[ "$kvm" = none ] && grep -q '^\. tests/integration/lib.sh' "$1" && ! grep -q '^user_kvm' "$1"
}

# In the order in which they are told of: those that run alone last.
tests=() alone=()
for test; do
	if [ "$at_once" -gt 1 ] && grep -q '^# Alone: ' "$test" && ! has_machine "$test"; then
		alone+=("$test")
	else
		tests+=("$test")
	fi
done
together=${#tests[@]}
tests+=("${alone[@]}")

# In the order in which they begin, by number.
first=() others=()
for n in "${!tests[@]}"; do
	if [ "$at_once" -gt 1 ] && grep -q '^# First: ' "${tests[n]}"; then
		first+=("$n")
	else
		others+=("$n")
	fi
done

# By a test's number: when it began, its status, and how long it took; and by its process the number.
began=() status=() seconds=() reported=0 running=0
declare -A number=()

begin()
{
	timeout "${TEST_SECONDS:-600}" "${tests[$1]}" >"$work/$1" 2>&1 &
	number[$!]=$1 began[$1]=$SECONDS running=$((running + 1))
}

# await_one: the end of whichever test ends first; and tells of all whose turn it is.
await_one()
{
	local pid result n
	wait -n -p pid
	result=$? n=${number[$pid]}
	status[n]=$result seconds[n]=$((SECONDS - began[n])) running=$((running - 1))
	while [ -n "${status[reported]:-}" ]; do
		report "$reported"
		reported=$((reported + 1))
	done
}

# shorten FILE: the sentences that have failed, each with the first lines that explain it, 12 lines at most; of a
# test that has none its last lines.
shorten()
{
	if grep -q '^failed' "$1"; then
		awk '/^failed/ { left = 5 } !/^failed|^    / { left = 0 } left-- > 0' "$1" | head -n 12
	else
		tail -n 5 "$1"
	fi
}

# report N: what a test has come to, in a line or some.
report()
{
	local test=${tests[$1]} output=$work/$1 p f s
	p=$(grep -c '^ok ' "$output")
	f=$(grep -c '^failed ' "$output")
	s=$(grep -c '^skip ' "$output")
	if [ "${status[$1]}" -ne 0 ] || [ "$f" -ne 0 ] || [ $((p + s)) -eq 0 ]; then
		echo "  failed ${test##*/} (status ${status[$1]}, ${seconds[$1]} s)"
		{ echo "== $test, which failed with status ${status[$1]}, said:" && cat "$output"; } >>"$work/reports"
		{ echo "== $test failed with status ${status[$1]}:" && shorten "$output"; } >>"$work/failures"
		[ "$f" -gt 0 ] || f=1
	else
		echo "  ok ${test##*/} ($p, ${seconds[$1]} s)"
		grep -E '^(skip|figure) ' "$output" | sed 's/^/     /'
	fi
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

touch "$work/reports" "$work/failures"
for n in "${first[@]}" "${others[@]}"; do
	[ "$n" -lt "$together" ] || at_once=1
	while [ "$running" -ge "$at_once" ]; do
		await_one
	done
	begin "$n"
done
while [ "$running" -gt 0 ]; do
	await_one
done
cat "$work/reports" "$work/failures"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
