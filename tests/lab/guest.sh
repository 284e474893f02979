# shellcheck shell=bash
#
# Stock guests: the Debian kernel that the lab's machines run too, as it is in its package, and an initramfs
# of busybox, a program of ours as its init, and servers as they are in Debian's packages. Sourced by
# scenarios, after lab.sh and lab_boot.
#
#   guest_make day             /lab/guest.kernel and /lab/guest.initrd on every machine; tests/lab/guest/day
#                              is the init
#   guest_make servers FILE... the same with these files of the packages, such as usr/sbin/lighttpd, and the
#                              libraries that they need
#                              (one with a whole path is this machine's own, and goes into the guest's /bin)
#   $GUEST_PACKAGES/usr/bin    the packages' programs on the scenario's own machine
#
# and a pair that protects one, whose primary dies again and again:
#
#   guest_protect              LIVE and BACKUP are the names of its sides, HOST_OF says where each runs
#   guest_says TEXT            the console of LIVE
#   guest_type LINE            the same
#   fail_over N                LIVE dies, and BACKUP is LIVE
#   protect_again N            a new BACKUP, where the dead one was

# And libraries that only they need; the others are this system's own.
GUEST_NAMES="redis-server redis-tools lighttpd memcached libjemalloc2 liblzf1 libhiredis0.14
iperf3 libiperf0 libsctp1"
GUEST_PACKAGES=''

# guest_make INIT [FILE...]
guest_make()
{
	local init=$1 tree=$LAB/guest file
	shift
	mkdir -p "$tree/bin" &&
		cp "$IMAGE_KERNEL/busybox" "$tree/bin/" &&
		cp -r "$IMAGE_KERNEL/guest" "$tree/modules" &&
		cp "tests/lab/guest/$init" "$tree/init" &&
		chmod 755 "$tree/init" &&
		{ [ $# -eq 0 ] || guest_packages; } ||
		lab_fail "the guest's initramfs could not be made"
	for file; do
		case $file in
		/*) cp -L "$file" "$tree/bin/" ;;
		*) guest_add "$tree" "$file" ;;
		esac || lab_fail "the guest's initramfs lacks $file"
	done
	[ $# -eq 0 ] || { head -c 1M /dev/urandom >"$LAB/guest.file" && cp "$LAB/guest.file" "$tree/file"; }
	image_pack "$tree" >"$LAB/guest.initrd" && cp "$IMAGE_KERNEL/vmlinuz" "$LAB/guest.kernel" ||
		lab_fail "the guest's initramfs could not be made"
	rm -rf "$tree"
}

# The packages, unpacked and kept by version.
guest_packages()
{
	local name key='' work
	for name in $GUEST_NAMES; do
		key+=$(image_candidate "$name")
	done
	GUEST_PACKAGES=$IMAGE_CACHE/servers-$(sha256sum <<<"$key" | cut -c 1-16)
	if [ ! -d "$GUEST_PACKAGES" ]; then
		work=$(mktemp -d "$IMAGE_CACHE/new.XXXXXX") || return
		# shellcheck disable=SC2086  # a list of words
		image_unpack "$work" $GUEST_NAMES && rm "$work"/*.deb && chmod 755 "$work" &&
			mv -T "$work" "$GUEST_PACKAGES" || rm -rf "$work"
	fi
	export LD_LIBRARY_PATH=$GUEST_PACKAGES/usr/lib/x86_64-linux-gnu
	[ -d "$GUEST_PACKAGES" ]
}

# guest_add TREE FILE: with all that it loads. The libraries get together into one folder.
guest_add()
{
	local tree=$1 file=$2 library
	mkdir -p "$tree/${file%/*}" "$tree/lib64" && cp -L "$GUEST_PACKAGES/$file" "$tree/$file" || return
	image_libraries_of "$GUEST_PACKAGES/$file" >"$LAB/libraries"
	while IFS= read -r library; do
		[ -e "$tree/lib64/${library##*/}" ] || cp -L "$library" "$tree/lib64/" || return
	done <"$LAB/libraries"
}

# ---- a pair that protects it ----

LIVE='' BACKUP='' SIDES=0
declare -A HOST_OF=()

# These machines are slow: what takes a real one a millisecond takes them 30.
SLOW="--interrupt-wait 50 --lag 3000" PAIR="--console - $SLOW"

# join X: a standby on X.
join()
{
	SIDES=$((SIDES + 1))
	BACKUP=side$SIDES
	HOST_OF[$BACKUP]=$1
	start_standby "$BACKUP" "$1" "$PAIR" "<>/run/$BACKUP/keys"
}

# guest_protect [OPTION...]: its primary on a, and its backup on b.
guest_protect()
{
	SIDES=$((SIDES + 1))
	LIVE=side$SIDES
	HOST_OF[$LIVE]=a
	join b
	start_host "$LIVE" a primary --kernel /lab/guest.kernel --initrd /lab/guest.initrd \
		--standby "$(log_address b)" "$@" "$PAIR" "<>/run/$LIVE/keys"
	check "two hosts protect a stock guest" wait_protected "$LIVE" "$BACKUP" 60
}

# guest_says TEXT: on the console of LIVE, since it is that.
guest_says()
{
	grep -aq "$1" "$LAB/$LIVE/out"
}

# guest_type LINE: at the console of LIVE.
guest_type()
{
	on "${HOST_OF[$LIVE]}" "echo '$1' >/run/$LIVE/keys"
}

# fail_over N: at a moment within four seconds the process of LIVE is killed, or its whole host, which comes
# back: every second time. The backup is LIVE then, and the other host is VACANT.
fail_over()
{
	local victim=$LIVE how=process
	VACANT=${HOST_OF[$LIVE]}
	sleep "$((RANDOM % 4)).$((RANDOM % 1000))"
	if [ $(($1 % 2)) = 0 ]; then
		how=host
		kill_host "$VACANT"
	else
		on "$VACANT" "kill -KILL \$(cat /lab/$victim/pid)"
	fi
	LIVE=$BACKUP
	check "failover $1: the backup goes live when the primary's $how is killed" wait_role "$LIVE" solo 60
	if [ "$how" = host ]; then
		boot_host "$VACANT"
		await_boot "$VACANT"
	fi
}

# protect_again N: behind fail_over.
protect_again()
{
	join "$VACANT"
	check "failover $1: two hosts protect it again" wait_protected "$LIVE" "$BACKUP" 120
}

# pauses_ms: how long the guest has stood still in all failovers.
pauses_ms()
{
	cat "$LAB"/side*/log |
		sed -n 's/.*live as generation .*: silence \([0-9]*\).*replay of the rest \([0-9]*\).*release \([0-9]*\).*/\1 \2 \3/p' |
		awk '{ n += $1 + $2 + $3 } END { print n + 0 }'
}

# copies_ms: and for how long while a survivor was copied to the next backup.
copies_ms()
{
	awk 'FNR == 1 { survived = 0 }
		/: live as generation / { survived = 1 }
		survived && sub(/.* the guest stood still for /, "") { n += $1 }
		END { printf "%.0f", n }' "$LAB"/side*/log
}
