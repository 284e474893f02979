# shellcheck shell=bash
#
# What the demo and the integration tests are made of: a lab, which is a temporary folder and a network
# of its own (tests/topology.sh), in it doppel processes by the names a test gives them, and the client
# that checks what the guest answers.
#
#   . tests/integration/lib.sh          from the top folder
#   lab_begin
#   start_primary a dop0 b              a: the process's name; its files are in $LAB/a
#   start_standby b dop1 b a            b is also where it is found: over $TRANSPORT, see address
#   wait_protected a b 20 || lab_fail "no protection"
#   start_client --rate 500 --seconds 60
#   kill_hard a                         SIGKILL, and the client notes the time
#   wait_role b solo 10 || lab_fail "no failover"
#   finish_client || lab_fail "wrong answers"
#   summary pause_ms
#
# Whatever ends the script ends the lab: no process, tap or file is left. lab_fail keeps the folder.
#
# Read from the environment: BUILD, the build folder, and TRANSPORT, what carries the log of a pair: shm (the
# default) or tcp, also behind a model of a link, as in TRANSPORT=link:rate=100M/tcp.

BUILD=${BUILD:-build}
DOPPEL=$BUILD/doppel
CLIENT=$BUILD/tests/client/client
LEDGER=$BUILD/guests/ledger.elf
VM=ledger
TRANSPORT=${TRANSPORT:-shm}

# shellcheck source=tests/topology.sh
. tests/topology.sh
. tests/kvm.sh

# Seconds between two looks at something. Where each look is half a second's work, none would be left for what is looked at.
LOOK=0.05
[ "$(kvm_kind)" != emulated ] || LOOK=1

LAB='' CLIENT_PID='' CLIENT_STATUS=''
declare -A HOST_PID=() PORTS=()
ADDRESS=''      # what address has made
PAIR_OPTIONS=() # what each side of a pair is started with

# The first thing that this machine lacks for a lab, as a line; nothing when it has all.
lab_lacks()
{
	local tool
	if [ "$(id -u)" -ne 0 ]; then
		echo "root is needed, for network namespaces and /dev/kvm: run it as root"
		return
	fi
	for tool in ip mktemp sed grep; do
		if ! command -v "$tool" >/dev/null; then
			echo "the command '$tool' is missing: install it (ip is in iproute2)"
			return
		fi
	done
	if [ "$(kvm_kind)" = none ]; then
		echo "/dev/kvm cannot be opened: load kvm_amd or kvm_intel, or turn on nested virtualization"
	elif ! device_opens /dev/net/tun; then
		echo "/dev/net/tun cannot be opened: load the module tun"
	fi
	for tool in "$DOPPEL" "$CLIENT" "$LEDGER"; do
		if [ ! -e "$tool" ]; then
			echo "$tool is missing: run make first"
			return
		fi
	done
}

lab_begin()
{
	trap lab_end EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 141' PIPE
	trap 'exit 143' TERM
	LAB=$(mktemp -d "${TMPDIR:-/tmp}/doppel-lab.XXXXXX") || exit
	mkdir "$LAB/arbiter" "$LAB/client" || exit
	(umask 077 && head -c 32 /dev/urandom >"$LAB/key") || exit
	PAIR_OPTIONS=(--arbiter "dir:$LAB/arbiter" --key "$LAB/key")
	topology_make "doppel-$$" || exit
}

lab_end()
{
	local name
	trap '' HUP INT TERM PIPE
	for name in "${!HOST_PID[@]}"; do
		end_quietly "${HOST_PID[$name]}"
	done
	[ -z "$CLIENT_PID" ] || end_quietly "$CLIENT_PID"
	HOST_PID=() CLIENT_PID=''
	topology_remove
	[ -z "$LAB" ] || rm -rf "$LAB"
	LAB=''
}

