#!/bin/bash
#
# Whatever is wrong with a command line, a file or the peer is refused as bad.sh says.

set -u
cd "${0%/*}/../.." || exit
. tests/integration/lib.sh
. tests/integration/cases.sh
. tests/integration/bad.sh
user_kvm
CRASH_BUILD=${CRASH_BUILD:-build-crash}

skip_all_if_lacking "bad input is refused"
bad_begin
(umask 077 && head -c 32 /dev/urandom >"$LAB/key")
key=(--key "$LAB/key")

# ---- the command line ----

bad "no command" $USAGE 'no command' "$DOPPEL"
bad "an unknown command" $USAGE 'no such command: launch' "$DOPPEL" launch
for command in run primary standby replay dump status stop; do
	bad "$command: an unknown option" $USAGE '--speed: no such option' "$DOPPEL" $command --speed 9
	bad "$command: a letter that is no option" $USAGE '-k: no such option' "$DOPPEL" $command -k
	bad "$command: one argument too many" $USAGE ': one argument too many' "$DOPPEL" $command two three four
	check "$command: --help succeeds" "$DOPPEL" $command --help
done
for command in primary standby; do
	for address in rdma:HOST:PORT tcp:HOST:PORT shm:NAME; do
		check "$command: --help tells of $address" grep -q "$address" <("$DOPPEL" $command --help)
	done
done
bad "run without a kernel" $USAGE '--kernel' "$DOPPEL" run
bad "run with an option of another command" $USAGE '--arbiter: no such option' "${run[@]}" "${arbiter[@]}"
bad "an option without its value" $USAGE '--kernel: its value is missing' "$DOPPEL" run --kernel
bad "an option with a value that it does not take" $USAGE '--json=1: it takes no value' "$DOPPEL" status --json=1
bad "primary without a kernel" $USAGE '--kernel' "$DOPPEL" primary --standby shm:b "${arbiter[@]}"
bad "primary without a standby" $USAGE '--standby' "$DOPPEL" primary "${guest[@]}" "${arbiter[@]}"
bad "primary without an arbiter" $USAGE '--arbiter' "$DOPPEL" primary "${guest[@]}" --standby shm:b
bad "standby without an address" $USAGE '--listen' "$DOPPEL" standby "${arbiter[@]}"
bad "standby without an arbiter" $USAGE '--arbiter' "$DOPPEL" standby --listen shm:b
bad "replay without a file" $USAGE 'FILE' "$DOPPEL" replay
bad "dump without a file" $USAGE 'FILE' "$DOPPEL" dump
for size in 0 -1 5 16X 1M1 4G 99999999999999999999 16385K '' M; do
	bad "memory of '$size'" $USAGE "--memory $size: .*1M to 3G" "${run[@]}" --memory "$size"
done
for mac in 52:54:00:12:34 01:00:00:00:00:01 00:00:00:00:00:00 52:54:00:12:34:5g 52:54:00:12:34:567 mac ''; do
	bad "MAC address '$mac'" $USAGE "--mac $mac: " "${run[@]}" --mac "$mac"
done
for name in '' 'a/b' 'a b' ../x "$(printf '%65s' x | tr ' ' x)"; do
	bad "name '${name:0:20}'" $USAGE 'name is 1 to 64' "${run[@]}" --name "$name"
	bad "status of '${name:0:20}'" $USAGE 'name is 1 to 64' "$DOPPEL" status "$name"
done
for size in 0 3M 512K 2G 1; do
	bad "a ring of $size" $USAGE "--ring $size: " "${primary[@]}" --ring $size
done
for level in sometimes RECEIVED ''; do
	bad "commit level '$level'" $USAGE "--commit $level: " "${primary[@]}" --commit "$level"
done
for ms in 0 49 60001 1s -1 ''; do
	bad "a heartbeat timeout of '$ms'" $USAGE "--heartbeat-timeout $ms: " "${standby[@]}" --heartbeat-timeout "$ms"
