#!/bin/sh
# Compiles and links the app's resources and manifest with aapt2, as Gradle's plugin would: an error in either fails here.
#
#     sh resources.sh ANDROID.jar OUT     -> OUT/app.apk, OUT/java/.../R.java, OUT/test/ (what Robolectric reads)
set -eu
android=$1
out=$2
command -v aapt2 >/dev/null || { echo "aapt2 is missing: apt-get install aapt." >&2; exit 2; }
rm -rf "$out"
mkdir -p "$out/java" "$out/test/com/android/tools"
# Gradle gives the package, the versions and the instrumentation from build.gradle.kts.
sed 's|<manifest |&package="org.mobileclip.app" |' src/main/AndroidManifest.xml > "$out/AndroidManifest.xml"
aapt2 compile --dir src/main/res -o "$out/res.zip"
aapt2 link -I "$android" --manifest "$out/AndroidManifest.xml" --min-sdk-version 30 --target-sdk-version 35 \
    --java "$out/java" -o "$out/app.apk" "$out/res.zip"
cat > "$out/test/com/android/tools/test_config.properties" <<END
android_merged_manifest=$out/AndroidManifest.xml
android_resource_apk=$out/app.apk
android_custom_package=org.mobileclip.app
END
# A library that Robolectric needs, in Android's form: Maven does not look into it.
(cd "$out" && jar xf "$(dirname "$android")/monitor.aar" classes.jar)
