# shellcheck shell=bash
#
# What is wrong, for the tests of it: one line that says what, with what, and what to do; the exit status that `doppel
# --help` documents; and nothing half-started, that is no process, tap, socket or generation. Sourced after lib.sh and
# cases.sh.

# shellcheck disable=SC2034  # they are for the tests
HOST=1 USAGE=2 RECORDING=4 REFUSED=6 NONE=8

# Nothing of a command that has failed is left.
nothing_left()
{
	local left
	left=$(
		ls -A "$LAB/run"
		find "$LAB" -type s
		ls -A "$LAB/arbiter"
		ip -n "$HOSTS" -o link show type tun
		ip netns pids "$HOSTS"
	)
	rm -f "$LAB/arbiter/"* # the next command is not to blame
	[ -z "$left" ] || { echo "left behind: $left"; return 1; }
}

# one_line FILE PATTERN: the file is one line from doppel, in which the pattern is.
one_line()
{
	equal "the number of lines" "$(wc -l <"$1")" 1 &&
		grep -q '^doppel[ a-z]*: ' "$1" && grep -Eq -- "$2" "$1" || { cat "$1"; return 1; }
}

says()
{
	local status=$1 pattern=$2 found
	shift 2
	DOPPEL_RUN_DIR=$LAB/run ip netns exec "$HOSTS" timeout 20 "$@" </dev/null >"$LAB/out" 2>"$LAB/err"
	found=$?
	equal "the exit status" "$found" "$status" && one_line "$LAB/err" "$pattern" && nothing_left ||
		{ cat "$LAB/err"; return 1; }
}

# bad SENTENCE STATUS PATTERN COMMAND [ARGUMENT...]
bad()
{
	local sentence=$1
	shift
	check "$sentence" says "$@"
}

# poke FILE OFFSET BYTE...: changes bytes, each given as octal digits.
poke()
{
	local file=$1 offset=$2
	shift 2
	printf "$(printf '\\%s' "$@")" | dd of="$file" bs=1 seek="$offset" conv=notrunc status=none
}

# bad_begin: what the commands of a test are made of.
bad_begin()
{
	lab_begin
	mkdir "$LAB/run"
	chmod 711 "$LAB"
	guest=(--kernel "$LEDGER")
	arbiter=(--arbiter "dir:$LAB/arbiter")
	primary=("$DOPPEL" primary "${guest[@]}" --standby shm:b "${arbiter[@]}")
	standby=("$DOPPEL" standby --listen shm:b "${arbiter[@]}")
	run=("$DOPPEL" run "${guest[@]}")
}