done
for ms in 0 49 60001 1s -1 ''; do
	bad "a lag of '$ms'" $USAGE "--lag $ms: " "${primary[@]}" --lag "$ms"
done
for until in 1x -5 1.5 s '' 1e3s 99999999999999999999; do
	bad "a replay until '$until'" $USAGE "--until $until: give an LSN" "$DOPPEL" replay file --until "$until"
done
for where in file:x unix: ''; do
	bad "console '$where'" $USAGE "--console $where: " "${run[@]}" --console "$where"
done
bad "a console path that is too long" $USAGE '1 to 107 bytes' "${run[@]}" --console "unix:$LAB/$(printf '%0100d' 1)"
bad "a kernel's command line that is too long" $USAGE 'command line has 3[0-9]* bytes' \
	"${run[@]}" --append "$(printf '%03000d' 1)"

# ---- addresses ----

for address in udp:host:1 shm '' b; do
	bad "standby at '$address'" $USAGE "address $address: no transport" \
		"$DOPPEL" primary "${guest[@]}" "${arbiter[@]}" --standby "$address"
	bad "listening at '$address'" $USAGE "address $address: no transport" \
		"$DOPPEL" standby "${arbiter[@]}" --listen "$address"
done
bad "an impossible name in an address" $USAGE 'shm:a/b: the name must be' "${standby[@]}" --listen shm:a/b
bad "an impossible name of a standby" $USAGE 'shm:a/b: the name must be' "${primary[@]}" --standby shm:a/b
bad "an impossible name of a later standby" $USAGE 'shm:: the name must be' "${standby[@]}" --standby shm:
for where in tcp rdma; do
	bad "a $where address without a port" $USAGE "address $where:10.0.0.2: give $where:HOST:PORT" \
		"${standby[@]}" "${key[@]}" --listen $where:10.0.0.2
	bad "a $where address with an impossible port" $USAGE "address $where:10.0.0.2:65536: give $where:HOST:PORT" \
		"${primary[@]}" "${key[@]}" --standby $where:10.0.0.2:65536
done
bad "a link without a rate or a delay" $USAGE 'address link:shm:b: give link:rate=' "${standby[@]}" "${key[@]}" --listen link:shm:b
bad "heartbeats that reach nobody" $USAGE 'tcp:10.0.0.2:7700: no heartbeat from 127.0.0.1 reaches another host; give --heartbeat' \
	"${primary[@]}" "${key[@]}" --standby tcp:10.0.0.2:7700
bad "placed over shared memory" $USAGE 'shm:b: --commit placed needs RDMA' "${primary[@]}" --commit placed
bad "placed over tcp" $USAGE 'tcp:127.0.0.1:7700: --commit placed needs RDMA' \
	"${primary[@]}" "${key[@]}" --standby tcp:127.0.0.1:7700 --commit placed
if [ -e /dev/infiniband/rdma_cm ]; then
	echo "skip a host without RDMA: this one has it"
else
	bad "listening by RDMA on a host without it" $USAGE \
		'has no RDMA: looked for /dev/infiniband/rdma_cm \(missing\) and for devices \(none\).*or use tcp:127.0.0.1:7700' \
		"${standby[@]}" "${key[@]}" --listen rdma:127.0.0.1:7700
fi
bad "heartbeats from another host's address" $USAGE '192.0.2.1.*--heartbeat' "${primary[@]}" --heartbeat 192.0.2.1
bad "heartbeats from what is no address" $USAGE 'heartbeat address 1.2.3.4.5' "${standby[@]}" --heartbeat 1.2.3.4.5

# ---- the key ----

networks=(tcp:127.0.0.1:7700 link:rate=1G/tcp:127.0.0.1:7700)
# Without a device that is what is told first, as above.
[ ! -e /dev/infiniband/rdma_cm ] || networks+=(rdma:127.0.0.1:7700)
for where in "${networks[@]}"; do
	bad "listening at $where without a key" $USAGE "address $where: .*--key FILE" "${standby[@]}" --listen "$where"
	bad "a standby at $where without a key" $USAGE "address $where: .*--key FILE" "${primary[@]}" --standby "$where"
