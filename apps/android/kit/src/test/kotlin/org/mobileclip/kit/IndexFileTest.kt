package org.mobileclip.kit

import java.io.File
import java.nio.file.Path
import kotlin.random.Random
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir

class IndexFileTest {
    private val width = 16

    private fun embedding(id: Long) =
        Random(id).let { random -> FloatArray(width) { random.nextFloat() - 0.5f } }

    private inner class Library(
        val photos: MutableList<PhotoKey>,
        val broken: Set<Long> = emptySet(),
    ) : PhotoSource {
        val embedded = ArrayList<Long>()

        override fun list() = photos

        override fun embed(key: PhotoKey): FloatArray {
            if (key.id in broken) throw PictureException("damaged")
            embedded.add(key.id)
            return embedding(key.id + key.modified)
        }
    }

    @Test
    fun `indexing that was stopped goes on where it was`(@TempDir folder: Path) {
        val path = folder.resolve("photos.index").toFile()
        val library = Library((1L..50L).map { PhotoKey(it, 0) }.toMutableList(), broken = setOf(7))
        val seen = ArrayList<IndexingProgress>()
        IndexFile.open(path, "model", width).use { file ->
            PhotoIndexing(library).run(file, { library.embedded.size >= 20 }) { seen.add(it) }
        }
        assertEquals(20, library.embedded.size)
        assertEquals(IndexingProgress(20, 50, 1), seen.last())
        IndexFile.open(path, "model", width).use { file ->
            val state = PhotoIndexing(library).run(file, { false }) {}
            assertEquals(IndexingProgress(49, 50, 1), state)
            assertEquals(library.embedded.distinct(), library.embedded) // none was made twice
            val there = library.photos.map { it.id }.toSet()
            assertEquals(33L, file.search(embedding(33), 3, there).first().first.id)
            library.photos.removeIf { it.id == 33L } // deleted
            library.photos[0] = PhotoKey(1, 9) // edited
            assertTrue(!file.holds(PhotoKey(1, 9)))
            PhotoIndexing(library).run(file, { false }) {}
            val now = library.photos.map { it.id }.toSet()
            assertTrue(file.search(embedding(33), 50, now).none { it.first.id == 33L })
            assertEquals(1, file.search(embedding(10), 50, now).count { it.first.id == 1L })
            assertEquals(PhotoKey(1, 9), file.search(embedding(10), 1, setOf(1L)).single().first)
            assertEquals(2, file.stale(now))
        }
        IndexFile.compact(path, "model", width, library.photos.map { it.id }.toSet())
        IndexFile.open(path, "model", width).use { file ->
            assertEquals(48, file.keys.size)
            assertEquals(PhotoKey(1, 9), file.search(embedding(10), 1, setOf(1L)).single().first)
        }
    }

    @Test
    fun `a record that is cut or damaged is dropped, the others stay`(@TempDir folder: Path) {
        val path = folder.resolve("photos.index").toFile()
        fun keys() = IndexFile.open(path, "model", width).use { it.keys.map(PhotoKey::id) }
        IndexFile.open(path, "model", width).use { file ->
            (1L..5L).forEach { file.add(PhotoKey(it, 0), embedding(it)) }
        }
        path.writeBytes(path.readBytes().let { it.copyOf(it.size - 3) })
        assertEquals(listOf(1L, 2, 3, 4), keys())
        path.writeBytes(
            path.readBytes().also { it[it.size - 10] = (it[it.size - 10] + 1).toByte() }
        )
        assertEquals(listOf(1L, 2, 3), keys())
        IndexFile.open(path, "model", width).use { it.add(PhotoKey(8, 0), embedding(8)) }
        assertEquals(listOf(1L, 2, 3, 8), keys())
    }

    @Test
    fun `the index of another model is begun anew`(@TempDir folder: Path) {
        val path = folder.resolve("photos.index").toFile()
        IndexFile.open(path, "one", width).use { it.add(PhotoKey(1, 0), embedding(1)) }
        assertEquals(0, IndexFile.open(path, "two", width).use { it.keys.size })
        path.writeText("no index")
        assertEquals(0, IndexFile.open(path, "two", width).use { it.keys.size })
    }

    @Test
    fun `a place that cannot be written is said`(@TempDir folder: Path) {
        val error =
            assertFailsWith<IndexException> {
                IndexFile.open(File(folder.toFile(), "missing/photos.index"), "model", width)
            }
        assertTrue(
            error.message!!.startsWith("The index of your photos cannot be opened ("),
            error.message,
        )
    }
}
