#!/bin/bash
#
# The client's checks of a history, each against a history that only it can refuse: a check that lets
# everything pass would make every test built on the client worthless. Needs neither root nor KVM.

set -u
cd "${0%/*}/../.." || exit
CLIENT=${BUILD:-build}/tests/client/client
passed=0 failed=0

# finds NAME WORDS: the history on standard input must be refused, and every complaint be in WORDS, an
# extended regular expression; with no words it must be accepted.
finds()
{
	local output status=1 wanted=$2
	output=$("$CLIENT" check - 2>&1)
	status=$?
	if [ -z "$wanted" ] && [ "$status" -eq 0 ]; then
		passed=$((passed + 1))
	elif [ -n "$wanted" ] && [ "$status" -eq 1 ] && grep -Eq "^violation: .*($wanted)" <<<"$output" &&
		! grep '^violation:' <<<"$output" | grep -Evq "$wanted"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		printf 'failed: %s (status %d)\n%s\n' "$1" "$status" "$output"
	fi
}

# Times are in nanoseconds: a request sent later than another's answer is 100 or more above it.

finds an_honest_history_is_accepted '' <<'END'
base 1000 10
add 1 5 100 200 1005 1
add 2 7 110 190 1012 3 1012
add 3 1 120 300 1013 1
get 250 350 1013 13 1
time 260 360 5000 1
kill 400
add 4 2 1000 1100 1015 9
time 1000 1100 5000 1
get 1200 1300 1015 14 2
final 1015 14
END

finds answers_out_of_order_are_accepted '' <<'END'
base 0 0
add 1 5 100 900 12 1
add 2 7 110 200 7 1
get 120 800 7 1 1
get 130 190 12 2 1
final 12 2
END

finds an_unanswered_add_may_be_in_the_total 'no violation' < <(:) 2>/dev/null
