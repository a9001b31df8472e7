#!/bin/sh
# An unpacked Debian trixie, for what the tests need and this system's release does not ship: adbd (a real device
# for adb) and swiftlang (a real compiler for the iOS sources).
#
#     sh tests/trixie.sh        prints the root's folder; builds it first where it is not there (about 3 minutes, as root)
#     chroot "$(sh tests/trixie.sh)" swiftc --version
#
# The root lies in $MOBILECLIP_TRIXIE, /var/cache/mobileclip/trixie without it. It is unpacked beside its place and
# renamed when whole, so that a broken run leaves nothing that looks finished. The mirror is the one that apt uses here.
# /proc and /dev are mounted in it where they are not.
set -eu

root=${MOBILECLIP_TRIXIE:-/var/cache/mobileclip/trixie}
packages=swiftlang,adbd,libc6-dev,ca-certificates

fail() { echo "$*" >&2; exit 2; }

# The first address of a Debian archive in apt's own sources: deb822 files, then one-line ones.
mirror() {
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -e "$file" ] && sed -n 's/^URIs:[[:space:]]*\([^[:space:]]*\).*/\1/p' "$file"
    done | grep '/debian/*$' | head -n 1
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -e "$file" ] && sed -n 's/^deb[[:space:]]\{1,\}\(\[[^]]*\][[:space:]]*\)\{0,1\}\([^[:space:]]*\).*/\2/p' "$file"
    done | grep '/debian/*$' | head -n 1
}

unpack() {
    [ "$(id -u)" = 0 ] || fail "$root is not there and only root can unpack it: run sh tests/trixie.sh as root once."
    command -v debootstrap >/dev/null || fail "$root is not there and debootstrap is missing: apt-get install debootstrap."
    from=$(mirror | head -n 1)
    [ -n "$from" ] || fail "No Debian archive in apt's sources: name one in /etc/apt/sources.list."
    mkdir -p "$(dirname "$root")"
    part=$(mktemp -d "$root.part.XXXXXX")
    trap 'rm -rf "$part"' EXIT INT TERM
    chmod 755 "$part"
    debootstrap --variant=minbase --include="$packages" trixie "$part" "$from" >&2
    chroot "$part" apt-get clean
    mkdir -p "$part/data/local/tmp"
    # What runs in the root must not find this system's services by its name.
    umount "$part/proc" 2>/dev/null || true
    if [ -e "$root/usr/bin/swiftc" ]; then return; fi   # somebody else was faster: theirs is as good
    mv -T "$part" "$root"
    trap - EXIT INT TERM
}

mounted() { grep -q " $root/$1 " /proc/mounts; }

[ -e "$root/usr/bin/swiftc" ] && [ -d "$root/data/local/tmp" ] || unpack
if [ "$(id -u)" = 0 ]; then
    mounted proc || mount -t proc proc "$root/proc" || fail "$root/proc could not be mounted."
    mounted dev || mount --bind /dev "$root/dev" || fail "$root/dev could not be mounted."
fi
echo "$root"
