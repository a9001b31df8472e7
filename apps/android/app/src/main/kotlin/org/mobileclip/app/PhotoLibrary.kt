package org.mobileclip.app

import android.Manifest
import android.content.ContentUris
import android.content.Context
import android.content.pm.PackageManager
import android.net.Uri
import android.os.Build
import android.provider.MediaStore
import java.io.File
import org.mobileclip.kit.IndexFile
import org.mobileclip.kit.IndexingProgress
import org.mobileclip.kit.PhotoIndexing
import org.mobileclip.kit.PhotoKey
import org.mobileclip.kit.PhotoSource

/** The photos of the device and their index; safe for several threads. */
class PhotoLibrary(private val context: Context) {
    private val lock = Any()
    private var opened: Pair<String, IndexFile>? = null

    /** Told on the thread that indexes. */
    @Volatile var onProgress: (IndexingProgress) -> Unit = {}

    @Volatile
    var progress: IndexingProgress? = null
        private set

    /** What must be asked for; on Android 14 the user may choose a part of the photos. */
    val permissions: Array<String> =
        when {
            Build.VERSION.SDK_INT >= Build.VERSION_CODES.UPSIDE_DOWN_CAKE ->
                arrayOf(
                    Manifest.permission.READ_MEDIA_IMAGES,
                    Manifest.permission.READ_MEDIA_VISUAL_USER_SELECTED,
                )
            Build.VERSION.SDK_INT >= Build.VERSION_CODES.TIRAMISU ->
                arrayOf(Manifest.permission.READ_MEDIA_IMAGES)
            else -> arrayOf(Manifest.permission.READ_EXTERNAL_STORAGE)
        }

    val isAllowed: Boolean
        get() =
            permissions.any { context.checkSelfPermission(it) == PackageManager.PERMISSION_GRANTED }

    fun uri(id: Long): Uri =
        ContentUris.withAppendedId(MediaStore.Images.Media.EXTERNAL_CONTENT_URI, id)

    /** All photos that the app may see, the newest first. */
    fun list(): List<PhotoKey> {
        val columns = arrayOf(MediaStore.Images.Media._ID, MediaStore.Images.Media.DATE_MODIFIED)
        val order = "${MediaStore.Images.Media.DATE_ADDED} DESC"
        val out = ArrayList<PhotoKey>()
        context.contentResolver
            .query(MediaStore.Images.Media.EXTERNAL_CONTENT_URI, columns, null, null, order)
            ?.use { cursor ->
                while (cursor.moveToNext()) out.add(PhotoKey(cursor.getLong(0), cursor.getLong(1)))
            }
        return out
    }

    /** Brings the index up to date until `stopped`; goes on where it was stopped before. */
    fun index(engine: Engine, stopped: () -> Boolean): IndexingProgress {
        val pictures = Pictures(context)
        val source =
            object : PhotoSource {
                override fun list() = this@PhotoLibrary.list()

                override fun embed(key: PhotoKey) = engine.embed(pictures.read(uri(key.id)))
            }
        tidy(engine)
        return PhotoIndexing(source).run(Guarded(engine), stopped) {
            progress = it
            onProgress(it)
        }
    }

    /** The photos that fit a text best, and their cosines. */
    fun search(engine: Engine, text: String, most: Int): List<Pair<PhotoKey, Double>> {
        val question = engine.embed(text)
        val there = list().mapTo(HashSet()) { it.id }
        return synchronized(lock) { file(engine).search(question, most, there) }
    }

    /** How many photos are indexed. */
    fun size(engine: Engine): Int = synchronized(lock) { file(engine).index.size }

    /** The index, one call at a time: searching goes on while photos are added. */
    private inner class Guarded(private val engine: Engine) : PhotoIndexing.Store {
        override fun holds(key: PhotoKey) = synchronized(lock) { file(engine).holds(key) }

        override fun add(key: PhotoKey, embedding: FloatArray) =
            synchronized(lock) { file(engine).add(key, embedding) }
    }

    /** Leaves out rows of photos that are gone, once they are a fifth. */
    private fun tidy(engine: Engine) =
        synchronized(lock) {
            val there = list().mapTo(HashSet()) { it.id }
            val file = file(engine)
            if (file.stale(there) > maxOf(file.index.size / 5, 100)) {
                file.close()
                opened = null
                IndexFile.compact(path(), engine.imageHash, engine.width, there)
            }
        }

    private fun file(engine: Engine): IndexFile {
        val now = opened
        if (now != null && now.first == engine.imageHash) return now.second
        now?.second?.close()
        return IndexFile.open(path(), engine.imageHash, engine.width).also {
            opened = engine.imageHash to it
        }
    }

    private fun path() = File(context.filesDir, "photos.index")
}
