package org.mobileclip.app

import android.Manifest
import android.app.ActivityManager
import android.content.ContentProvider
import android.content.ContentValues
import android.database.Cursor
import android.database.MatrixCursor
import android.net.Uri
import android.os.ParcelFileDescriptor
import java.io.File
import java.util.Base64
import kotlin.math.abs
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertIs
import kotlin.test.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.mobileclip.kit.IndexingProgress
import org.mobileclip.kit.Json
import org.mobileclip.kit.PictureException
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** Photos decoded by Android's own decoder, indexed and found again. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class PhotosTest {
    private val app = Installation.app
    private val golden =
        (Json.parse(File(Installation.golden, "preprocessing.json").readText()) as Map<*, *>)[
            "files"]
            as List<*>
    private val files = golden.map { it as Map<*, *> }

    private fun bytes(case: Map<*, *>): ByteArray =
        Base64.getDecoder().decode(case["base64"] as String)

    @Test
    fun `files of every kind become upright pictures, broken ones a sentence`() {
        val read = Pictures(app)
        for (case in files) {
            val name = case["name"] as String
            if (case["refused"] == true) {
                val error = assertFailsWith<PictureException>(name) { read.read(bytes(case)) }
                assertTrue(
                    error.message!!.startsWith("The picture cannot be read ("),
                    error.message,
                )
                continue
            }
            val upright = case["upright"] as Map<*, *>
            val (height, width) = (upright["shape"] as List<*>).map { (it as Long).toInt() }
            val found = read.read(bytes(case))
            assertEquals(width to height, found.width to found.height, name)
            val expected = Base64.getDecoder().decode(upright["base64"] as String)
            val largest =
                expected.indices.maxOf {
                    abs((expected[it].toInt() and 255) - (found.rgb[it].toInt() and 255))
                }
            val allowed = if ("CMYK" in name) 12 else (case["tolerance"] as Long).toInt() + 1
            assertTrue(largest <= allowed, "$name: $largest")
        }
    }

    /** MediaStore with a few of the golden files, one of them broken. */
    class Photos : ContentProvider() {
        override fun onCreate() = true

        override fun query(
            uri: Uri,
            projection: Array<String>?,
            selection: String?,
            arguments: Array<String>?,
            order: String?,
        ): Cursor =
            MatrixCursor(projection).apply {
                contents.keys.sortedDescending().forEach { addRow(arrayOf<Any>(it, modified)) }
            }

        override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor {
            val file = File(context!!.cacheDir, uri.lastPathSegment!!)
            file.writeBytes(contents.getValue(uri.lastPathSegment!!.toLong()))
            return ParcelFileDescriptor.open(file, ParcelFileDescriptor.MODE_READ_ONLY)
        }

        override fun getType(uri: Uri) = "image/jpeg"

        override fun insert(uri: Uri, values: ContentValues?): Uri? = null

        override fun delete(uri: Uri, selection: String?, arguments: Array<String>?) = 0

        override fun update(
            uri: Uri,
            values: ContentValues?,
            selection: String?,
            arguments: Array<String>?,
        ) = 0

        companion object {
            val contents = LinkedHashMap<Long, ByteArray>()
            var modified = 7L
        }
    }

    @Test
    fun `photos are indexed, resumed, found, and forgotten when they are deleted`() {
        app.loader = GoldenLoader()
        shadowOf(app.service<ActivityManager>())
            .setMemoryInfo(ActivityManager.MemoryInfo().apply { availMem = 4L shl 30 })
        shadowOf(app).grantPermissions(Manifest.permission.READ_MEDIA_IMAGES)
        Robolectric.buildContentProvider(Photos::class.java).create("media")
        Photos.contents.clear()
        files
            .filter { it["kind"] == "jpeg" }
            .forEachIndexed { place, case -> Photos.contents[place + 1L] = bytes(case) }
        Photos.contents[99] = bytes(files.first { it["name"] == "no picture" })
        Installation.install()
        app.load()
        Installation.settle()
        val engine = assertIs<ModelState.Ready>(app.state).engine
        val library = app.library
        assertTrue(library.isAllowed)
        val total = Photos.contents.size
        var asked = 0
        val stopped = library.index(engine) { asked++ >= 5 }
        assertEquals(5, stopped.done + stopped.unreadable)
        assertEquals(IndexingProgress(total - 1, total, 1), library.index(engine) { false })
        assertEquals(total - 1, library.size(engine))
        val found = library.search(engine, "a dog", 50)
        assertEquals(total - 1, found.size)
        assertEquals(found.map { it.second }.sortedDescending(), found.map { it.second })
        val best = found.first().first.id
        Photos.contents.remove(best)
        assertTrue(library.search(engine, "a dog", 50).none { it.first.id == best })
    }
}
