#!/bin/sh
# The Android app without Google's repository: the Kotlin kit against the golden vectors, the app's sources compiled
# against Android's own classes, its resources linked by aapt2, its screens run by Robolectric. All from Maven Central.
#
#     sh tests/kotlin.sh            compile and test; the last lines are Surefire's; exit code 77 where it cannot run, with why
#     sh tests/kotlin.sh kit        the kit alone, which needs no aapt2
#     sh tests/kotlin.sh speed      tokens and search on one core
#
# The first run downloads some 800 MB into Maven's own folder. Full build, with Gradle: apps/android/README.md.
set -eu

cd "$(dirname "$0")/../apps/android"
what=${1:-all}

skip() { echo "skipped: $*" >&2; exit 77; }
command -v java >/dev/null || skip "no Java; apt-get install openjdk-17-jdk-headless"
command -v mvn >/dev/null || skip "no Maven; apt-get install maven"

modules="-pl kit,executorch-signatures,app"
case $what in
    all) command -v aapt2 >/dev/null || skip "no aapt2, which links the app's resources; apt-get install aapt" ;;
    kit | speed) modules="-pl kit" ;;
    *) echo "$what is unknown: give kit, speed, or nothing." >&2; exit 2 ;;
esac

goal=verify
[ "$what" = speed ] && goal="test-compile dependency:build-classpath -Dmdep.outputFile=target/classpath"

log=$(mktemp)
trap 'rm -f "$log"' EXIT INT TERM

# First with what is there already; the network only where something is missing.
if ! mvn -B -o $modules $goal >"$log" 2>&1 && grep -qE 'offline mode|has not been downloaded' "$log"; then
    if ! mvn -B $modules $goal >"$log" 2>&1; then
        grep -qE 'Could not transfer|Unknown host|Connection (refused|timed out)|Network is unreachable' "$log" &&
            skip "Maven Central is out of reach: $(grep -m 1 -oE '(Could not transfer|Unknown host)[^:]*' "$log")"
    fi
fi

if ! grep -q 'BUILD SUCCESS' "$log"; then
    grep -E '^\[ERROR\]|Tests run:|error:' "$log" | head -n 60
    exit 1
fi

if [ "$what" = speed ]; then
    java -Xmx2g -Dgolden=../golden -cp "kit/target/classes:kit/target/test-classes:$(cat kit/target/classpath)" org.mobileclip.kit.SpeedKt
else
    grep -E 'Tests run:|BUILD SUCCESS|^(100,000|1,000)' "$log"
fi
