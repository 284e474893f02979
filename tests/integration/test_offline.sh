#!/bin/bash
#
# A recording without its guest's host: it is replayed to its end, whose console output is the recorded run's
# byte for byte, or until a place in the log or a time of the guest; and its entries are named in words.

set -u
cd "${0%/*}/../.." || exit
. tests/integration/lib.sh
. tests/integration/cases.sh

# replay NAME [OPTION...]: its console is in $LAB/NAME.out, what it says in $LAB/NAME.log.
replay()
{
	local name=$1
	shift
	"$DOPPEL" replay "$LAB/recording" "$@" >"$LAB/$name.out" 2>"$LAB/$name.log"
}

# said NAME PATTERN: in one line and nothing else.
said()
{
	grep -Eq "$2" "$LAB/$1.log" && equal "the number of lines" "$(wc -l <"$LAB/$1.log")" 1
}

# is_beginning NAME: its console is what the recorded run wrote first.
is_beginning()
{
	cmp -n "$(stat -c %s "$LAB/$1.out")" "$LAB/$1.out" "$LAB/recorded/out"
}

# field NAME: of an entry, in $line.
field()
{
	sed -n "s/.*\b$1=\([^ :]*\).*/\1/p" <<<"$line"
}

# every_entry_has_words: and so does each kind that a guest of this kind makes.
every_entry_has_words()
{
	local kind
	if grep -Evn '^lsn=[0-9]+ pos=[0-9]+ time=([0-9]+\.[0-9]{6}|-) [A-Z_]+ len=[0-9]+ digest=[0-9a-f]{8}: .' \
		"$LAB/dumped"; then
		return 1
	fi
	for kind in TICK CLOCK OUTPUT MARK RELEASED NET_RX END; do
		grep -q " $kind " "$LAB/dumped" || { echo "there is no $kind"; return 1; }
	done
}

skip_all_if_lacking "a recording is replayed offline"
lab_begin

# A guest with a network, for the words; one that writes to its console for the rest.
start_alone net dop0 --record "$LAB/frames"
start_client --rate 50 --seconds 3
check "a client is served" await_client
check "its guest ends in order" stop_host net
"$DOPPEL" dump "$LAB/frames" >"$LAB/dumped"
check "its recording can be dumped" equal status $? 0
check "every entry is named in words" every_entry_has_words
check "frames are named by what they carry" grep -Eq \
	'NET_RX .*: frame of [0-9]+ bytes, (UDP|TCP) 10\.77\.0\.[0-9]+:[0-9]+ to 10\.77\.0\.2:[0-9]+' "$LAB/dumped"
check "outputs are named by device and count" grep -Eq 'OUTPUT .*: [0-9]+ frames? to the network' "$LAB/dumped"

launch recorded run --memory 16M --kernel "$BUILD/guests/hammer.elf" --append seconds=2 --console - \
	--record "$LAB/recording"
check "a guest is recorded" ends_with recorded 0
check "it has written to its console" test -s "$LAB/recorded/out"
"$DOPPEL" dump "$LAB/recording" >"$LAB/dumped"
check "it is replayed" replay all
check "that is said in one line" said all 'every digest matched$'
check "the replay writes what the recorded run wrote" cmp "$LAB/recorded/out" "$LAB/all.out"

# An input two thirds into the log: the guest stands where it would be applied, and the entry before it has
# the digest.
line=$(awk -v n=$(($(wc -l <"$LAB/dumped") * 2 / 3)) 'NR > n && / TICK /' "$LAB/dumped" | sed q)
lsn=$(field lsn) position=$(field pos)
line=$(grep -B 1 "^lsn=$lsn " "$LAB/dumped" | sed q)
digest=$(field digest) time=$(field time)
where="stopped before LSN $lsn, at position $position, guest time $time s, rip 0x[0-9a-f]+, digest $digest: "
check "it is replayed until LSN $lsn" replay first --until "$lsn"
check "where that is is said" said first "$where[0-9]+ entries replayed, every digest matched$"
check "its console has what was written up to there" is_beginning first
check "it is replayed until there again" replay second --until "$lsn"
check "that is the same place" cmp "$LAB/first.log" "$LAB/second.log"
check "it is replayed until a time" replay time --until "${time}s"
check "where that is is said too" said time 'stopped before LSN [0-9]+, at position [0-9]+, guest time '
check "that is no later" awk -v most="$time" '{ exit !match($0, /guest time [0-9.]+/) ||
	substr($0, RSTART + 11, RLENGTH - 11) + 0 > most + 0 }' "$LAB/time.log"
check "its console has what was written until then" is_beginning time
check "until behind the end is until the end" replay beyond --until 1000000s
check "and that is said" grep -q 'that is before --until' "$LAB/beyond.log"

# Progress.
check "it is replayed with progress" replay progress --progress
check "that tells how far it is" grep -Eq 'replayed [0-9]+ %: LSN [0-9]+ of [0-9]+, position' "$LAB/progress.log"
if command -v script >/dev/null; then
	script -qec "$DOPPEL replay $LAB/recording >$LAB/terminal.out" /dev/null </dev/null >"$LAB/terminal.log"
	check "on a terminal it tells that by itself" grep -q 'replayed [0-9]* %: LSN' "$LAB/terminal.log"
	check "which changes nothing in the console" cmp "$LAB/recorded/out" "$LAB/terminal.out"
else
	echo "skip on a terminal it tells that by itself: the command 'script' is missing: install bsdutils"
fi
echo "figure entries=$(wc -l <"$LAB/dumped") stopped_at=$lsn"
end_cases
