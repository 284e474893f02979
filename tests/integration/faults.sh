# shellcheck shell=bash
#
# Faults for a lab: sides that die or freeze at a point of the protocol (base/crash_point.h, so a build
# with crash points is needed) or at any moment, and what can be said of those that are left. Sourced
# behind lib.sh and cases.sh.
#
# Every wait here asks /proc or reads a log, without a process of its own: hundreds of kills are to take
# minutes, on two processors that the guests need.

BUILD=${CRASH_BUILD:-build-crash}
DOPPEL=$BUILD/doppel
CLIENT=$BUILD/tests/client/client
LEDGER=$BUILD/guests/ledger.elf

TAPS=0         # made so far; each side has one of its own
GENERATION=0   # the newest that newest_generation has seen
HOLDER=''      # its process
STATE=''       # of the process that process_state has looked at
HOST_STATUS='' # of the process that wait_end has seen end

# A pipe into which nobody writes: who reads it sleeps.
exec {PAUSE}<> <(:)

# pause SECONDS
pause()
{
	read -rt "$1" -u "$PAUSE"
	return 0
}

# within SECONDS COMMAND [ARGUMENT...]: until the command is true; fails when the time is over.
within()
{
	local end=$((${EPOCHREALTIME/[.,]/} + $1 * 1000000))
	shift
	until "$@"; do
		[ "${EPOCHREALTIME/[.,]/}" -lt "$end" ] || return 1
		pause 0.01
	done
}

# process_state NAME: STATE is its letter in proc(5), or nothing when it has ended.
process_state()
{
	local parent=''
	STATE=''
	{ read -r _ _ STATE parent _ <"/proc/${HOST_PID[$1]:-none}/stat"; } 2>/dev/null
	if [ "$parent" != $$ ] || [ "$STATE" = Z ]; then
		STATE=''
	fi
}

has_ended()
{
	process_state "$1"
	[ -z "$STATE" ]
}

is_frozen()
{
	process_state "$1"
	[ "$STATE" = T ]
}

# says NAME TEXT: whether the process has said it on its standard error.
says()
{
	local line
	while read -r line; do
		[[ $line != *"$2"* ]] || return 0
	done <"$LAB/$1/log"
	return 1
}

# wait_end NAME SECONDS: leaves the exit status in HOST_STATUS; 137 is that of a kill.
wait_end()
{
	local pid=${HOST_PID[$1]}
	# The shell would report the death of a process of its own.
	{
		within "$2" has_ended "$1" || return
		wait "$pid"
		HOST_STATUS=$?
	} 2>/dev/null
	unset "HOST_PID[$1]"
}

freeze()
{
	kill -STOP "${HOST_PID[$1]}"
}

thaw()
{
	kill -CONT "${HOST_PID[$1]}"
}

# launch_side NAME TRAP ARGUMENT...: a side that is put on the bridge as soon as it has a tap. TRAP is
# crash=POINT:N[:MS], freeze=POINT:N[:MS] or nothing.
launch_side()
{
	local name=$1 crash='' freeze='' tap=dop$TAPS
	case $2 in
	crash=*) crash=${2#*=} ;;
	freeze=*) freeze=${2#*=} ;;
	esac
	shift 2
	# Nobody is to read in it what another process of this name has said.
	mkdir -p "$LAB/$name"
	: >"$LAB/$name/log"
	DOPPEL_CRASH=$crash DOPPEL_FREEZE=$freeze launch "$name" "$@" --name "$VM" \
		--net "net_tap$TAPS,iface=$tap" "${PAIR_OPTIONS[@]}"
	TAPS=$((TAPS + 1))
	topology_plug "$tap" "${HOST_PID[$name]}" 2>/dev/null &
}

# launch_primary NAME TRAP STANDBY [OPTION...]: whatever ran before is over.
launch_primary()
{
	local name=$1 trap=$2
	address "$3"
	shift 3
	launch_side "$name" "$trap" primary --kernel "$LEDGER" --memory 16M --standby "$ADDRESS" --take-over "$@"
}

# launch_standby NAME TRAP LISTEN STANDBY [OPTION...]
launch_standby()
{
	local name=$1 trap=$2 listen
	address "$3"
	listen=$ADDRESS
	address "$4"
	shift 4
	launch_side "$name" "$trap" standby --listen "$listen" --standby "$ADDRESS" "$@"
}

# end_side NAME...: whether it lives or not.
end_side()
{
	local name
	for name; do
		[ -z "${HOST_PID[$name]:-}" ] || end_quietly "${HOST_PID[$name]}"
		unset "HOST_PID[$name]"
	done
}

# newest_generation: GENERATION and HOLDER, from the arbiter's directory.
newest_generation()
{
	local file=$LAB/arbiter/$VM.gen-
	while [ -e "$file$((GENERATION + 1))" ]; do
		GENERATION=$((GENERATION + 1))
	done
	HOLDER=''
	[ "$GENERATION" -eq 0 ] || read -r _ _ _ _ _ _ _ _ HOLDER _ <"$file$GENERATION"
}

# holds NAME: the newest generation is this process's, so nobody else may run the guest (A1).
holds()
{
	newest_generation
	[ "$HOLDER" = "${HOST_PID[$1]:-ended}" ]
}

# pair_up PRIMARY_TRAP STANDBY_TRAP PRIMARY_TIMEOUT STANDBY_TIMEOUT [PRIMARY_OPTION...]: the sides p and s,
# with a new guest. The timeouts, in ms, choose who is the first to suspect the other.
pair_up()
{
	launch_standby s "$2" s p --heartbeat-timeout "$4"
	launch_primary p "$1" s --heartbeat-timeout "$3" "${@:5}"
	within 60 says s "following the primary"
}

# begin_client [OPTION...]: what it complains of is in $LAB/client/said.
begin_client()
{
	start_client --retry 30 --every 4 "$@" 2>"$LAB/client/said"
}

# has_answered NAME: the client has got answers from this side, or gets none any more.
has_answered()
{
	local sent
	! is_frozen "$1" || return 0
	sent=$(host_status "$1" tx_frames)
	[ "${sent:-0}" -ge 20 ]
}
