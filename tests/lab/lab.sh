# shellcheck shell=bash
#
# The lab: two machines in QEMU, each with a KVM, an RDMA stack and two links to the other one (wire.c). A
# scenario is a script that sources this file and calls what is below. It needs no hardware, and root only
# for a first installation of QEMU. tests/lab/init has the picture of a machine.
#
#   . "${0%/*}/../lab.sh"
#   lab_boot
#   on_a 'ping -c 1 $PEER_LOG'              a command on a machine, its output and status; 60 s at most
#   start_on_b server 'rping -s'            another one in the background; its files are in $LAB/server
#   ended server 10                         waits for its end; its status, or 124 when 10 s are over
#   send_signal server USR1
#   cut_link log; restore_link log          log or client: neither end has a carrier
#   freeze_host a; thaw_host a              SIGSTOP of the machine
#   kill_host a; boot_host a                SIGKILL; only the disk of the machine outlives it
#   in_outside ping 10.77.0.2               a command here, at the clients' link as 10.77.0.31
#   lab_finish
#
# and of doppel: start_primary, start_standby, wait_role, start_client and so on, below. Verdicts are those
# of tests/integration/cases.sh. Whatever ends the script ends the machines.
#
# The environment: BUILD and CRASH_BUILD, the build folders; LAB_LOG, where the log goes on host X, such as
# rdma:%s:7700 (%s is the address); LAB_MTU of the log's link (9000); LAB_BOOT, seconds for a boot (120);
# LAB_KEY, doppel's key; LAB_MEMORY of a machine (1G); LAB_RATE, a client's ADDs a second (50); LAB_TIMEOUT, doppel's heartbeat
# timeout in ms (5000): these machines are slow, and so is the one that they are on, now and then;
# LAB_SHELL=1 shows a prompt before the machines are taken down; LAB_SKIP_STATUS, the exit status where there can be
# no lab (0).

set -u
cd "${BASH_SOURCE[0]%/*}/../.." || exit
BUILD=${BUILD:-build}
. tests/lab/image.sh
. tests/integration/cases.sh

LAB='' LAB_SECONDS=${LAB_SECONDS:-60}
LAB_LOG=${LAB_LOG:-rdma:%s:7700} LAB_RATE=${LAB_RATE:-50}
declare -A MACHINE_PID=() MACHINE_PORT=() MACHINE_FROZEN=() MONITOR_IN=() MONITOR_OUT=() JOB_ON=()
WIRE_PID=()
declare -A NUMBER=([a]=1 [b]=2) OTHER=([a]=b [b]=a)

# ---- machines ----

# lab_boot SENTENCE: both machines, ready. Where there can be no lab, the scenario is skipped.
lab_boot()
{
	trap lab_end EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 141' PIPE
	trap 'exit 143' TERM
	LAB=$(mktemp -d "${TMPDIR:-/tmp}/doppel-two-hosts.XXXXXX") || exit
	mkdir -p "$LAB"/machines/{a,b} "$LAB/arbiter" || exit
	chmod 755 "$LAB"
	(umask 077 && head -c 32 /dev/urandom >"$LAB/key") || exit
	if ! image_make "$LAB/machines/image"; then
		echo "skip $1: ${IMAGE_LACKS:-no image}"
		exit "${LAB_SKIP_STATUS:-0}"
	fi
	local machines=$LAB/machines
	setpriv --pdeathsig KILL "$BUILD/tests/lab/wire" \
		"$machines/a/log.wire,$machines/a/log" "$machines/b/log.wire,$machines/b/log" &
	WIRE_PID=($!)
	# The clients' link has a third end, in a network of its own on the machine that the scenario runs on.
	unshare --map-root-user --net setpriv --pdeathsig KILL "$BUILD/tests/lab/wire" \
		"$machines/a/client.wire,$machines/a/client" "$machines/b/client.wire,$machines/b/client" tap:outside &
	WIRE_PID+=($!)
	boot_host a
	boot_host b
	until_true 10 plug_outside || lab_fail "this machine cannot be put on the clients' link"
	await_boot a
	await_boot b
}

