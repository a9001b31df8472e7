package org.mobileclip.kit

/**
 * How a file says that its picture lies: EXIF's orientation in a JPEG, PNG or WebP. Decoders ignore
 * it, or follow it in some formats: see `takeOut`.
 *
 * Source: EXIF 2.32, section 4.5 and table 4; TIFF 6.0, section 2.
 */
object Exif {
    private const val TAG = 0x0112

    /** 1..8 of a file's content; 1 where it says nothing or is damaged. */
    fun orientation(file: ByteArray): Int =
        place(file)?.let { it.number(file) }?.takeIf { it in 1..8 } ?: 1

    /**
     * The orientation, and from then on the file says 1: a decoder that turns by itself (Android's
     * does it for JPEG and not for PNG) then does not, and the caller turns, always.
     */
    fun takeOut(file: ByteArray): Int {
        val found = place(file) ?: return 1
        val orientation = orientation(file)
        for (i in 0 until found.size) file[found.at + i] = 0
        file[if (found.bigEndian) found.at + found.size - 1 else found.at] = 1
        return orientation
    }

    /** Where the value lies. */
    private class Place(val at: Int, val size: Int, val bigEndian: Boolean) {
        fun number(file: ByteArray) = if (bigEndian) big(file, at, size) else little(file, at, size)
    }

    private fun place(file: ByteArray): Place? =
        try {
            val block =
                when {
                    starts(file, 0, 0xff, 0xd8) -> jpeg(file)
                    starts(file, 0, 0x89, 0x50, 0x4e, 0x47) -> png(file)
                    starts(file, 0, 0x52, 0x49, 0x46, 0x46) &&
                        starts(file, 8, 0x57, 0x45, 0x42, 0x50) -> webp(file)
                    else -> null
                }
            block?.let { tiff(file, it) }
        } catch (_: IndexOutOfBoundsException) {
            null // a broken block says nothing about the pixels
        }

    private fun starts(file: ByteArray, at: Int, vararg bytes: Int) =
        at + bytes.size <= file.size &&
            bytes.indices.all { file[at + it].toInt() and 255 == bytes[it] }

    /** Bytes of the TIFF block, of the first APP1 segment that is EXIF. */
    private fun jpeg(file: ByteArray): IntRange? {
        var at = 2
        while (at + 4 <= file.size && byte(file, at) == 0xff) {
            val marker = byte(file, at + 1)
            if (marker == 0xda || marker == 0xd9) return null // pixels begin, or the end
            if (marker == 0xff) {
                at++
                continue
            }
            val size = big(file, at + 2, 2)
            if (size < 2) return null
            if (marker == 0xe1 && starts(file, at + 4, 0x45, 0x78, 0x69, 0x66, 0, 0))
                return at + 10 until at + 2 + size
            at += 2 + size
        }
        return null
    }

    private fun png(file: ByteArray): IntRange? {
        var at = 8
        while (at + 12 <= file.size) {
            val size = big(file, at, 4)
            if (size < 0) return null
            if (starts(file, at + 4, 0x65, 0x58, 0x49, 0x66)) return withoutName(file, at + 8, size)
            if (starts(file, at + 4, 0x49, 0x45, 0x4e, 0x44) || size > file.size - at) return null
            at += 12 + size
        }
        return null
    }

    private fun webp(file: ByteArray): IntRange? {
        var at = 12
        while (at + 8 <= file.size) {
            val size = little(file, at + 4, 4)
            if (size < 0 || size > file.size - at) return null
            if (starts(file, at, 0x45, 0x58, 0x49, 0x46)) return withoutName(file, at + 8, size)
            at += 8 + size + (size and 1)
        }
        return null
    }

    /** Some writers put JPEG's `Exif\0\0` before the block. */
    private fun withoutName(file: ByteArray, start: Int, size: Int): IntRange {
        val named = starts(file, start, 0x45, 0x78, 0x69, 0x66, 0, 0)
        return (if (named) start + 6 else start) until start + size
    }

    private fun tiff(file: ByteArray, block: IntRange): Place? {
        val bigEndian = starts(file, block.first, 0x4d, 0x4d, 0, 42)
        if (!bigEndian && !starts(file, block.first, 0x49, 0x49, 42, 0)) return null
        fun number(at: Int, size: Int): Int {
            if (at < block.first || at + size - 1 > block.last) throw IndexOutOfBoundsException()
            return if (bigEndian) big(file, at, size) else little(file, at, size)
        }
        val directory = block.first + number(block.first + 4, 4)
        for (entry in 0 until number(directory, 2)) {
            val at = directory + 2 + 12 * entry
            if (number(at, 2) == TAG) {
                val size = if (number(at + 2, 2) == 3) 2 else 4
                number(at + 8, size) // inside of the block
                return Place(at + 8, size, bigEndian)
            }
        }
        return null
    }

    private fun byte(file: ByteArray, at: Int) = file[at].toInt() and 255

    private fun big(file: ByteArray, at: Int, size: Int) =
        (0 until size).fold(0) { sum, i -> sum shl 8 or byte(file, at + i) }

    private fun little(file: ByteArray, at: Int, size: Int) =
        (size - 1 downTo 0).fold(0) { sum, i -> sum shl 8 or byte(file, at + i) }
}
