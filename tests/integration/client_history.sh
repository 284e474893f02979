#!/bin/bash
#
# The client's checks, with histories that they must refuse or accept: checks that let everything pass
# would make every test built on the client worthless. Needs neither root nor KVM.

set -u
cd "${0%/*}/../.." || exit
CLIENT=${BUILD:-build}/tests/client/client
passed=0 failed=0

# finds NAME WORDS: the history on standard input is refused, and each complaint has one of WORDS (an
# extended regular expression); without WORDS it is accepted.
finds()
{
	local output complaints
	output=$("$CLIENT" check - 2>&1)
	complaints=$(grep '^violation: ' <<<"$output")
	if [ -z "$2" ] && grep -q ' violations=0$' <<<"$output"; then
		passed=$((passed + 1))
	elif [ -n "$2" ] && [ -n "$complaints" ] && ! grep -Evq "$2" <<<"$complaints"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		printf 'failed: %s\n%s\n' "$1" "$output"
	fi
}

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

finds answers_in_another_order_than_the_requests_are_accepted '' <<'END'
base 0 0
add 1 5 100 900 12 1
add 2 7 110 200 7 1
get 120 800 7 1 1
get 130 190 12 2 1
final 12 2
END

finds an_unanswered_add_may_be_in_the_total '' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 7 110 - - 9
add 3 1 120 200 13 1
final 13 3
END

finds an_unanswered_add_may_be_missing '' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 7 110 - - 9
add 3 1 120 200 6 1
final 6 2
END

finds other_clients_may_add_in_a_shared_history '' <<'END'
shared
base 0 0
add 1 5 100 200 105 1
get 300 400 205 3 1
add 2 7 500 600 212 1
final 300 9
END

finds a_forgotten_add_is_found 'overlap|total grew|guest counted' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 5 110 210 5 1
final 5 1
END

finds a_forgotten_last_add_is_found 'final total|total grew|guest counted' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 7 300 400 12 1
final 5 1
END

finds an_add_forgotten_beside_another_client_is_found 'overlap' <<'END'
shared
base 0 0
add 1 5 100 200 105 1
add 2 7 110 210 108 1
final 300 9
END

finds an_add_counted_twice_is_found 'no ADD accounts for it|total grew' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 7 110 210 19 2
add 3 1 300 400 20 1
final 20 3
END

finds an_add_counted_twice_after_its_answer_is_found 'no ADD accounts for it|total grew|guest counted' <<'END'
base 0 0
add 1 5 100 200 5 2
final 10 2
END

finds more_than_the_unanswered_add_is_not_explained_by_it 'no ADD accounts for it|total grew' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 7 110 - - 9
final 13 2
END

finds a_wrong_number_of_adds_is_found 'guest counted' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 7 110 210 12 1
final 12 3
END

finds a_ledger_that_forgot_what_was_before_is_found 'held 1000 |final total' <<'END'
base 1000 3
add 1 5 100 200 5 1
final 5 1
END

finds a_repeat_with_another_answer_is_found 'and later with 12' <<'END'
base 0 0
add 1 5 100 200 5 2 12
final 5 1
END

finds a_total_that_goes_back_is_found 'the total went back' <<'END'
base 0 0
add 1 5 100 200 12 1
add 2 7 300 400 7 1
final 12 2
END

finds a_get_from_an_older_state_is_found 'the total went back' <<'END'
base 0 0
add 1 5 100 200 5 1
get 300 400 0 0 1
final 5 1
END

finds a_total_that_no_order_of_adds_explains_is_found 'a GET at' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 7 110 210 12 1
get 120 220 7 1 1
final 12 2
END

finds a_count_that_belongs_to_another_total_is_found 'a GET at' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 7 110 210 12 1
get 120 220 5 2 1
final 12 2
END

finds a_count_that_goes_back_is_found 'the count went back' <<'END'
shared
base 0 0
get 100 200 5 2 1
get 300 400 6 1 1
final 6 3
END

finds a_clock_that_goes_back_is_found "the guest's clock went back" <<'END'
base 0 0
time 100 200 5000 1
time 150 300 4000 1
time 201 300 4999 1
final 0 0
END

finds an_answer_to_nothing_is_found 'answers nothing' <<'END'
base 0 0
odd ERR what
final 0 0
END

echo "client_history: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
