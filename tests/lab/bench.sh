# shellcheck shell=bash
#
# What the lab's benches share: a stock guest, alone on machine a or with a backup on machine b, and the work of its
# clients, which are on their link. Sourced after lab.sh, guest.sh and tests/figures.sh, with ROUNDS and in each ROUND:
#
#   bench_alone KIND             `doppel run`; returns when the guest serves
#   bench_pair KIND [OPTION...]  a pair, both of whose sides have the options; STANDBY_OPTIONS are the standby's own
#   load WHAT COMMAND...         what the command says, a name and a value a line, are the figures WHAT.*; GREW has what
#                                the status has counted meanwhile, and the microseconds
#   bench_end                    ends it

LAB_MEMORY=2G GUEST=10.77.0.2 MEMORY=256M AGAIN=0
STANDBY_OPTIONS=''

now_us()
{
	echo "${EPOCHREALTIME/[.,]/}"
}

seconds_since()
{
	calculate "($(now_us) - $1) / 1e6"
}

guest_options()
{
	echo --console - --kernel /lab/guest.kernel --initrd /lab/guest.initrd --append quiet --memory "$MEMORY"
}

serves()
{
	until_true 180 grep -aqs '^guest: serving' "$LAB/$LIVE/out" || lab_fail "the guest does not serve"
}

bench_alone()
{
	LIVE=$1$ROUND BACKUP='' VM=$1$ROUND
	BEGAN=$(now_us)
	start_on a "$LIVE" "mkdir -p /run/$LIVE && DOPPEL_RUN_DIR=/run/$LIVE exec doppel run --name $VM $(guest_options) --net net_tap0,iface=dop0"
	serves
}

bench_pair()
{
	LIVE=$1$ROUND BACKUP=backup-$1$ROUND VM=$1$ROUND
	shift
	# shellcheck disable=SC2086 # several words
	start_standby "$BACKUP" b "$SLOW" "$@" $STANDBY_OPTIONS
	BEGAN=$(now_us)
	start_primary "$LIVE" a "$SLOW" "$@" "$(guest_options)"
	wait_protected "$LIVE" "$BACKUP" 60 || lab_fail "A and B did not become a pair"
	serves
}

bench_end()
{
	local name
	for name in $BACKUP $LIVE; do
		send_signal "$name" KILL
	done
	for name in $BACKUP $LIVE; do
		ended "$name" 30
	done
}

# look: the status of LIVE, in SEEN, and when that was.
declare -A SEEN=() GREW=()
look()
{
	local name value
	on a "DOPPEL_RUN_DIR=/run/$LIVE timeout 20 doppel status $VM --json" >"$LAB/status" || return
	SEEN=([us]=$(now_us))
	while read -r name value; do
		SEEN[$name]=$value
	done < <(sed -n 's/^ *"\([a-z_]*\)": *\([0-9.]*\),*$/\1 \2/p' "$LAB/status")
}

# Work in the middle of which the guest got another backup is done again.
load()
{
	local what=$1 results name value
	local -A before=()
	shift
	(in_outside ip neigh flush dev outside)
	while :; do
		[ -z "$BACKUP" ] || wait_role "$LIVE" primary 120 || lab_fail "nothing protects the guest"
		look || lab_fail "$what: no status"
		for name in "${!SEEN[@]}"; do
			before[$name]=${SEEN[$name]}
		done
		results=$("$@") || lab_fail "$what does not succeed"
		look || lab_fail "$what: no status"
		[ "${SEEN[session]:-}" != "${before[session]:-}" ] || break
		AGAIN=$((AGAIN + 1))
		[ "$AGAIN" -le $((3 * ROUNDS)) ] || lab_fail "the guest loses its backup again and again"
	done
	while read -r name value; do
		[ -z "$name" ] || figure "$what.$name" "$value"
	done <<<"$results"
	GREW=()
	for name in "${!SEEN[@]}"; do
		GREW[$name]=$(calculate "${SEEN[$name]} - ${before[$name]:-0}")
	done
}

# progress TEXT
progress()
{
	[ ! -t 2 ] || printf '\r%-40s\r%s' '' "$1" >&2
}

redone()
{
	[ "$AGAIN" = 0 ] || echo "done again, since the guest had got another backup meanwhile: $AGAIN"
}
