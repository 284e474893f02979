#!/bin/bash
#
# The durable log: what the guest has told the world with --commit durable is in the backup's log, even
# when both hosts die at once, and can be replayed; a backup that dies at any step of writing leaves a
# log that can be read; a full log stops nobody and says so; what is no such log is refused.
#
# A process's death is not its host's: the page cache survives it. What a host's death leaves behind is
# the business of tests/unit/transport/test_durable.c, where every unpersisted word is at risk.

set -u
cd "${0%/*}/../.." || exit
. tests/integration/lib.sh
. tests/integration/cases.sh
user_kvm
PLAIN=$BUILD CRASH=${CRASH_BUILD:-build-crash}

use_build()
{
	BUILD=$1 DOPPEL=$1/doppel LEDGER=$1/guests/ledger.elf
}

# kill_all NAME...: in one go, as if the power had failed.
kill_all()
{
	local name pids=()
	for name; do
		pids+=("${HOST_PID[$name]}")
		unset "HOST_PID[$name]"
	done
	{
		kill -KILL "${pids[@]}"
		wait "${pids[@]}"
	} 2>/dev/null
}

end_sides()
{
	local name
	for name in "${!HOST_PID[@]}"; do
		end_quietly "${HOST_PID[$name]}"
		unset "HOST_PID[$name]"
	done
	rm -f "$LAB/arbiter/"*
}

# readable LOG: dump and replay get to its end.
readable()
{
	"$DOPPEL" dump "$LAB/$1" >"$LAB/dumped" || return
	"$DOPPEL" replay "$LAB/$1" >"$LAB/replayed" 2>"$LAB/replay.log" ||
		{ cat "$LAB/replay.log"; return 1; }
	grep -q 'every digest matched' "$LAB/replay.log"
}

at_least()
{
	[ "${1:-0}" -ge "$2" ] || { echo "$1 is less than $2"; return 1; }
}

# frames_sent: by the guest, as the log says that was dumped last.
frames_sent()
{
	sed -n 's/.* OUTPUT .*: \([0-9]*\) frames\{0,1\} to the network .*/\1/p' "$LAB/dumped" |
		awk '{ n += $1 } END { print n + 0 }'
}

# the last total that the guest has written to its console, in the replay
replayed_total()
{
	sed -n '$s/.* total=\(-*[0-9]*\)$/\1/p' "$LAB/replayed"
}

# flood_until SECONDS COMMAND...: sends large frames to the guest's echo port, a thousand after the other,
# until the command is true.
flood_until()
{
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return 1
		ip netns exec "$CLIENTS" bash -c '
			exec 3<>/dev/udp/10.77.0.2/7 4<> <(:)
			payload=$(printf "%01400d" 0)
			for ((i = 0; i < 1000; i++)); do
				printf %s "$payload" >&3
				((i % 20)) || read -rt 0.02 -u 4
			done'
	done
}

log_is()
{
	equal "the log's state" "$(host_status b state)" "$1"
}

said()
{
	grep -q "$2" "$LAB/$1/log"
}

# ends_with_line NAME STATUS TEXT: with one line of it.
ends_with_line()
{
	ends_with "$1" "$2" || return
	equal "lines of $1's log" "$(wc -l <"$LAB/$1/log")" 1 || { cat "$LAB/$1/log"; return 1; }
	grep -q "$3" "$LAB/$1/log" || { cat "$LAB/$1/log"; return 1; }
}

wait_said()
{
	local end=$((SECONDS + 60))
	until said "$1" "$2"; do
		[ "$SECONDS" -lt "$end" ] || { echo "$1 does not say '$2'"; cat "$LAB/$1/log"; return 1; }
		sleep 0.1
	done
}

# launch_standby NAME OPTION...: without a network, for those that are refused.
launch_standby()
{
	local name=$1
	shift
	launch "$name" standby --name "$VM" --listen shm:x "${PAIR_OPTIONS[@]}" "$@"
}

