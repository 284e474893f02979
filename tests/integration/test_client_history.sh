#!/bin/bash
#
# The client's checks, with histories that they must refuse or accept: checks that let everything pass
# would make every test built on the client worthless. Needs neither root nor KVM.

set -u
cd "${0%/*}/../.." || exit
CLIENT=${BUILD:-build}/tests/client/client
. tests/integration/cases.sh

# finds SENTENCE WORDS: the history on standard input is refused, and each complaint has one of WORDS (an
# extended regular expression); without WORDS it is accepted.
finds()
{
	local said complaints
	said=$("$CLIENT" check - 2>&1)
	complaints=$(grep '^violation: ' <<<"$said")
	if [ -z "$2" ] && grep -q ' violations=0$' <<<"$said"; then
		ok "$1"
	elif [ -n "$2" ] && [ -n "$complaints" ] && ! grep -Evq "$2" <<<"$complaints"; then
		ok "$1"
	else
		failed "$1" "$said"
	fi
}

finds "an honest history is accepted" '' <<'END'
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

finds "answers in another order than the requests are accepted" '' <<'END'
base 0 0
add 1 5 100 900 12 1
add 2 7 110 200 7 1
get 120 800 7 1 1
get 130 190 12 2 1
final 12 2
END

finds "an unanswered ADD may be in the total" '' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 7 110 - - 9
add 3 1 120 200 13 1
final 13 3
END

finds "an unanswered ADD may be missing" '' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 7 110 - - 9
add 3 1 120 200 6 1
final 6 2
END

finds "other clients may add in a shared history" '' <<'END'
shared
base 0 0
add 1 5 100 200 105 1
get 300 400 205 3 1
add 2 7 500 600 212 1
final 300 9
END

finds "a forgotten ADD is found" 'overlap|total grew|guest counted' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 5 110 210 5 1
final 5 1
END

finds "a forgotten last ADD is found" 'final total|total grew|guest counted' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 7 300 400 12 1
final 5 1
END

finds "an ADD forgotten beside another client is found" 'overlap' <<'END'
shared
base 0 0
add 1 5 100 200 105 1
add 2 7 110 210 108 1
final 300 9
END

finds "an ADD counted twice is found" 'no ADD accounts for it|total grew' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 7 110 210 19 2
add 3 1 300 400 20 1
final 20 3
END

finds "an ADD counted twice after its answer is found" 'no ADD accounts for it|total grew|guest counted' <<'END'
base 0 0
add 1 5 100 200 5 2
final 10 2
END

finds "more than the unanswered add is not explained by it" 'no ADD accounts for it|total grew' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 7 110 - - 9
final 13 2
END

finds "a wrong number of ADDs is found" 'guest counted' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 7 110 210 12 1
final 12 3
END

finds "a ledger that forgot what was before is found" 'held 1000 |final total' <<'END'
base 1000 3
add 1 5 100 200 5 1
final 5 1
END

finds "a repeat with another answer is found" 'and later with 12' <<'END'
base 0 0
add 1 5 100 200 5 2 12
final 5 1
END

finds "a total that goes back is found" 'the total went back' <<'END'
base 0 0
add 1 5 100 200 12 1
add 2 7 300 400 7 1
final 12 2
END

finds "a GET from an older state is found" 'the total went back' <<'END'
base 0 0
add 1 5 100 200 5 1
get 300 400 0 0 1
final 5 1
END

finds "a total that no order of ADDs explains is found" 'a GET at' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 7 110 210 12 1
get 120 220 7 1 1
final 12 2
END

finds "a count that belongs to another total is found" 'a GET at' <<'END'
base 0 0
add 1 5 100 200 5 1
add 2 7 110 210 12 1
get 120 220 5 2 1
final 12 2
END

finds "a count that goes back is found" 'the count went back' <<'END'
shared
base 0 0
get 100 200 5 2 1
get 300 400 6 1 1
final 6 3
END

finds "a clock that goes back is found" "the guest's clock went back" <<'END'
base 0 0
time 100 200 5000 1
time 150 300 4000 1
time 201 300 4999 1
final 0 0
END

finds "an answer to nothing is found" 'answers nothing' <<'END'
base 0 0
odd ERR what
final 0 0
END

[ "$CASES_FAILED" -eq 0 ]
