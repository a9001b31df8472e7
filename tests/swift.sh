#!/bin/sh
# The Swift half of the sample apps, on Linux or macOS.
#
#     sh tests/swift.sh                             tests the kit, prints its speed, parses the app's sources
#     MOBILECLIP_RESULT=out.json sh tests/swift.sh  and keeps the result JSON of a measured run
#     MOBILECLIP_BUNDLES=a:b sh tests/swift.sh      and reads these bundles
#
# Uses the system's swift; else that of an unpacked Debian trixie (tests/trixie.sh). Where neither is to be had it says why
# and exits with 77. Everything is built in release mode, and kept in $MOBILECLIP_SWIFT_BUILD for the next run.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
skip() { echo "skipped: $*"; exit 77; }

root=
result=${MOBILECLIP_RESULT:-}
bundles=${MOBILECLIP_BUNDLES:-}
if command -v swift >/dev/null 2>&1; then
    work=$here/apps
    build=${MOBILECLIP_SWIFT_BUILD:-${TMPDIR:-/tmp}/mobileclip-swift}
    inside() { env "$@"; }
else
    [ "$(id -u)" = 0 ] || skip "there is no swift here, and only root can enter Debian trixie's."
    root=$(sh "$here/tests/trixie.sh" 2>"$log" | tail -n 1) || true
    [ -n "$root" ] && [ -d "$root/usr/bin" ] ||
        skip "there is no swift here, and Debian trixie's cannot be unpacked: $(tail -n 1 "$log")"
    # What is compiled is a copy: the root must not hold on to the checkout, and two checkouts may be tested at once.
    name=mobileclip-$(printf %s "$here" | cksum | cut -d ' ' -f 1)
    work=/var/tmp/$name/apps
    build=${MOBILECLIP_SWIFT_BUILD:-/var/tmp/$name/build}
    [ -z "$result" ] || result=/var/tmp/$name/result.json
    mkdir -p "$root$work"
    for part in ios golden; do
        # Files that are gone must go, and times must stay, or all is built anew.
        [ ! -d "$root$work/$part" ] || (cd "$root$work" && find "$part" -type f) | while read -r file; do
            [ -e "$here/apps/$file" ] || rm -f "$root$work/$file"
        done
        cp -a -u "$here/apps/$part" "$root$work/"
    done
    rm -rf "$root/var/tmp/$name/bundles"
    inner=
    for bundle in $(echo "$bundles" | tr : ' '); do
        mkdir -p "$root/var/tmp/$name/bundles"
        cp -r "$bundle" "$root/var/tmp/$name/bundles/"
        inner=$inner${inner:+:}/var/tmp/$name/bundles/$(basename "$bundle")
    done
    bundles=$inner
    inside() { chroot "$root" env HOME=/var/tmp "$@"; }
fi

swift_() {
    verb=$1
    shift
    inside MOBILECLIP_RESULT="$result" MOBILECLIP_BUNDLES="$bundles" swift "$verb" -c release -Xswiftc -enable-testing \
        --package-path "$work/ios/MobileCLIPKit" --scratch-path "$build" "$@"
}

swift_ build --build-tests >"$log" 2>&1 || { tail -n 60 "$log"; echo "failed: the kit does not compile"; exit 1; }
swift_ test --skip-build >"$log" 2>&1 || { grep -v "started at\|passed (" "$log"; echo "failed: the kit's tests"; exit 1; }
grep "Executed" "$log" | tail -n 1
inside "$build/release/bench" "$work/golden"
# SwiftUI is not here, the grammar is: an app's source with a mistake in it fails on Linux too.
sources=$(cd "$here/apps" && find ios/App ios/MobileCLIPKit/Sources -name '*.swift' | sort)
for file in $sources; do inside swiftc -frontend -parse -swift-version 6 "$work/$file" || { echo "failed: $file"; exit 1; }; done
[ -z "$root" ] || [ -z "$result" ] || cp "$root$result" "$MOBILECLIP_RESULT"
echo "passed: $(grep -c "^Test Case .* passed (" "$log") tests of the kit, $(($(echo "$sources" | wc -l))) sources parsed"
