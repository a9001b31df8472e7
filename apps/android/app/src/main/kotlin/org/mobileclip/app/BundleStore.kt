package org.mobileclip.app

import android.content.Context
import java.io.File
import java.io.IOException
import org.mobileclip.kit.Bundle
import org.mobileclip.kit.BundleException

/**
 * The bundle of this installation: the one in the app's assets (`assets/bundle`, which `mobileclip
 * apps install android` fills), copied to files once because the runtime maps files; or one that a
 * developer copied into `folder` by adb, which comes first.
 */
class BundleStore(private val context: Context) {
    /** Where a developer may put a bundle. */
    val folder: File
        get() = File(context.getExternalFilesDir(null) ?: context.filesDir, ASSET)

    private val installed = File(context.filesDir, "installed")

    /**
     * The bundle; its files are compared with their hashes the first time.
     *
     * @throws BundleException with a sentence for the user.
     */
    fun open(tokenizer: String): Bundle {
        val place = if (folder.isDirectory) folder else install()
        val checked = File(context.filesDir, "checked")
        val manifest = File(place, "manifest.json")
        val stamp = "${place.path} ${manifest.lastModified()} ${manifest.length()}"
        val known = checked.isFile && checked.readText() == stamp
        return Bundle.open(place, tokenizer, hashes = !known).also {
            if (!known) checked.writeText(stamp)
        }
    }

    /**
     * Copies the bundle out of the assets, whole or not at all; again after an update of the app.
     */
    private fun install(): File {
        if (context.assets.list(ASSET).isNullOrEmpty()) {
            throw BundleException(context.getString(R.string.no_bundle, folder.path), "no_manifest")
        }
        val place = File(installed, "${updated()}")
        if (place.isDirectory) return place
        installed.deleteRecursively()
        val part = File(installed, "partial")
        try {
            copy(ASSET, part)
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
            context.assets.open(from).use { input -> into.outputStream().use { input.copyTo(it) } }
        } else {
            into.mkdirs()
            inner.forEach { copy("$from/$it", File(into, it)) }
        }
    }

    private fun updated(): Long =
        context.packageManager.getPackageInfo(context.packageName, 0).lastUpdateTime

    private companion object {
        const val ASSET = "bundle"
    }
}
