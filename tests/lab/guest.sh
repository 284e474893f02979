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
#   $GUEST_PACKAGES/usr/bin    the packages' programs on the scenario's own machine

# And libraries that only they need; the others are this system's own.
GUEST_NAMES="redis-server redis-tools lighttpd memcached libjemalloc2 liblzf1 libhiredis0.14"
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
		guest_add "$tree" "$file" || lab_fail "the guest's initramfs lacks $file"
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