# boot_host X: in the background; await_boot waits for it.
boot_host()
{
	local me=$1 n=${NUMBER[$1]} dir=$LAB/machines/$1 name
	for name in port monitor shell; do
		[ -p "$dir/$name.in" ] || mkfifo "$dir/$name.in" "$dir/$name.out" || exit
	done
	[ -e "$dir/disk" ] || { truncate -s 256M "$dir/disk" && mkfs.ext4 -q "$dir/disk"; } || exit
	rm -f "$dir/up" "$dir/log" "$dir/client"
	# It dies with this shell, however that ends, and no key pressed here reaches it.
	setsid setpriv --pdeathsig KILL "${IMAGE_QEMU[@]}" -name "doppel-lab-$me" -smp 1 -m "${LAB_MEMORY:-1G}" \
		-kernel "$LAB/machines/image.kernel" -initrd "$LAB/machines/image.initrd" \
		-append "rdinit=/init $IMAGE_APPEND lab_me=$me lab_mtu=${LAB_MTU:-9000}" \
		-serial "file:$dir/console" \
		-device virtio-serial-pci \
		-chardev "pipe,id=port,path=$dir/port" -device virtserialport,chardev=port,nr=1,name=commands \
		-chardev "pipe,id=shell,path=$dir/shell" -device virtconsole,chardev=shell,nr=2 \
		-chardev "pipe,id=monitor,path=$dir/monitor" -mon chardev=monitor,mode=control \
		-netdev "dgram,id=log,local.type=unix,local.path=$dir/log,remote.type=unix,remote.path=$dir/log.wire" \
		-device "virtio-net-pci,netdev=log,mac=52:54:00:78:00:0$n,romfile=" \
		-netdev "dgram,id=client,local.type=unix,local.path=$dir/client,remote.type=unix,remote.path=$dir/client.wire" \
		-device "virtio-net-pci,netdev=client,mac=52:54:00:77:00:0$n,romfile=" \
		-fsdev "local,id=lab,path=$LAB,security_model=none" \
		-device virtio-9p-pci,fsdev=lab,mount_tag=lab \
		-drive "file=$dir/disk,format=raw,if=virtio" \
		</dev/null >"$dir/qemu" 2>&1 &
	MACHINE_PID[$me]=$!
	MACHINE_FROZEN[$me]=''
	exec {MACHINE_PORT[$me]}<>"$dir/port.in" {MONITOR_IN[$me]}<>"$dir/monitor.in" \
		{MONITOR_OUT[$me]}<>"$dir/monitor.out" || exit
	monitor "$me" '{"execute":"qmp_capabilities"}' || lab_fail "QEMU does not start"
}

await_boot()
{
	local end=$((SECONDS + ${LAB_BOOT:-120}))
	until [ -e "$LAB/machines/$1/up" ]; do
		alive "$1" || lab_fail "machine $1 has ended"
		[ "$SECONDS" -lt "$end" ] || lab_fail "machine $1 is not up after ${LAB_BOOT:-120} s"
		sleep 0.1
	done
}

# alive X: the machine has not been killed, and has not ended by itself.
alive()
{
	[ -n "${MACHINE_PID[$1]:-}" ] && kill -0 "${MACHINE_PID[$1]}" 2>/dev/null
}

# monitor X COMMAND: a QMP command, and whether it succeeded.
monitor()
{
	local answer end=$((SECONDS + 10))
	echo "$2" >&"${MONITOR_IN[$1]}"
	while [ "$SECONDS" -lt "$end" ] && alive "$1"; do
		IFS= read -r -t 1 -u "${MONITOR_OUT[$1]}" answer || continue
		case $answer in
		'{"return"'*)
			MONITOR_ANSWER=$answer
			return 0
			;;
		'{"error"'*)
			echo "monitor of $1: $answer" >&2
			return 1
			;;
		esac
	done
	return 1
}

set_link()
{
	local machine
	for machine in a b; do
		[ -n "${MACHINE_PID[$machine]:-}" ] && [ -z "${MACHINE_FROZEN[$machine]}" ] || continue
		monitor "$machine" "{\"execute\":\"set_link\",\"arguments\":{\"name\":\"$1\",\"up\":$2}}" ||
			lab_fail "the link $1 cannot be set"
	done
}

cut_link()
{
	set_link "$1" false
}

