# shellcheck shell=bash
#
# What the lab's machines boot: a stock Debian kernel, unpacked and not installed, and an initramfs of
# this build and of this system's own libraries and tools. Sourced by lab.sh, from the top folder.
#
#   image_make FILE     FILE.kernel and FILE.initrd; on failure IMAGE_LACKS says what is missing
#   image_root FILE     the initramfs of with_kvm.sh's machine, behind image_install and image_kernel
#   IMAGE_QEMU          the emulator and what every machine has of it; IMAGE_APPEND, of the kernel's command line
#
# Of the two parts of the initramfs one is kept in the cache, by its content: kernel modules, libraries
# and tools, about 20 MB. The other one, the build itself, is packed each time, in a blink.

IMAGE_CACHE=${XDG_CACHE_HOME:-/var/cache}/doppel-lab
IMAGE_LACKS=''

# Each is loaded with what it depends on, in this order. rdma_rxe finds its checksum by name, so that no
# dependency names crc32_generic.
IMAGE_MODULES="virtio_pci virtio_console virtio_net 9pnet_virtio 9p bridge veth tun ccp kvm-amd
crc32_generic rdma_ucm rdma_rxe virtio_blk crc32c_generic ext4"

# In a machine whose root is this system's.
IMAGE_ROOT_MODULES="virtio_pci virtio_console 9pnet_virtio 9p overlay bridge veth tun ccp kvm-amd crc32c_generic"

# And in a stock guest.
IMAGE_GUEST_MODULES="virtio_mmio virtio_net virtio_console virtio-rng"

# Of the system itself. The rest of a shell's daily tools is busybox.
IMAGE_TOOLS="bash timeout ip rdma rping ib_write_bw ib_write_lat"

# Installed by this step alone: nothing but the lab needs them.
IMAGE_PACKAGES="qemu-system-x86 e2fsprogs perftest rdmacm-utils iproute2"

# Let a machine have one processor: what QEMU 7.2 emulates of several is not safe for KVM. A processor that restores its
# FPU (cpu_clear_ignne) writes hflags2 of processor 0 without a lock, and when that enters a guest at this moment the
# guest loses its nested paging, and faults until it is reset. And one that executes code which another is rewriting (a
# static key, with the first VM) may stay at the breakpoint for ever.
#
# Two things that a real processor does at once are slow under emulation, and would be most of what is measured: copying
# by `rep movsb`, which without erms nobody does, and a clock that is not the TSC.
IMAGE_QEMU=(qemu-system-x86_64 -no-user-config -nodefaults -display none -no-reboot
	-accel "tcg,thread=multi" -cpu "max,+svm,+npt,-erms,-fsrm" -M q35)
IMAGE_APPEND="console=ttyS0 loglevel=4 clocksource=tsc tsc=reliable panic=-1 mitigations=off nowatchdog"

# image_lacks WHAT: for whoever has to tell why there is no lab.
image_lacks()
{
	IMAGE_LACKS=$*
	return 1
}

image_install()
{
	local tool missing='' log
	for tool in qemu-system-x86_64 mkfs.ext4 $IMAGE_TOOLS; do
		command -v "$tool" >/dev/null || missing="$missing $tool"
	done
	[ -n "$missing" ] || return 0
	if ! command -v apt-get >/dev/null; then
		image_lacks "the commands$missing are missing, and there is no apt-get to install them"
		return
	fi
	if [ "$(id -u)" -ne 0 ]; then
		image_lacks "the commands$missing are missing: run as root, or install first: $IMAGE_PACKAGES"
		return
	fi
	echo "installing: $IMAGE_PACKAGES" >&2
	log=$(mktemp) || return
	# shellcheck disable=SC2086  # a list of words
	if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
		$IMAGE_PACKAGES; } </dev/null >"$log" 2>&1; then
		tail -n 5 "$log" >&2
		rm -f "$log"
		image_lacks "these packages could not be installed: $IMAGE_PACKAGES"
		return
	fi
	rm -f "$log"
}

# The newest kernel's package, a real one instead of the name that always means the newest.
image_kernel_package()
{
	apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p'
}

