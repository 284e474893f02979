#!/bin/bash
#
# A host that lacks what a guest needs, and a recording that is none, are refused as bad.sh says.

set -u
cd "${0%/*}/../.." || exit
. tests/integration/lib.sh
. tests/integration/cases.sh
. tests/integration/bad.sh

skip_all_if_lacking "bad hosts and recordings are refused"
bad_begin

# ---- the host ----

for command in run primary standby; do
	declare -n words=$command
	bad "$command without /dev/kvm" $HOST 'there is no /dev/kvm: load' \
		unshare -m sh -c 'mount -t tmpfs none /dev && exec "$@"' - "${words[@]}"
	bad "$command with something else as /dev/kvm" $HOST '/dev/kvm is not KVM' \
		unshare -m sh -c 'mount --bind /dev/null /dev/kvm && exec "$@"' - "${words[@]}"
done
# As a user of no rights; /dev/kvm is everybody's on some machines.
cp "$DOPPEL" "$LEDGER" "$LAB"
mkdir -m 777 "$LAB/nobody"
nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups env "DOPPEL_RUN_DIR=$LAB/nobody" "$LAB/doppel")
bad "no permission for /dev/kvm" $HOST 'no permission to use /dev/kvm: run as root' \
	unshare -m sh -c 'cp -a /dev/kvm "$0" && chmod 600 "$0/kvm" && mount --bind "$0/kvm" /dev/kvm && exec "$@"' "$LAB" \
	"${nobody[@]}" run --kernel "$LAB/ledger.elf"
bad "no permission for a tap" $HOST '--net net_tap0,iface=dop0: .*CAP_NET_ADMIN' \
	"${nobody[@]}" run --kernel "$LAB/ledger.elf" --net net_tap0,iface=dop0
bad "no permission for the run directory" $HOST 'run directory.*DOPPEL_RUN_DIR' \
	setpriv --reuid=65534 --clear-groups env "DOPPEL_RUN_DIR=$LAB/private" "$LAB/doppel" run --kernel "$LAB/ledger.elf"
bad "no permission for the arbiter" $HOST "arbiter's directory.*Permission denied" \
	"${nobody[@]}" primary --kernel "$LAB/ledger.elf" --standby shm:b "${arbiter[@]}"
rm -rf "$LAB/kvm" "$LAB/nobody"

# ---- recordings ----

hammer=(env "DOPPEL_RUN_DIR=$LAB/run" "$DOPPEL" run --kernel "$BUILD/guests/hammer.elf" --append ticks=200)
check "a guest is recorded" "${hammer[@]}" --record "$LAB/whole"
bad "a recording that exists already" $USAGE "$LAB/whole exists already; remove it" "${hammer[@]}" --record "$LAB/whole"
bad "a recording in a directory that is missing" $USAGE 'No such file' "${hammer[@]}" --record "$LAB/none/rec"
bad "a recording on a full device" $HOST 'cannot write the recording /dev/full: No space' "${hammer[@]}" --record /dev/full
mkdir "$LAB/small"
bad "a recording that fills its disk" $HOST 'cannot write the recording .*No space left' \
	unshare -m sh -c 'mount -t tmpfs -o size=256k none "$0" && exec "$@"' "$LAB/small" \
	"$DOPPEL" run --kernel "$BUILD/guests/hammer.elf" --record "$LAB/small/rec"
bad "replay of what is missing" $USAGE "$LAB/none: No such file" "$DOPPEL" replay "$LAB/none"
bad "replay of a directory" $RECORDING 'not a recording' "$DOPPEL" replay "$LAB"
bad "replay of a kernel" $RECORDING 'not a recording' "$DOPPEL" replay "$LEDGER"
bad "dump of a kernel" $RECORDING 'not a recording' "$DOPPEL" dump "$LEDGER"
size=$(stat -c %s "$LAB/whole")
last=$("$DOPPEL" dump "$LAB/whole" | sed -n '$s/^lsn=\([0-9]*\) .*/\1/p')
log=$((size - last - 48)) # where the entries begin
cuts=(0 1 7 8 20 55 56 57 1000 4096 $((log - 1)) $log $((log + 8)) $((log + 40)) $((log + 41)) $((size / 2))
	$((size * 3 / 4)) $((size - 48)) $((size - 8)) $((size - 1)))
for length in "${cuts[@]}"; do
	head -c "$length" "$LAB/whole" >"$LAB/cut"
	bad "replay of a recording cut to $length of $size bytes" $RECORDING \
		'cut short|not a recording|the log ends at' "$DOPPEL" replay "$LAB/cut"
	bad "dump of a recording cut to $length of $size bytes" $RECORDING \
		'cut short|not a recording' "$DOPPEL" dump "$LAB/cut"
done
cat "$LAB/whole" - <<<"more" >"$LAB/cut"
bad "replay of a recording with something behind it" $RECORDING 'damaged' "$DOPPEL" replay "$LAB/cut"
for at in 0 9 17 33 50 60 3000 $((log - 100)) $((log + 4)) $((log + 20)) $((size / 2)) $((size - 40)) $((size - 3)); do
	cp "$LAB/whole" "$LAB/changed"
	old=$(dd if="$LAB/whole" bs=1 skip=$at count=1 status=none | od -An -tu1)
	poke "$LAB/changed" $at "$(printf '%03o' $((old ^ 16)))"
	bad "replay of a recording with byte $at changed" $RECORDING \
		'damaged|not a recording|cut short|version|the log ends at' "$DOPPEL" replay "$LAB/changed"
done
bad "replay without /dev/kvm" $HOST 'there is no /dev/kvm' \
	unshare -m sh -c 'mount -t tmpfs none /dev && exec "$@"' - "$DOPPEL" replay "$LAB/whole"
end_cases
