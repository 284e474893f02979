# shellcheck shell=bash
#
# A stock guest: the Debian kernel that the lab's machines run too, as it is in its package, and an
# initramfs of busybox and one program of ours. Sourced by scenarios, after lab.sh and lab_boot.
#
#   guest_make      /lab/guest.kernel and /lab/guest.initrd on every machine

guest_make()
{
	local tree=$LAB/guest
	mkdir -p "$tree/bin" &&
		cp "$IMAGE_KERNEL/busybox" "$tree/bin/" &&
		cp tests/lab/guest/init "$tree/init" &&
		chmod 755 "$tree/init" &&
		image_pack "$tree" | gzip >"$LAB/guest.initrd" &&
		cp "$IMAGE_KERNEL/vmlinuz" "$LAB/guest.kernel" ||
		lab_fail "the guest's initramfs could not be made"
}
