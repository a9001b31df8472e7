plugins {
    alias(libs.plugins.kotlin.jvm)
}

kotlin {
    compilerOptions {
        jvmTarget = org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_17
        allWarningsAsErrors = true
    }
}

java {
    sourceCompatibility = JavaVersion.VERSION_17
    targetCompatibility = JavaVersion.VERSION_17
}

val golden = rootDir.resolve("../golden")

// The merges and the tables of the cleaning are the golden vectors' own, so that no second copy can differ.
tasks.processResources {
    from(golden) {
        include("merges.txt", "cleaning.json")
        into("org/mobileclip/kit")
    }
}

dependencies {
    testImplementation(platform(libs.junit.bom))
    testImplementation(libs.junit.jupiter)
    testImplementation(libs.kotlin.test)
    testRuntimeOnly(libs.junit.launcher)
}

tasks.test {
    useJUnitPlatform()
    maxHeapSize = "2g"
    systemProperty("golden", golden.path)
}
