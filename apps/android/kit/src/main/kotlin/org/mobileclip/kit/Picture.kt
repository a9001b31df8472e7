package org.mobileclip.kit

/**
 * RGB, 8 bits a channel, row by row, upright once `turned` was called; what every decoder's pixels
 * become first.
 */
class Picture(val width: Int, val height: Int, val rgb: ByteArray) {
    init {
        if (width < 1 || height < 1) {
            throw PictureException(
                "The picture is $width x $height: it has no pixels. Choose one with at least 1 x 1."
            )
        }
        require(rgb.size == 3 * width * height) {
            "$width x $height pixels are ${3 * width * height} bytes, not ${rgb.size}"
        }
    }

    /**
     * As an EXIF orientation (1..8) says that it must be shown; of any other number the picture
     * itself.
     *
     * Source: EXIF 2.32, table 4.
     */
    fun turned(orientation: Int): Picture {
        if (orientation !in 2..8) return this
        val swapped = orientation >= 5
        val columns = if (swapped) height else width
        val rows = if (swapped) width else height
        val out = ByteArray(rgb.size)
        var into = 0
        for (row in 0 until rows) for (column in 0 until columns) {
            val x = if (swapped) row else column
            val y = if (swapped) column else row
            val fromX = if (orientation in MIRRORED_X) width - 1 - x else x
            val fromY = if (orientation in MIRRORED_Y) height - 1 - y else y
            val from = 3 * (fromY * width + fromX)
            out[into++] = rgb[from]
            out[into++] = rgb[from + 1]
            out[into++] = rgb[from + 2]
        }
        return Picture(columns, rows, out)
    }

    /** ARGB integers as Android's bitmaps take them, opaque. */
    fun argb(): IntArray =
        IntArray(width * height) {
            -0x1000000 or
                (rgb[3 * it].toInt() and 255 shl 16) or
                (rgb[3 * it + 1].toInt() and 255 shl 8) or
                (rgb[3 * it + 2].toInt() and 255)
        }

    companion object {
        /** Largest picture that is taken: Pillow's own limit. 12,000 x 9,000 passes. */
        const val MAX_PIXELS = 178_956_970L
        private val MIRRORED_X = setOf(2, 3, 7, 8)
        private val MIRRORED_Y = setOf(3, 4, 6, 7)

        /**
         * Sizes that a foreign header claims.
         *
         * @throws PictureException no pixels, or more than `MAX_PIXELS`.
         */
        fun check(width: Int, height: Int) {
            if (width < 1 || height < 1) {
                throw PictureException(
                    "The picture is $width x $height: it has no pixels. Choose one with at least 1 x 1."
                )
            }
            if (width.toLong() * height > MAX_PIXELS) {
                throw PictureException(
                    "The picture is $width x $height: at most ${"%,d".format(java.util.Locale.ROOT, MAX_PIXELS)} pixels " +
                        "are allowed. Make it smaller first."
                )
            }
        }

        /**
         * ARGB integers, as a bitmap gives them, premultiplied or not where opaque; alpha is
         * dropped, not blended.
         */
        fun ofArgb(width: Int, height: Int, pixels: IntArray): Picture =
            of(width, height) { out, place ->
                val pixel = pixels[place]
                out[3 * place] = (pixel shr 16).toByte()
                out[3 * place + 1] = (pixel shr 8).toByte()
                out[3 * place + 2] = pixel.toByte()
            }

        /**
         * Grey of 8 bits, with `stride` bytes a pixel (2 where an alpha follows that is dropped).
         */
        fun ofGrey(width: Int, height: Int, grey: ByteArray, stride: Int = 1): Picture =
            of(width, height) { out, place ->
                out.fill(grey[place * stride], 3 * place, 3 * place + 3)
            }

        /** Grey of 16 bits: its high byte. */
        fun ofGrey16(width: Int, height: Int, grey: ShortArray): Picture =
            of(width, height) { out, place ->
                out.fill((grey[place].toInt() shr 8).toByte(), 3 * place, 3 * place + 3)
            }

        /** RGB and an alpha that is dropped, not blended, 4 bytes a pixel. */
        fun ofRgba(width: Int, height: Int, rgba: ByteArray): Picture =
            of(width, height) { out, place ->
                rgba.copyInto(out, 3 * place, 4 * place, 4 * place + 3)
            }

        /** Places in a palette of 256 x RGB. */
        fun ofPalette(width: Int, height: Int, places: ByteArray, palette: ByteArray): Picture =
            of(width, height) { out, place ->
                val from = 3 * (places[place].toInt() and 255)
                palette.copyInto(out, 3 * place, from, from + 3)
            }

        /**
         * Inks of 8 bits, 255 is all of one, to RGB as Pillow's `convert("RGB")` does it, without a
         * colour profile.
         */
        fun ofCmyk(width: Int, height: Int, inks: ByteArray): Picture =
            of(width, height) { out, place ->
                val white = 255 - (inks[4 * place + 3].toInt() and 255)
                for (channel in 0..2) {
                    val product = (inks[4 * place + channel].toInt() and 255) * white + 128
                    out[3 * place + channel] =
                        (white - ((product shr 8) + product shr 8)).coerceIn(0, 255).toByte()
                }
            }

        /**
         * YUV 4:2:0 as cameras give it, full range BT.601 (JFIF), planes with their own strides,
         * every `step`-th pixel.
         *
         * @param planes Y, U, V, each as bytes, row stride, pixel stride.
         */
        fun ofYuv(width: Int, height: Int, planes: List<Plane>, step: Int = 1): Picture {
            val columns = width / step
            val (luma, blue, red) = planes
            return of(columns, height / step) { out, place ->
                val x = place % columns * step
                val y = place / columns * step
                val l = luma.at(x, y)
                val u = blue.at(x / 2, y / 2) - 128
                val v = red.at(x / 2, y / 2) - 128
                out[3 * place] = clipped(l + (91881 * v + 32768 shr 16))
                out[3 * place + 1] = clipped(l - (22554 * u + 46802 * v + 32768 shr 16))
                out[3 * place + 2] = clipped(l + (116130 * u + 32768 shr 16))
            }
        }

        private fun clipped(value: Int) = value.coerceIn(0, 255).toByte()

        private inline fun of(width: Int, height: Int, pixel: (ByteArray, Int) -> Unit): Picture {
            check(width, height)
            val out = ByteArray(3 * width * height)
            for (place in 0 until width * height) pixel(out, place)
            return Picture(width, height, out)
        }
    }

    /** One plane of a camera's frame. */
    class Plane(
        private val bytes: ByteArray,
        private val rowStride: Int,
        private val pixelStride: Int,
    ) {
        internal fun at(x: Int, y: Int): Int =
            bytes[y * rowStride + x * pixelStride].toInt() and 255
    }
}