done
bad "a key that is missing" $USAGE "cannot open the key $LAB/none: No such file" "${standby[@]}" --key "$LAB/none"
head -c 15 "$LAB/key" >"$LAB/short" && chmod 600 "$LAB/short"
bad "a key that is too short" $USAGE "the key $LAB/short has not between 16 and 4096 bytes" "${primary[@]}" --key "$LAB/short"
cp "$LAB/key" "$LAB/public" && chmod 644 "$LAB/public"
bad "a key that others may read" $USAGE "others may read the key $LAB/public; .*chmod 600" "${standby[@]}" --key "$LAB/public"
bad "a key that is a directory" $USAGE "the key $LAB is not a regular file" "${standby[@]}" --key "$LAB"

# ---- the arbiter ----

bad "an arbiter that is no directory's" $USAGE 'unknown arbiter "etcd:x"; known is dir:' "${primary[@]}" --arbiter etcd:x
bad "an arbiter without a path" $USAGE 'unknown arbiter "dir:"' "${standby[@]}" --arbiter dir:
bad "an arbiter that is missing" $USAGE "$LAB/none.*No such file.*make it" "${primary[@]}" --arbiter "dir:$LAB/none"
bad "an arbiter that is a file" $USAGE 'Not a directory' "${standby[@]}" --arbiter "dir:$LEDGER"
mkdir "$LAB/readonly"
bad "an arbiter that cannot be written" $HOST 'readonly.*[Rr]ead-only' unshare -m sh -c \
	"mount --bind '$LAB/readonly' '$LAB/readonly' && mount -o remount,ro,bind '$LAB/readonly' && exec \"\$@\"" - \
	"${primary[@]}" --arbiter "dir:$LAB/readonly"

# ---- the kernel ----

bad "a kernel that is missing" $USAGE "$LAB/none.*No such file" "${primary[@]}" --kernel "$LAB/none"
bad "a kernel that is a directory" $USAGE 'is empty or not a file' "${primary[@]}" --kernel "$LAB"
bad "a kernel that is a text" $USAGE 'neither a bzImage nor an ELF64' "${primary[@]}" --kernel Makefile
for length in 0 1 16 63 64 100 176 4096 8000 16384; do
	head -c "$length" "$LEDGER" >"$LAB/cut"
	bad "a kernel cut to $length bytes" $USAGE "$LAB/cut is (cut short|neither a bzImage nor an ELF64|empty)" "${primary[@]}" --kernel "$LAB/cut"
done
changed()
{
	cp "$LEDGER" "$LAB/changed"
	poke "$LAB/changed" "$@"
	bad "a kernel $what" $USAGE 'changed ' "${primary[@]}" --kernel "$LAB/changed"
}
what="without ELF's first bytes" changed 0 000
what="of 32 bits" changed 4 001
what="of the other byte order" changed 5 002
what="for another CPU" changed 18 267
what="that is not linked to an address" changed 16 003
what="whose program headers lie outside" changed 39 177
what="with no program headers" changed 56 000
what="that starts nowhere" changed 27 177
bad "memory too small for the kernel" $USAGE 'does not fit into 2 MiB.*--memory' "${primary[@]}" --memory 2M
bad "an initrd that is missing" $USAGE 'cannot open the initrd .*--initrd' "${primary[@]}" --initrd "$LAB/none"
bad "an initrd that is a directory" $USAGE 'the initrd .* is empty or not a file' "${primary[@]}" --initrd "$LAB"
truncate -s 16M "$LAB/initrd"
bad "an initrd that does not fit" $USAGE 'does not fit beside the kernel into 16 MiB.*--memory' "${primary[@]}" --memory 16M --initrd "$LAB/initrd"

# ---- the network ----