restore_link()
{
	set_link "$1" true
}

# A client that runs notes the time.
kill_host()
{
	local pid=${MACHINE_PID[$1]}
	{
		kill -KILL "$pid"
		wait "$pid"
	} 2>/dev/null
	MACHINE_PID[$1]='' MACHINE_FROZEN[$1]=''
	note_failure "$1"
}

freeze_host()
{
	MACHINE_FROZEN[$1]=1
	kill -STOP "${MACHINE_PID[$1]}"
	note_failure "$1"
}

thaw_host()
{
	kill -CONT "${MACHINE_PID[$1]}"
	MACHINE_FROZEN[$1]=''
}

end_machines()
{
	local machine
	for machine in a b; do
		[ -z "${MACHINE_PID[$machine]:-}" ] || {
			kill -KILL "${MACHINE_PID[$machine]}"
			wait "${MACHINE_PID[$machine]}"
		} 2>/dev/null
		MACHINE_PID[$machine]=''
	done
}

lab_end()
{
	trap '' HUP INT TERM PIPE
	end_machines
	[ "${#WIRE_PID[@]}" -eq 0 ] || {
		kill -KILL "${WIRE_PID[@]}"
		wait "${WIRE_PID[@]}"
	} 2>/dev/null
	WIRE_PID=()
	[ -z "$LAB" ] || rm -rf "$LAB"
	LAB=''
}

# lab_fail MESSAGE: ends the scenario, which has failed, and keeps all that was written.
lab_fail()
{
	failed "$*"
	lab_finish
}

# keep_stacks X: where each thread of doppel stands in the kernel, for whoever has to find out.
keep_stacks()
{
	alive "$1" && [ -z "${MACHINE_FROZEN[$1]}" ] || return 0
	on "$1" 'for task in $(pidof doppel | sed "s|[0-9]*|/proc/&/task/*|g"); do
		echo "$task $(cat $task/comm)"; cat $task/stack
	done' 10 >"$LAB/machines/$1/stacks" 2>&1 && return
	# The machine itself hangs: where its processors are says whether the emulator is to blame.
	for _ in 1 2 3; do
		monitor "$1" '{"execute":"human-monitor-command","arguments":{"command-line":"info registers -a"}}' &&
			printf '%b\n' "$MONITOR_ANSWER"
	done >"$LAB/machines/$1/registers" 2>&1
}

# The last line of a scenario.
lab_finish()
{
	local machine
	if [ "${LAB_SHELL:-}" = 1 ]; then
		lab_prompt
	fi
	if [ "$CASES_FAILED" -gt 0 ]; then
		for machine in a b; do
			keep_stacks "$machine"
			tail -qn 5 "$LAB/machines/$machine"/{console,qemu} 2>/dev/null | sed "s|^|  machine $machine: |"
		done
		end_machines
		# All but what is big.
		rm -rf "$LAB"/machines/image* "$LAB"/machines/*/disk
	fi
	end_cases
}

# ---- commands ----

# start_on X NAME COMMAND: in the background. NAME is new each time.
start_on()
{
	mkdir -p "$LAB/$2" && printf '%s\n' "$3" >"$LAB/$2/command" && echo "$2" >&"${MACHINE_PORT[$1]}" || return
	JOB_ON[$2]=$1
}

start_on_a()
{
	start_on a "$@"
}

start_on_b()
{
	start_on b "$@"
}

# ended NAME [SECONDS]: waits for the command's end; its status, 124 when it has none by then, 125 when
# its machine is gone.
ended()
{
	local end=$((SECONDS + ${2:-$LAB_SECONDS}))
	until [ -e "$LAB/$1/status" ]; do
		alive "${JOB_ON[$1]}" || return 125
		if [ "$SECONDS" -ge "$end" ]; then
			echo "$1 has not ended" >&2
			return 124
		fi
		sleep 0.05
	done
	return "$(cat "$LAB/$1/status")"
}

# running NAME: it has begun, or will in a moment.
running()
{
	[ ! -e "$LAB/$1/status" ] && alive "${JOB_ON[$1]}"
}

# on X COMMAND [SECONDS]
on()
{
	local job status
	job=$(mktemp -d "$LAB/.command.XXXXXX") && chmod 755 "$job" || return
	job=${job##*/}
	start_on "$1" "$job" "$2" || return
	ended "$job" "${3:-$LAB_SECONDS}"
	status=$?
	cat "$LAB/$job/out" "$LAB/$job/log" 2>/dev/null
	return "$status"
}

