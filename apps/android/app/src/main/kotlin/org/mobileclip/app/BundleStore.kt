package org.mobileclip.app

import android.content.Context
import java.io.File
import java.io.IOException
import org.mobileclip.kit.Bundle
import org.mobileclip.kit.BundleException

/**
 * The bundles of this installation: those in the app's assets (`assets/bundles/NAME`, which `mobileclip apps install
 * android` fills; `NAME-small` has fewer bits), copied to files once because the runtime maps files; and those that a
 * developer copied into `folder` by adb, which come first.
 */
class BundleStore(private val context: Context) {
    /** Where a developer may put bundles, each in a folder of its name. */
    val folder: File
        get() = File(context.getExternalFilesDir(null) ?: context.filesDir, ASSETS)

    private val installed = File(context.filesDir, "installed")

    /** Names of the bundles, those of `folder` first. */
    fun names(): List<String> {
        val own = folder.listFiles { file -> file.isDirectory }.orEmpty().map { it.name }.sorted()
        return (own + context.assets.list(ASSETS).orEmpty().sorted()).distinct()
    }

    /**
     * A bundle by its name; its files are compared with their hashes the first time.
     *
     * @throws BundleException with a sentence for the user.
     */
    fun open(name: String, tokenizer: String): Bundle {
        val own = File(folder, name)
        val place = if (own.isDirectory) own else install(name)
        val checked = File(context.filesDir, "checked-$name")
        val manifest = File(place, "manifest.json")
        val stamp = "${place.path} ${manifest.lastModified()} ${manifest.length()}"
        val known = checked.isFile && checked.readText() == stamp
        return Bundle.open(place, tokenizer, hashes = !known).also {
            if (!known) checked.writeText(stamp)
        }
    }

    /** Copies a bundle out of the assets, whole or not at all; again after an update of the app. */
    private fun install(name: String): File {
        val all = File(installed, "${updated()}")
        val place = File(all, name)
        if (place.isDirectory) return place
        installed.listFiles().orEmpty().filter { it != all }.forEach { it.deleteRecursively() }
        val part = File(all, "$name.partial")
        part.deleteRecursively()
        try {
            copy("$ASSETS/$name", part)
        } catch (error: IOException) {
            part.deleteRecursively()
            throw BundleException(
                "The model cannot be copied (${error.message}). Free some space and try again.",
                "unreadable",
                error,
            )
        }
        part.renameTo(place)
        return place
    }

    private fun copy(from: String, into: File) {
        val inner = context.assets.list(from).orEmpty()
        if (inner.isEmpty()) {
            into.parentFile?.mkdirs()
            context.assets.open(from).use { input ->
                into.outputStream().use { input.copyTo(it) }
            }
        } else {
            into.mkdirs()
            inner.forEach { copy("$from/$it", File(into, it)) }
        }
    }

    private fun updated(): Long =
        context.packageManager.getPackageInfo(context.packageName, 0).lastUpdateTime

    private companion object {
        const val ASSETS = "bundles"
    }
}
