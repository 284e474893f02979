#!/bin/sh
# Debian packages that Doppel is built and tested with. `install` installs what is missing, `name` only
# says what is; of these and of those that are named behind it.
packages="gcc libc6-dev binutils pkg-config iproute2 libdpdk-dev libisal-dev libxxhash-dev libevent-dev
libjansson-dev libcmocka-dev libpmem-dev libsodium-dev librdmacm-dev libibverbs-dev libarchive-dev libzydis-dev"
action=${1:-name}
[ $# = 0 ] || shift
packages="$packages $*"

missing=
for package in $packages; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
		missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$action" != install ]; then
	echo "doppel: these packages are missing:$missing" >&2
	echo "doppel: install them with: apt-get install --no-install-recommends$missing" >&2
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "doppel: run as root, or install first:$missing" >&2
	exit 1
fi
echo "installing:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # a list of words
if ! { apt-get update && apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	echo "doppel: the packages could not be installed; the lines above say why" >&2
	exit 1
fi
