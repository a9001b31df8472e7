plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.android)
}

android {
    namespace = "org.mobileclip.app"
    compileSdk = 35

    defaultConfig {
        applicationId = "org.mobileclip.app"
        minSdk = 30
        targetSdk = 35
        versionCode = 1
        versionName = "1.0"
        testInstrumentationRunner = "org.mobileclip.app.BenchmarkInstrumentation"
    }

    buildTypes {
        release {
            isMinifyEnabled = false // the runtime is called from native code by name
            signingConfig = signingConfigs.getByName("debug") // a sample: latency is measured in this build
        }
    }

    // Latency is a release build's.
    testBuildType = "release"

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    androidResources {
        noCompress += listOf("pte", "bin") // copied once, at the first start
    }

    lint {
        warningsAsErrors = false
        abortOnError = true
    }
}

kotlin {
    compilerOptions {
        jvmTarget = org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_17
    }
}

dependencies {
    implementation(project(":kit"))
    implementation(libs.executorch)
}