skip_all_if_lacking "what a guest has told the world is in the durable log"
lab_begin
# Deaths are seen by the connection; a machine that is busy with other tests is no death.
patient=(--heartbeat-timeout 10000)

# ---- both hosts die at once ----

start_primary a dop0 b --commit durable "${patient[@]}"
start_standby b dop1 b a --log "$LAB/log" --log-size 64M "${patient[@]}"
check "a pair with --commit durable and --log forms" wait_protected a b 60
check "its primary waits for the log" equal commit "$(host_status a commit)" durable
start_client --rate 300 --seconds 4 --deadline 0.5 2>/dev/null # it will miss its last answers
sleep 3
kill_all a b
await_client
answered=$(summary answered)
check "both are killed under load, and the log is whole" readable log
check "all that the client was told is in the log" at_least "$(frames_sent)" "$answered"
check "there was something to tell" at_least "$answered" 50
echo "figure answered=$answered frames_in_log=$(frames_sent) log_bytes=$(sed -n '$s/^lsn=\([0-9]*\) .*/\1/p' "$LAB/dumped")"
end_sides

export PMEM_IS_PMEM_FORCE=1
start_primary a dop0 b --commit durable "${patient[@]}"
start_standby b dop1 b a --log "$LAB/log" --log-size 64M "${patient[@]}"
unset PMEM_IS_PMEM_FORCE
check "a pair forms whose log is on persistent memory" wait_protected a b 60
check "it is written as such" equal storage "$(host_status b storage)" "persistent memory"
run_client --rate 300 --seconds 2
check "a client finds the guest in order" equal status "$CLIENT_STATUS" 0
sleep 2.5 # the guest writes a line every second
kill_all a b
check "both are killed, and the log has replaced the older one, whole" readable log
check "the replayed guest has the total that the client was told" \
	equal total "$(replayed_total)" "$(summary total)"
end_sides

# ---- the backup dies at every step of writing ----

if [ ! -x "$CRASH/doppel" ]; then
	echo "skip a backup that dies at any step of writing leaves a log that is whole: $CRASH is missing"
else
	use_build "$CRASH"
	rm -f "$LAB/log"
	start_primary a dop0 b --commit durable "${patient[@]}"
	start_client --rate 200 --seconds 120
	for point in log.copied:1 log.settled:1 log.ended:1 log.appended:1 log.settled:2 log.ended:2 \
		log.appended:20 log.settled:50 log.ended:100; do
		DOPPEL_CRASH=$point start_standby b dop1 b a --log "$LAB/log" --log-size 64M "${patient[@]}"
		check "$point: the backup dies there" ends_with b 137
		unset "HOST_PID[b]"
		if [ -e "$LAB/log" ]; then
			check "$point: what it leaves is whole" readable log
		fi
		check "$point: the primary goes on alone" wait_role a solo 60
	done
	start_standby b dop1 b a --log "$LAB/log" --log-size 64M "${patient[@]}"
	check "a new backup writes over what the dead left" wait_protected a b 60
	sleep 1
	kill_hard a
	check "it goes live when the primary dies" wait_role b solo 60
	check "its log is whole then" readable log
	check "the client has seen nothing of all this" finish_client
	end_sides
	use_build "$PLAIN"
fi

# ---- a log that is full ----

rm -f "$LAB/log"
small=(--log "$LAB/log" --log-size 8400K)
start_primary a dop0 b --commit durable --memory 6M "${patient[@]}"
start_standby b dop1 b a "${small[@]}" "${patient[@]}"
check "a pair with a small log forms" wait_protected a b 60
start_client --rate 50 --seconds 60
check "its log becomes full" flood_until 60 log_is lost
check "the backup says so" wait_said b 'the durable log ends at LSN .* is full'
check "the primary says so" wait_said a 'durable log is lost'
check "the primary's status says so" equal commit "$(host_status a commit)" received
sleep 1
check "the guest and its client go on" finish_client
kill_all a b
check "what the full log has is whole" readable log
end_sides