# image_candidate PACKAGE: its newest version, as package_version.
image_candidate()
{
	local version
	version=$(apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: \([0-9].*\)/\1/p')
	[ -n "$version" ] && echo "${1}_$version"
}

# image_unpack FOLDER PACKAGE...: downloads the packages and unpacks them there.
image_unpack()
{
	local folder=$1 package
	shift
	(cd "$folder" && apt-get download "$@") </dev/null >/dev/null 2>&1 || return
	for package in "$folder"/*.deb; do
		dpkg-deb -x "$package" "$folder" || return
	done
}

# image_pick FROM TO MODULE...: the modules that we want and those they need, by modules.dep, and TO/order, which
# has their names in an order in which each finds what it needs.
image_pick()
{
	local from=$1 to=$2 line path name word
	shift 2
	local -A path_of=() needs=() picked=()
	while IFS= read -r line; do
		path=${line%%:*}
		name=${path##*/}
		path_of[${name%.ko*}]=$path
		needs[${name%.ko*}]=${line#*:}
	done <"$from/modules.dep"
	mkdir -p "$to" || return
	for word; do
		image_pick_one "$word" || return
	done >"$to/order"
}

# The part of image_pick that calls itself.
image_pick_one()
{
	local module=$1 need
	[ -z "${picked[$module]:-}" ] || return 0
	picked[$module]=1
	if [ -z "${path_of[$module]:-}" ]; then
		echo "the kernel's package has no module $module" >&2
		return 1
	fi
	for need in ${needs[$module]}; do
		need=${need##*/}
		image_pick_one "${need%.ko*}" || return
	done
	cp "$from/${path_of[$module]}" "$to/" || return
	echo "${path_of[$module]##*/}"
}

# Kernel, modules and busybox, kept by version; sets IMAGE_KERNEL to their folder. Without a network the
# newest that was ever had will do.
image_kernel()
{
	local package busybox key work release wanted tries
	mkdir -p "$IMAGE_CACHE" 2>/dev/null || {
		image_lacks "the cache $IMAGE_CACHE cannot be written: set XDG_CACHE_HOME"
		return
	}
	wanted=$(cksum <<<"$IMAGE_MODULES, $IMAGE_ROOT_MODULES, $IMAGE_GUEST_MODULES" | cut -d ' ' -f 1)
	for tries in 1 2; do
		package=$(image_kernel_package)
		busybox=$(image_candidate busybox-static)
		key=$(image_candidate "$package")+${busybox##*_}+$wanted
		IMAGE_KERNEL=$IMAGE_CACHE/${key//[!A-Za-z0-9.+_-]/-}
		if [ -n "$package" ] && [ -n "$busybox" ]; then
			[ ! -e "$IMAGE_KERNEL" ] || return 0
			work=$(mktemp -d "$IMAGE_CACHE/new.XXXXXX") || return
			if image_unpack "$work" "$package" busybox-static; then
				break
			fi
			rm -rf "$work"
		fi
		work=''
		[ "$tries" -eq 2 ] || [ "$(id -u)" -ne 0 ] || apt-get update </dev/null >/dev/null 2>&1
	done
	if [ -z "$work" ]; then
		IMAGE_KERNEL=$(find "$IMAGE_CACHE" -maxdepth 1 -name "linux-image-*+$wanted" -printf '%T@ %p\n' |
			sort -rn | sed -n '1s/^[^ ]* //p')
		[ -z "$IMAGE_KERNEL" ] || return 0
		image_lacks "Debian's packages linux-image-amd64 and busybox-static could not be downloaded"
		return
	fi
	release=${package#linux-image-}
	mkdir "$work/kernel" &&
		cp "$work/boot/vmlinuz-$release" "$work/kernel/vmlinuz" &&
		cp "$work/bin/busybox" "$work/kernel/" &&
		"$work/bin/busybox" depmod -b "$work" "$release" &&
		image_pick "$work/lib/modules/$release" "$work/kernel/modules" $IMAGE_MODULES &&
		image_pick "$work/lib/modules/$release" "$work/kernel/root" $IMAGE_ROOT_MODULES &&
		image_pick "$work/lib/modules/$release" "$work/kernel/guest" $IMAGE_GUEST_MODULES &&
		mv -T "$work/kernel" "$IMAGE_KERNEL"
	# Somebody else may have been faster.
	[ -e "$IMAGE_KERNEL" ] || image_lacks "the kernel's package could not be taken apart"
	wanted=$?
	rm -rf "$work"
	return "$wanted"
}

# The programs of the build that a machine gets, as far as they exist.
image_programs()
{
	local program
	for program in "$BUILD"/{doppel,tests/client/client} "${CRASH_BUILD:-build-crash}/doppel" \
		"$BUILD"/tests/unit/transport/* "$BUILD"/tests/bench/*; do
		[ ! -x "$program" ] || [ -d "$program" ] || echo "$program"
	done
}

# image_libraries_of FILE...: what they load, by path, each once; missing-NAME is what this system has not.
image_libraries_of()
{
	local file
	for file; do
		ldd "$file" 2>/dev/null
	done | sed -n -e 's/.*=> \(\/[^ ]*\) .*/\1/p' -e 's/^[[:space:]]*\(\/[^ ]*\) .*/\1/p' \
		-e 's/^[[:space:]]*\([^ ]*\) => not found/missing-\1/p' | sort -u
}

# Everything of this system that the programs and tools load, at run time too: DPDK's drivers, libibverbs'
# provider, what ends a thread.
image_libraries()
{
	local plugins
	plugins=$(find -L /usr/lib/x86_64-linux-gnu/dpdk /usr/lib/x86_64-linux-gnu/libibverbs -type f \( \
		-name 'librte_net_tap.so' -o -name 'librte_net_af_packet.so' -o -name 'librte_mempool_ring.so' -o \
		-name 'librte_bus_vdev.so' -o -name 'librxe-rdmav*.so' \) 2>/dev/null)
	echo "$plugins"
	ls /usr/lib/x86_64-linux-gnu/libgcc_s.so.1 /lib/x86_64-linux-gnu/libgcc_s.so.1 2>/dev/null
	# shellcheck disable=SC2046,SC2086  # lists of words
	image_libraries_of $(image_programs) $plugins $(command -v $IMAGE_TOOLS)
}

# image_pack FOLDER >ARCHIVE
image_pack()
{
	(cd "$1" && find . | "$IMAGE_KERNEL/busybox" cpio -o -H newc 2>/dev/null)
}

image_root()
{
	local tree=$1.tree
	mkdir -p "$tree"/{bin,dev,lower,new,proc,sys,upper} &&
		cp "$IMAGE_KERNEL/busybox" "$tree/bin/" &&
		cp -r "$IMAGE_KERNEL/root" "$tree/modules" &&
		cp "${BASH_SOURCE[0]%/*}/init_root" "$tree/init" &&
		image_pack "$tree" >"$1" || image_lacks "the machine's initramfs could not be made" || return
	rm -rf "$tree"
}

# image_add TREE FILE: a library by its path and by the one that it really has. DPDK loads its drivers by
# either, and must find them to be the same.
image_add()
{
	local tree=$1 file=$2 real
	real=$(realpath "$file") && mkdir -p "$tree/${real%/*}" "$tree/${file%/*}" && cp "$real" "$tree$real" || return
	[ "$real" = "$file" ] || ln -sf "$real" "$tree$file"
}

# What a machine has of the system; sets IMAGE_BASE to the archive.
image_base()
{
	local tree=$1/base file
	mkdir -p "$tree"/{bin,busybox,dev,etc/libibverbs.d,lab,lib64,modules,proc,root,run,sys,tmp,usr/bin} &&
		ln -s /usr/bin "$tree/sbin" &&
		cp "$IMAGE_KERNEL/busybox" "$tree/bin/" &&
		cp "$IMAGE_KERNEL"/modules/* "$tree/modules/" &&
		cp /etc/libibverbs.d/rxe.driver "$tree/etc/libibverbs.d/" &&
		echo 'root:x:0:0::/root:/bin/bash' >"$tree/etc/passwd" || return
	for file in $IMAGE_TOOLS; do
		cp -L "$(command -v "$file")" "$tree/usr/bin/" || return
	done
	ln -s /usr/bin/bash "$tree/bin/bash"
	while IFS= read -r file; do
		image_add "$tree" "$file" || return
	done < <(image_libraries)
	file=$(cd "$tree" && find . -type f -exec sha256sum {} + | sort -k 2 | sha256sum)
	IMAGE_BASE=$IMAGE_CACHE/base-${file:0:16}.cpio
	[ ! -e "$IMAGE_BASE" ] || { touch "$IMAGE_BASE"; return; }
	image_pack "$tree" >"$IMAGE_BASE.$$" && mv "$IMAGE_BASE.$$" "$IMAGE_BASE" || return
	# Those of other builds and systems may still be in use somewhere; old ones are not.
	find "$IMAGE_CACHE" -maxdepth 1 \( -name 'base-*' -o -name 'new.*' \) -mtime +7 -exec rm -rf {} +
}

# What a machine has of the build: the build folders as they are, and the lab's own scripts.
image_build()
{
	local tree=$1/build program to
	mkdir -p "$tree/build/guests" &&
		cp tests/lab/init tests/lab/machine.sh "$tree/" &&
		cp "$BUILD"/guests/*.elf "$tree/build/guests/" || return
	while IFS= read -r program; do
		case $program in
		"$BUILD"/*)
			to=$tree/build/${program#"$BUILD"/}
			;;
		*)
			to=$tree/build-crash/${program##*/}
			;;
		esac
		mkdir -p "${to%/*}" && cp "$program" "$to" || return
	done < <(image_programs)
}

image_make()
{
	local work=$1.work tool
	for tool in "$BUILD/doppel" "$BUILD/tests/client/client" "$BUILD/tests/lab/wire" "$BUILD/guests/ledger.elf"; do
		if [ ! -e "$tool" ]; then
			image_lacks "$tool is missing: run make first"
			return
		fi
	done
	image_install && image_kernel || return
	mkdir "$work" && image_base "$work" && image_build "$work" &&
		{ cat "$IMAGE_BASE" && image_pack "$work/build"; } >"$1.initrd" &&
		ln -s "$IMAGE_KERNEL/vmlinuz" "$1.kernel" || {
		image_lacks "the machines' initramfs could not be made"
		return
	}
	rm -rf "$work"
}