bad "an unknown device" $USAGE '--net bogus0: DPDK knows no such driver' "${primary[@]}" --net bogus0
bad "no device" $USAGE '--net : ' "${primary[@]}" --net ''
bad "an interface that is missing" $USAGE '--net net_af_packet0,iface=none: ' "${primary[@]}" --net net_af_packet0,iface=none

# ---- who is not there ----

bad "status of a VM that does not run" $NONE 'no doppel process runs VM db' "$DOPPEL" status db
bad "status when nothing runs" $NONE 'no doppel process runs here' "$DOPPEL" status
bad "stop of a VM that does not run" $NONE 'no doppel process runs VM db' "$DOPPEL" stop db

# ---- what is taken: beside processes that run ----

VM=ledger
start_standby first dop0 b c --console "unix:$LAB/taken" || lab_fail "no standby"
wait_role first standby 10 || lab_fail "the standby does not wait"
nothing_left()
{
	equal "what runs" "$(ip netns pids "$HOSTS" | wc -l)" 1 &&
		equal "the run directory" "$(ls -A "$LAB/run")" "" &&
		equal "the sockets" "$(find "$LAB" -maxdepth 1 -type s)" "$LAB/taken" &&
		equal "the taps" "$(ip -n "$HOSTS" -o link show type tun | wc -l)" 1 &&
		equal "the generations" "$(ls -A "$LAB/arbiter")" "$taken"
}
taken=''
bad "a transport's address in use" $USAGE 'shm:b is in use: another standby' "${standby[@]}"
bad "a console's address in use" $USAGE 'somebody listens there already' "${run[@]}" --console "unix:$LAB/taken"
touch "$LAB/precious"
bad "a console's path where a file is" $USAGE 'something else than a socket' "${run[@]}" --console "unix:$LAB/precious"
check "the file is still there" test -f "$LAB/precious"
bad "a tap in use" $USAGE 'another process has this interface' "${run[@]}" --net net_tap7,iface=dop0
check "the standby ends in order" stop_host first
rm "$LAB/precious"

# ---- a VM that has run before ----

launch first "${primary[@]:1}" --name db --console "unix:$LAB/taken"
wait_db()
{
	local tries
	for ((tries = 0; tries < 100; tries++)); do
		DOPPEL_RUN_DIR=$LAB/first/run "$DOPPEL" status db >/dev/null 2>&1 && [ -e "$LAB/arbiter/db.gen-1" ] && return
		sleep 0.1
	done
	return 1
}
check "a VM runs" wait_db
nothing_left()
{
	equal "the run directory" "$(ls -A "$LAB/run")" "" &&
		equal "the generations" "$(ls -A "$LAB/arbiter")" "db.gen-1"
}
bad "a VM that runs" $REFUSED 'VM db has run before \(generation 1 in .*--take-over' "${primary[@]}" --name db
kill_hard first
bad "a VM that has run before" $REFUSED 'VM db has run before \(generation 1 in .*--take-over' "${primary[@]}" --name db
cp "$LAB/arbiter/db.gen-1" "$LAB/arbiter/db.gen-01"
nothing_left()
{
	return 0
}
bad "an arbiter's directory with something strange" $HOST 'not named like a generation; see what it is' "${primary[@]}" --name db
rm -f "$LAB/arbiter/"* "$LAB/taken"

# ---- a standby that does not fit ----