rm -f "$LAB/log"
start_primary a dop0 b --commit durable --memory 6M "${patient[@]}"
start_standby b dop1 b a "${small[@]}" --log-keep newest "${patient[@]}"
check "a pair with a small log that keeps the newest forms" wait_protected a b 60
start_client --rate 50 --seconds 60
check "the backup says that the oldest are dropped" flood_until 60 said b 'has dropped its oldest'
check "the guest and its client go on" finish_client
answered=$(summary answered)
check "its log is still kept" log_is kept
check "and its primary still waits for it" equal commit "$(host_status a commit)" durable
kill_all a b
"$DOPPEL" dump "$LAB/log" >"$LAB/dumped" 2>"$LAB/dump.log"
check "the newest can be dumped" equal status $? 0
check "that the oldest are missing is said" grep -q 'has dropped its entries before LSN' "$LAB/dump.log"
"$DOPPEL" replay "$LAB/log" >/dev/null 2>"$LAB/replay.log"
check "it is not replayed" equal status $? 4
check "and that is said" grep -q 'can be dumped, but not replayed' "$LAB/replay.log"
end_sides

# ---- a log whose storage fails ----

# As a disk's failure the backup's thread gets a SIGBUS where the file has ended.
start_primary a dop0 b --commit durable "${patient[@]}"
start_standby b dop1 b a --log "$LAB/failing" --log-size 64M "${patient[@]}"
check "a pair whose log's storage will fail forms" wait_protected a b 60
start_client --rate 200 --seconds 60
sleep 1
truncate -s 0 "$LAB/failing"
check "the backup says that its log is lost" wait_said b 'the durable log ends at LSN .* its storage has failed'
check "the primary says so too" wait_said a 'durable log is lost'
sleep 1
check "both have their roles still" wait_protected a b 1
check "the guest and its client go on without it" finish_client
end_sides

# ---- what is refused ----

launch_standby size --log "$LAB/log" --log-size 16M
check "a log of another size is refused" ends_with_line size 2 'give the size it has'
VM=other launch_standby vm "${small[@]}"
check "a log of another VM is refused" ends_with_line vm 2 'is of VM ledger, not other'
launch_standby kernel --log "$LEDGER"
check "a file that is no log is refused" ends_with_line kernel 2 'is not a recording'
launch_standby folder --log "$LAB/nowhere/log"
check "a folder that is not there is refused" ends_with_line folder 2 'cannot make a log in'

rm -f "$LAB/log"
start_primary a dop0 b --commit durable "${patient[@]}"
start_standby b dop1 b a "${patient[@]}"
check "a standby without --log refuses --commit durable" wait_said a 'has no --log'
check "and ends, since waiting would not change that" ends_with b 6 60
unset "HOST_PID[b]"
start_standby b dop1 b a "${small[@]}" "${patient[@]}"
check "a log that is too small for the guest is refused" wait_said b 'too small for a guest with 16 MiB'
check "and that standby ends too" ends_with b 6 60
unset "HOST_PID[b]"
check "the guest runs on without" wait_role a solo 60
end_sides
mkdir "$LAB/disk"
whole=$DOPPEL
cat >"$LAB/on_small_disk" <<SCRIPT
#!/bin/bash
exec unshare -m bash -c 'mount -t tmpfs -o size=8M none "$LAB/disk" && exec "$whole" "\$@"' doppel "\$@"
SCRIPT
chmod +x "$LAB/on_small_disk"
TOOL=$LAB/on_small_disk launch_standby disk --log "$LAB/disk/log" --log-size 64M
check "a disk that is too small is refused, before any primary comes" \
	ends_with_line disk 1 'cannot set aside 64 MiB for the log .*No space left'
end_cases