# lab_fail MESSAGE: ends the script with status 1, and keeps all that was written for whoever looks why.
lab_fail()
{
	local log
	echo "failed: $*"
	for log in "$LAB"/*/log; do
		[ ! -s "$log" ] || tail -n 5 "$log" | sed "s|^|  ${log#"$LAB"/}: |"
	done
	echo "The logs and the client's history are in $LAB"
	LAB=''
	exit 1
}

# running PID: of a child of this shell; another process that has got its number since is not it.
running()
{
	local pid
	for pid in $(jobs -rp); do
		[ "$pid" != "$1" ] || return 0
	done
	return 1
}

end_quietly()
{
	running "$1" || return 0
	# The shell would report the death of a process of its own at the next chance it has.
	{
		kill -KILL "$1"
		wait "$1"
	} 2>/dev/null
}

# start_host NAME TAP ARGUMENT...: a doppel process with the tap on the bridge. Its standard output is in
# $LAB/NAME/out, its errors in $LAB/NAME/log.
start_host()
{
	local name=$1 tap=$2
	shift 2
	mkdir -p "$LAB/$name/run"
	DOPPEL_RUN_DIR=$LAB/$name/run ip netns exec "$HOSTS" "$DOPPEL" "$@" --name "$VM" \
		--net "net_tap${tap##*[a-z]},iface=$tap" </dev/null >"$LAB/$name/out" 2>"$LAB/$name/log" &
	HOST_PID[$name]=$!
	topology_plug "$tap" "$!"
}

# start_alone NAME TAP [OPTION...]: without a backup, ever.
start_alone()
{
	local name=$1 tap=$2
	shift 2
	start_host "$name" "$tap" run --kernel "$LEDGER" --memory 16M "$@"
}

# address NAME: sets ADDRESS to where the side of a pair that is to be found by this name waits. Both sides
# are in one namespace, whose ports are all free.
address()
{
	case $TRANSPORT in
	tcp | */tcp)
		[ -n "${PORTS[$1]:-}" ] || PORTS[$1]=$((7700 + ${#PORTS[@]}))
		ADDRESS=$TRANSPORT:127.0.0.1:${PORTS[$1]}
		;;
	*) ADDRESS=$TRANSPORT:$1 ;;
	esac
}

# start_primary NAME TAP STANDBY [OPTION...]
start_primary()
{
	local name=$1 tap=$2
	address "$3"
	shift 3
	start_host "$name" "$tap" primary "${PAIR_OPTIONS[@]}" --kernel "$LEDGER" --memory 16M \
		--standby "$ADDRESS" "$@"
}

# start_standby NAME TAP LISTEN STANDBY [OPTION...]: STANDBY is where it finds its own backup one day.
start_standby()
{
	local name=$1 tap=$2 listen
	address "$3"
	listen=$ADDRESS
	address "$4"
	shift 4
	start_host "$name" "$tap" standby "${PAIR_OPTIONS[@]}" --listen "$listen" --standby "$ADDRESS" "$@"
}

# host_status NAME FIELD: a top field of the process's status; nothing when it does not answer.
host_status()
{
	DOPPEL_RUN_DIR=$LAB/$1/run "$DOPPEL" status "$VM" --json 2>/dev/null |
		grep -o "\"$2\": *[^,}]*" | sed -e 's/^[^:]*: *//' -e 's/"//g' -e 's/ *$//' -e q
}

# wait_role NAME ROLE SECONDS: fails when the time is over or the process has ended.
wait_role()
{
	local end=$((SECONDS + $3))
	until [ "$(host_status "$1" role)" = "$2" ]; do
		running "${HOST_PID[$1]}" || return 1
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep "$LOOK"
	done
}

# wait_protected LIVE BACKUP SECONDS: the same for a pair.
wait_protected()
{
	local end=$((SECONDS + $3))
	until [ "$(host_status "$2" role)" = backup ] && [ "$(host_status "$1" role)" = primary ]; do
		running "${HOST_PID[$1]}" && running "${HOST_PID[$2]}" || return 1
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep "$LOOK"
	done
}

# kill_hard NAME [frozen]: as if its host had died. A client that runs starts to measure the pause, but
# not when freeze_hard has told it already.
kill_hard()
{
	local pid=${HOST_PID[$1]}
	{
		kill -KILL "$pid"
		[ -z "$CLIENT_PID" ] || [ "${2:-}" = frozen ] || kill -USR1 "$CLIENT_PID"
		wait "$pid"
	} 2>/dev/null
	unset "HOST_PID[$1]"
}

# freeze_hard NAME: as if its host had fallen silent: nothing ends that its backup could see. A client that
# runs starts to measure the pause.
freeze_hard()
{
	kill -STOP "${HOST_PID[$1]}"
	[ -z "$CLIENT_PID" ] || kill -USR1 "$CLIENT_PID"
}

# stop_host NAME: an orderly end. Its exit status.
stop_host()
{
	local pid=${HOST_PID[$1]}
	unset "HOST_PID[$1]"
	kill -TERM "$pid" 2>/dev/null
	wait "$pid" 2>/dev/null
}

# start_client [OPTION...]: in the background, until its seconds are over or finish_client. What it says
# goes to standard error, as it comes. Of an emulated KVM it asks for a tenth of the rate.
start_client()
{
	local i options=("$@")
	for ((i = 1; i < $#; i++)); do
		[ "${options[i - 1]}" != --rate ] || [ "$(kvm_kind)" != emulated ] || options[i]=$(((options[i] + 9) / 10))
	done
	(
		trap '' USR1 # until the client has its own use for it
		exec ip netns exec "$CLIENTS" "$CLIENT" --history "$LAB/client/history" "${options[@]}" load
	) >"$LAB/client/summary" &
	CLIENT_PID=$!
	CLIENT_STATUS=''
}

# finish_client: ends the client's sending and waits for its verdict, which is the status.
finish_client()
{
	kill -TERM "$CLIENT_PID" 2>/dev/null
	await_client
}

# await_client: the same when the client's seconds are over by themselves.
await_client()
{
	wait "$CLIENT_PID"
	CLIENT_STATUS=$?
	CLIENT_PID=''
	return "$CLIENT_STATUS"
}

# run_client [OPTION...]: from beginning to end.
run_client()
{
	start_client "$@"
	await_client
}

# ask_guest REQUEST: the answer.
ask_guest()
{
	ip netns exec "$CLIENTS" "$CLIENT" ask "$1"
}

# summary KEY: of the last client's verdict.
summary()
{
	grep -o "\b$1=[^ ]*" "$LAB/client/summary" | sed 's/^[^=]*=//'
}
