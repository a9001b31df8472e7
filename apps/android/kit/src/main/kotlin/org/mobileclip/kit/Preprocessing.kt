package org.mobileclip.kit

import kotlin.math.round

/**
 * From an upright picture to what an artifact takes. For the image tower: shortest side to S, then
 * the centre, the rounding of torchvision's `Resize` and `CenterCrop`. For dense artifacts:
 * stretched, or letterboxed.
 */
object Preprocessing {
    /**
     * The S x S square that the image tower sees.
     *
     * @throws PictureException the picture is too long for its width.
     */
    fun square(picture: Picture, size: Int, resampling: Resampling): Picture {
        val short = minOf(picture.width, picture.height)
        val long = maxOf(picture.width, picture.height)
        val wide = (size.toDouble() * long / short).toLong()
        if (size * wide > Picture.MAX_PIXELS) {
            throw PictureException(
                "The picture is ${picture.width} x ${picture.height}: a side may be at most " +
                    "${"%,d".format(java.util.Locale.ROOT, Picture.MAX_PIXELS / (size.toLong() * size))} times the other."
            )
        }
        val upright = picture.width <= picture.height
        val width = if (upright) size else wide.toInt()
        val height = if (upright) wide.toInt() else size
        val resized = resampling.resize(picture, width, height)
        return cropped(
            resized,
            round((width - size) / 2.0).toInt(),
            round((height - size) / 2.0).toInt(),
            size,
            size,
        )
    }

    /** Of the size rows x columns, the ratio not kept. */
    fun stretch(picture: Picture, rows: Int, columns: Int): Picture =
        Resampling.BILINEAR.resize(picture, columns, rows)

    /**
     * Resized with its ratio kept, in the upper left corner of rows x columns; the rest is `pad`.
     */
    fun letterbox(picture: Picture, rows: Int, columns: Int, pad: Int = 0): Letterboxed {
        val inside = content(picture.height, picture.width, rows, columns)
        val small = Resampling.BILINEAR.resize(picture, inside.columns, inside.rows)
        val out = ByteArray(3 * rows * columns) { pad.toByte() }
        for (row in 0 until small.height) {
            small.rgb.copyInto(
                out,
                3 * row * columns,
                3 * row * small.width,
                3 * (row + 1) * small.width,
            )
        }
        val scale = minOf(rows.toDouble() / picture.height, columns.toDouble() / picture.width)
        return Letterboxed(Picture(columns, rows, out), inside, scale)
    }

    /** Rows and columns of a letterboxed picture inside its input. */
    fun content(height: Int, width: Int, rows: Int, columns: Int): Size {
        val scale = minOf(rows.toDouble() / height, columns.toDouble() / width)
        fun side(whole: Int, most: Int) =
            (whole * scale + 0.5).toInt().coerceAtLeast(1).coerceAtMost(most)
        return Size(side(height, rows), side(width, columns))
    }

    /**
     * [1, 3, H, W], planes of R, G and B: value times `scale`, then (x - mean) / std where a model
     * wants that.
     */
    fun tensor(
        picture: Picture,
        scale: Float = 1 / 255f,
        mean: FloatArray = floatArrayOf(0f, 0f, 0f),
        std: FloatArray = floatArrayOf(1f, 1f, 1f),
    ): FloatTensor {
        val size = picture.width * picture.height
        val out = FloatArray(3 * size)
        for (channel in 0..2) {
            val table =
                FloatArray(256) {
                    ((if (scale == 1 / 255f) it / 255f else it * scale) - mean[channel]) /
                        std[channel]
                }
            for (place in 0 until size) out[channel * size + place] =
                table[picture.rgb[3 * place + channel].toInt() and 255]
        }
        return FloatTensor(intArrayOf(1, 3, picture.height, picture.width), out)
    }

    private fun cropped(picture: Picture, left: Int, top: Int, width: Int, height: Int): Picture {
        if (left == 0 && top == 0 && width == picture.width && height == picture.height)
            return picture
        val out = ByteArray(3 * width * height)
        for (row in 0 until height) {
            val from = 3 * ((top + row) * picture.width + left)
            picture.rgb.copyInto(out, 3 * row * width, from, from + 3 * width)
        }
        return Picture(width, height, out)
    }
}

/** Rows and columns. */
data class Size(val rows: Int, val columns: Int)

/** A picture inside an input, and how large it is there. */
class Letterboxed(val picture: Picture, val content: Size, val scale: Double)
