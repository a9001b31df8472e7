package org.mobileclip.kit

import java.io.Closeable
import java.io.DataInputStream
import java.io.EOFException
import java.io.File
import java.io.IOException
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.util.zip.CRC32

/** A photo of the library: its own number and when it was last changed. */
data class PhotoKey(val id: Long, val modified: Long)

/**
 * The index of a photo library on disk, 8 bits a value: a header and one record a photo, appended
 * as photos are done, so that indexing which was stopped (or killed) goes on where it was. A last
 * record that is cut or damaged is dropped.
 *
 * One thread writes; `index` and `keys` are for the same thread.
 */
class IndexFile private constructor(private val file: RandomAccessFile, val width: Int) :
    PhotoIndexing.Store, Closeable {
    /** In the order of `keys`. */
    val index = EmbeddingIndex(width)

    /** Key of each row; of photos that were changed the last row counts. */
    val keys = ArrayList<PhotoKey>()
    private val rows = HashMap<Long, Int>()

    /** The photos that are in it as they are now. */
    override fun holds(key: PhotoKey): Boolean = rows[key.id]?.let { keys[it] == key } ?: false

    /** Rows that are of no photo any more: replaced ones, and those that `there` lacks. */
    fun stale(there: Set<Long>): Int =
        keys.indices.count { rows[keys[it].id] != it || keys[it].id !in there }

    /** Append one photo; on disk when it returns. */
    override fun add(key: PhotoKey, embedding: FloatArray) {
        val row = Quantised.of(Vectors.unit(embedding))
        index.add(row)
        remember(key)
        file.seek(file.length())
        file.write(record(key, row))
    }

    /**
     * The `most` photos that fit best, best first; each once, and only those that `there` still
     * has.
     */
    fun search(question: FloatArray, most: Int, there: Set<Long>): List<Pair<PhotoKey, Double>> {
        val stale = stale(there)
        return index
            .search(question, most + stale)
            .filter { rows[keys[it.place].id] == it.place && keys[it.place].id in there }
            .take(most)
            .map { keys[it.place] to it.score }
    }

    override fun close() = file.close()

    private fun remember(key: PhotoKey) {
        rows[key.id] = keys.size
        keys.add(key)
    }

    private fun record(key: PhotoKey, row: Quantised): ByteArray {
        val buffer = ByteBuffer.allocate(recordSize(width))
        buffer.putLong(key.id).putLong(key.modified).putFloat(row.scale).put(row.integers)
        val sum = CRC32().apply { update(buffer.array(), 0, buffer.position()) }
        return buffer.putInt(sum.value.toInt()).array()
    }

    /**
     * Read records until the end, or the first that is cut or damaged; what is behind is cut off.
     */
    private fun readAll(start: Long) {
        val size = recordSize(width)
        val count = (file.length() - start) / size
        val bytes = ByteArray(size)
        val input =
            DataInputStream(
                java.nio.channels.Channels.newInputStream(file.channel.position(start))
                    .buffered(1 shl 20)
            )
        var whole = 0L
        while (whole < count) {
            input.readFully(bytes)
            val buffer = ByteBuffer.wrap(bytes)
            val sum = CRC32().apply { update(bytes, 0, size - 4) }
            if (buffer.getInt(size - 4) != sum.value.toInt()) break
            remember(PhotoKey(buffer.getLong(), buffer.getLong()))
            val scale = buffer.getFloat()
            index.add(Quantised(ByteArray(width).also { buffer.get(it) }, scale))
            whole++
        }
        file.setLength(start + whole * size)
    }

    companion object {
        private const val MAGIC = 0x4d434958 // "MCIX"
        private const val VERSION = 1

        private fun recordSize(width: Int) = 8 + 8 + 4 + width + 4

        /**
         * Open or begin the index of a model.
         *
         * @param model what made the embeddings, such as the artifact's SHA-256; an index of
         *   another one is begun anew.
         * @throws IndexException the file cannot be read or written.
         */
        fun open(path: File, model: String, width: Int): IndexFile {
            try {
                val file = RandomAccessFile(path, "rw")
                val header = header(model, width)
                val found = ByteArray(header.size)
                val same =
                    try {
                        file.readFully(found)
                        found.contentEquals(header)
                    } catch (_: EOFException) {
                        false
                    }
                if (!same) {
                    file.setLength(0)
                    file.seek(0)
                    file.write(header)
                }
                return IndexFile(file, width).also { it.readAll(header.size.toLong()) }
            } catch (error: IOException) {
                throw IndexException(
                    "The index of your photos cannot be opened (${error.message}). Free some space and try again.",
                    error,
                )
            }
        }

        /**
         * Write the rows of photos that are still there to a new file and put it in the old one's
         * place.
         */
        fun compact(path: File, model: String, width: Int, there: Set<Long>) {
            val part = File(path.path + ".partial")
            part.delete()
            open(path, model, width).use { old ->
                open(part, model, width).use { new ->
                    for (place in old.keys.indices) {
                        val key = old.keys[place]
                        if (old.rows[key.id] != place || key.id !in there) continue
                        new.remember(key)
                        new.file.write(
                            new.record(
                                key,
                                Quantised(old.index.integersOf(place), old.index.scaleOf(place)),
                            )
                        )
                    }
                }
            }
            if (!part.renameTo(path))
                throw IndexException(
                    "The index of your photos cannot be replaced. Free some space and try again."
                )
        }

        private fun header(model: String, width: Int): ByteArray {
            val name = model.toByteArray()
            return ByteBuffer.allocate(16 + name.size)
                .putInt(MAGIC)
                .putInt(VERSION)
                .putInt(width)
                .putInt(name.size)
                .put(name)
                .array()
        }
    }
}