on_a()
{
	on a "$@"
}

on_b()
{
	on b "$@"
}

plug_outside()
{
	# shellcheck disable=SC2016  # for the shell in there
	(in_outside sh -c 'echo 1 >/proc/sys/net/ipv6/conf/outside/disable_ipv6 && ip link set lo up &&
		ip address replace 10.77.0.31/24 dev outside && ip link set outside up') 2>/dev/null
}

# in_outside COMMAND...: replaces this shell; this machine is on the clients' link too, and outlives both.
in_outside()
{
	exec nsenter --user --net --preserve-credentials -t "${WIRE_PID[1]}" "$@"
}

# send_signal NAME SIGNAL: to the command's first process.
send_signal()
{
	on "${JOB_ON[$1]}" "kill -$2 \$(cat /lab/$1/pid)"
}

# ---- doppel ----

VM=ledger

# start_host NAME X ARGUMENT...: a doppel process on machine X. TOOL is another build's.
start_host()
{
	local name=$1 machine=$2
	shift 2
	start_on "$machine" "$name" "mkdir -p /run/$name && mkfifo /run/$name/keys
		DOPPEL_RUN_DIR=/run/$name exec ${DOPPEL_ENV:+env $DOPPEL_ENV }${TOOL:-/build/doppel} $* --name $VM \
			--net net_tap0,iface=${TAP:-dop0} --arbiter dir:/lab/arbiter --key ${LAB_KEY:-/lab/key} --heartbeat \$MY_NET --heartbeat-timeout ${LAB_TIMEOUT:-5000}"
}

# log_address X: where a standby on X waits.
log_address()
{
	# shellcheck disable=SC2059  # a format it is
	printf "$LAB_LOG" "10.78.0.1${NUMBER[$1]}"
}

# start_primary NAME X [OPTION...]: with a standby on the other machine.
start_primary()
{
	local name=$1 machine=$2
	shift 2
	start_host "$name" "$machine" primary --kernel /build/guests/ledger.elf --memory 16M \
		--standby "$(log_address "${OTHER[$machine]}")" "$@"
}

# start_standby NAME X [OPTION...]
start_standby()
{
	local name=$1 machine=$2
	shift 2
	start_host "$name" "$machine" standby --listen "$(log_address "$machine")" \
		--standby "$(log_address "${OTHER[$machine]}")" "$@"
}

# host_status NAME FIELD: of the process's status; nothing when it does not answer.
host_status()
{
	on "${JOB_ON[$1]}" "DOPPEL_RUN_DIR=/run/$1 timeout 5 /build/doppel status $VM --json 2>/dev/null" |
		grep -o "\"$2\": *[^,}]*" | sed -e 's/^[^:]*: *//' -e 's/"//g' -e 's/ *$//' -e q
}

# role NAME: the role that the process has told last, on its standard error. To ask it for its status costs
# a second of such a machine.
role()
{
	sed -n -e 's/.*: following the primary .*/backup/p' -e 's/.*: protected by .*/primary/p' \
		-e 's/.*: live as generation .*/solo/p' -e 's/.*: going on alone .*/solo/p' \
		-e 's/.*: deposed: .*/halted/p' "$LAB/$1/log" 2>/dev/null | tail -n 1
}

# wait_role NAME ROLE SECONDS
wait_role()
{
	local end=$((SECONDS + $3))
	until [ "$(role "$1")" = "$2" ]; do
		running "$1" || { echo "$1 has ended"; return 1; }
		[ "$SECONDS" -lt "$end" ] || { echo "$1 is '$(role "$1")', not $2"; return 1; }
		sleep 0.1
	done
}

# wait_protected LIVE BACKUP SECONDS
wait_protected()
{
	wait_role "$2" backup "$3" && wait_role "$1" primary "$3"
}

# ended_with NAME STATUS [SECONDS]
ended_with()
{
	ended "$1" "${3:-$LAB_SECONDS}"
	equal "$1's exit status" "$?" "$2"
}

# one_survives NAME NAME SECONDS: one has been deposed, and the other one is live and alone; `survivor` tells
# which.
one_survives()
{
	local end=$((SECONDS + $3)) survivor=$1 loser=$2
	while running "$1" && running "$2"; do
		[ "$SECONDS" -lt "$end" ] || { echo "both still run"; return 1; }
		sleep 0.1
	done
	running "$1" || survivor=$2 loser=$1
	echo "$survivor" >"$LAB/survivor"
	ended_with "$loser" 5 5 && wait_role "$survivor" solo "$3"
}

survivor()
{
	cat "$LAB/survivor"
}

# start_client X [OPTION...]: on machine X, in a namespace of its own, until its seconds are over.
CLIENT='' CLIENTS=0
start_client()
{
	local machine=$1
	shift
	CLIENT=client$((CLIENTS += 1))
	# Until the client has its own use for the signal.
	start_on "$machine" "$CLIENT" "trap '' USR1; in_client client --progress --history /lab/$CLIENT/history $* load"
}

answers()
{
	sed -n '$s/.* \([0-9]*\) answered.*/\1/p' "$LAB/$CLIENT/log" 2>/dev/null | grep . || echo 0
}

# answered_beyond COUNT: the client has got that many answers.
answered_beyond()
{
	local end=$((SECONDS + LAB_SECONDS))
	until [ "$(answers)" -gt "$1" ]; do
		running "$CLIENT" || { echo "the client has ended"; return 1; }
		[ "$SECONDS" -lt "$end" ] || { echo "the client has $(answers) answers"; return 1; }
		sleep 0.2
	done
}

# note_failure X: a client on the other machine measures the pause from now on.
note_failure()
{
	[ -n "$CLIENT" ] && running "$CLIENT" && [ "${JOB_ON[$CLIENT]}" != "$1" ] || return 0
	send_signal "$CLIENT" USR1 >/dev/null
}

# finish_client [SECONDS]: waits for its verdict, which is the status.
finish_client()
{
	ended "$CLIENT" "${1:-60}"
}

# summary KEY: of the client's verdict.
summary()
{
	grep -o "\b$1=[^ ]*" "$LAB/$CLIENT/out" | sed 's/^[^=]*=//'
}

# outlive_host X NAME: the host of the primary is killed, its backup NAME goes live, and the client has seen
# nothing wrong but a pause.
outlive_host()
{
	kill_host "$1"
	check "the backup goes live when the primary's host is killed" wait_role "$2" solo 30
	check "the client goes on" finish_client 90
	check "every request is answered, and counts once" equal "requests without an answer" "$(summary lost)" 0
	echo "figure requests=$(summary requests) answered=$(summary answered) repeated=$(summary repeated) pause_ms=$(summary pause_ms)"
	sed -n 's/^\(doppel: \)*\(live as generation .*\)/figure \2/p' "$LAB/$2/log"
}

# ---- by hand ----

# shell X: this terminal becomes one of machine X, until Control-].
shell()
{
	local saved key reader
	[ -t 0 ] && saved=$(stty -g) || { echo "this is no terminal"; return 1; }
	echo "A shell on machine $1; Control-] leaves it."
	stty raw -echo
	cat "$LAB/machines/$1/shell.out" &
	reader=$!
	echo >"$LAB/machines/$1/shell.in"
	while IFS= read -rN 1 -d '' key && [ "$key" != $'\x1d' ]; do
		printf '%s' "$key"
	done >"$LAB/machines/$1/shell.in"
	kill "$reader"
	wait "$reader" 2>/dev/null
	stty "$saved"
	echo
}

# Everything that a scenario may do can be typed here.
lab_prompt()
{
	local line
	trap : INT
	cat <<-END
		Machines a and b are up; $LAB is /lab on both, tests/lab/lab.sh lists what can be done:
		  shell a             a shell on it
		  on_b 'rdma link'    a command
		  cut_link log, freeze_host a, ...
		exit or Control-D ends the lab.
	END
	while IFS= read -erp 'lab> ' line; do
		[ "$line" != exit ] || break
		history -s -- "$line"
		eval "$line"
	done
	trap 'exit 130' INT
}