# misfit SENTENCE PATTERN STANDBY-COMMAND...: it ends with status 6, and the primary goes on without it.
ends_refused()
{
	local pattern=$1
	shift
	rm -f "$LAB/arbiter/"*
	launch first "${primary[@]:1}" --name db
	wait_db || return
	DOPPEL_RUN_DIR=$LAB/run ip netns exec "$HOSTS" timeout 20 "$@" </dev/null >"$LAB/out" 2>"$LAB/err"
	equal "the standby's exit status" $? $REFUSED
	local wrong=$?
	sleep 0.6 # two more attempts of the primary's
	stop_host first || return
	sed -i '/waiting for a primary/d' "$LAB/err"
	[ "$wrong" -eq 0 ] && one_line "$LAB/err" "$pattern" &&
		one_line "$LAB/first/log" "the standby refuses: .*$pattern" &&
		equal generations "$(ls "$LAB/arbiter")" db.gen-1
}
misfit()
{
	local sentence=$1
	shift
	check "$sentence" ends_refused "$@"
}
fits=("${standby[@]}" --name db)
misfit "a standby for another memory size" 'guest has 256 MiB of memory, this standby expects 32' "${fits[@]}" --memory 32M
mkdir "$LAB/other"
misfit "a standby with another arbiter" 'do not see the same arbiter' "${fits[@]}" --arbiter "dir:$LAB/other"
# A build that gives its guests another CPU: the brand string is part of the model.
sed 's/Doppel deterministic virtual CPU/Doppel deterministic virtual PPU/' "$DOPPEL" >"$LAB/altered"
chmod +x "$LAB/altered"
misfit "a standby with another CPU model" 'the CPUs differ: .* there, .* here' "$LAB/altered" "${fits[@]:1}"
if [ -x "$CRASH_BUILD/doppel" ]; then
	misfit "a standby of another version" 'another version of Doppel \(doppel session 2, .*; here doppel session 9, ' \
		env "DOPPEL_SPEAKS=doppel session 9" "$CRASH_BUILD/doppel" "${fits[@]:1}"
else
	echo "skip a standby of another version: $CRASH_BUILD/doppel is missing: run make CRASH_POINTS=1"
fi

# One that is for another VM goes on waiting for its own.
stays()
{
	launch first "${primary[@]:1}" --name db
	wait_db || return
	launch second "${standby[@]:1}" --name web
	sleep 1.5
	VM=web equal "its role" "$(VM=web host_status second role)" standby || return
	sed -i '/waiting for a primary/d' "$LAB/second/log"
	one_line "$LAB/second/log" 'this standby is for VM web, not db; give both sides the same --name' || return
	one_line "$LAB/first/log" 'the standby refuses: this standby is for VM web' || return
	stop_host second && stop_host first
}
rm -f "$LAB/arbiter/"*
check "a standby for another VM refuses, once, and goes on waiting" stays

# So does one whose key a primary does not know.
refuses_strangers()
{
	local port=tcp:127.0.0.1:7700
	launch first "${primary[@]:1}" --name db --standby $port --key "$LAB/other_key"
	wait_db || return
	launch second "${standby[@]:1}" --name db --listen $port "${key[@]}"
	sleep 1.5
	equal "its role" "$(VM=db host_status second role)" standby || return
	sed -i '/waiting for a primary/d' "$LAB/second/log"
	one_line "$LAB/second/log" "does not know this VM's key; give both sides the same --key FILE" || return
	one_line "$LAB/first/log" 'the standby refuses: this primary does not know its key; .*--key FILE' || return
	says $USAGE "$port is in use: another standby or program" "${standby[@]}" "${key[@]}" --listen $port || return
	stop_host second && stop_host first
}
(umask 077 && head -c 32 /dev/urandom >"$LAB/other_key")
rm -f "$LAB/arbiter/"*
check "a primary with another key is refused, once, and the standby goes on waiting" refuses_strangers

# A standby that did not answer at first is no reason to be silent about it later.
tells_after_silence()
{
	local port=tcp:127.0.0.1:7700
	launch second "${standby[@]:1}" --name db --listen $port "${key[@]}"
	VM=db wait_role second standby 10 || return
	freeze_hard second
	launch first "${primary[@]:1}" --name db --standby $port --key "$LAB/other_key"
	wait_db || return
	sleep 3.5 # it gives the first attempt up after three seconds
	kill_hard second
	launch second "${standby[@]:1}" --name db --listen $port "${key[@]}"
	until_true 10 grep -q 'this primary does not know its key' "$LAB/first/log" || return
	stop_host second && stop_host first
}
rm -f "$LAB/arbiter/"*
check "a primary whose standby was silent says that it is refused" tells_after_silence
end_cases
