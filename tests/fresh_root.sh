#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only OR GPL-3.0-only
# A new Debian root, without a compiler or pip: does the package install by dpkg -i, and does what it installs work?
# usage, as root: tests/fresh_root.sh PACKAGE.deb
set -eu
package=$1
root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
debootstrap --variant=minbase --include=python3,python3-numpy,iproute2,nftables "$suite" "$root" >"$root.log" 2>&1 \
	|| { tail "$root.log"; exit 1; }
rm -f "$root.log"
cp "$package" "$root/lcsync.deb"
# mounts and processes end with this
unshare --mount --pid --fork --kill-child sh -eu -c '
	mount -t proc proc "$0/proc" && mount -t sysfs sysfs "$0/sys" && mount -t tmpfs tmpfs "$0/tmp"
	exec chroot "$0" /bin/sh -eux -c "
		if command -v cc || command -v pip; then exit 1; fi
		dpkg -i /lcsync.deb
		dpkg --verify lcsync
		cd /tmp
		lcsync --version
		lcshare --help >/dev/null
		test -s /usr/share/man/man1/lcsync.1.gz && test -s /usr/share/man/man7/lcsync-protocol.7.gz
		test -s /lib/systemd/system/lcsync.service && test -s /usr/share/bash-completion/completions/lcsync
		lcsync key sign /tmp/key
		lcsync demo
		dpkg --purge lcsync
		if test -e /usr/lib/lcsync; then exit 1; fi
	"' "$root"
echo "installed, run and purged in a fresh $suite"
