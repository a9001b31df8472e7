package org.mobileclip.kit

import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.max

/**
 * Resizing as Pillow does it, bit for bit: a separable filter whose support grows with the
 * reduction (an antialias), weights of 22 bits, and rounding to 8 bits between the two passes,
 * across and down.
 *
 * Source: Pillow, src/libImaging/Resample.c (`precompute_coeffs`, `normalize_coeffs_8bpc`).
 */
enum class Resampling(private val support: Double) {
    BILINEAR(1.0) {
        override fun weight(x: Double): Double = max(1 - abs(x), 0.0)
    },

    /** Keys' kernel with a = -1/2. */
    BICUBIC(2.0) {
        override fun weight(x: Double): Double {
            val d = abs(x)
            return when {
                d < 1 -> (1.5 * d - 2.5) * d * d + 1
                d < 2 -> (((d - 5) * d + 8) * d - 4) * -0.5
                else -> 0.0
            }
        }
    };

    protected abstract fun weight(x: Double): Double

    /** A picture of `width` x `height`; itself where it has that size. */
    fun resize(picture: Picture, width: Int, height: Int): Picture {
        Picture.check(width, height)
        val across = if (width == picture.width) null else weights(picture.width, width)
        val down = if (height == picture.height) null else weights(picture.height, height)
        // Pillow 13 begins with the rows where that leaves clearly less for the second pass
        val downFirst =
            height < picture.height && picture.height - height > 2L * (picture.width - width)
        var out = picture
        if (down != null && downFirst) out = down(out, down)
        if (across != null) out = across(out, across)
        if (down != null && !downFirst) out = down(out, down)
        return out
    }

    /** Of each output the first input, and its weights one after another, `room` each. */
    private class Weights(
        val first: IntArray,
        val count: IntArray,
        val values: IntArray,
        val room: Int,
    )

    private fun weights(few: Int, many: Int): Weights {
        val scale = few.toDouble() / many
        val stretch = max(scale, 1.0)
        val reach = support * stretch
        val room = ceil(reach).toInt() * 2 + 1
        val out = Weights(IntArray(many), IntArray(many), IntArray(many * room), room)
        val parts = DoubleArray(room)
        for (place in 0 until many) {
            val centre = (place + 0.5) * scale
            val first = max((centre - reach + 0.5).toInt(), 0)
            val last = minOf((centre + reach + 0.5).toInt(), few)
            var sum = 0.0
            for (i in 0 until last - first) {
                parts[i] = weight((i + first - centre + 0.5) * (1 / stretch))
                sum += parts[i]
            }
            out.first[place] = first
            out.count[place] = last - first
            for (i in 0 until last - first) {
                val share = (if (sum != 0.0) parts[i] / sum else parts[i]) * (1 shl BITS)
                out.values[place * room + i] = (if (share < 0) share - 0.5 else share + 0.5).toInt()
            }
        }
        return out
    }

    private fun across(picture: Picture, weights: Weights): Picture {
        val width = weights.first.size
        val from = picture.rgb
        val out = ByteArray(3 * width * picture.height)
        for (row in 0 until picture.height) for (column in 0 until width) {
            var r = HALF
            var g = HALF
            var b = HALF
            var at = 3 * (row * picture.width + weights.first[column])
            val base = column * weights.room
            for (i in base until base + weights.count[column]) {
                val weight = weights.values[i]
                r += (from[at].toInt() and 255) * weight
                g += (from[at + 1].toInt() and 255) * weight
                b += (from[at + 2].toInt() and 255) * weight
                at += 3
            }
            val into = 3 * (row * width + column)
            out[into] = clipped(r)
            out[into + 1] = clipped(g)
            out[into + 2] = clipped(b)
        }
        return Picture(width, picture.height, out)
    }

    private fun down(picture: Picture, weights: Weights): Picture {
        val stride = 3 * picture.width
        val from = picture.rgb
        val out = ByteArray(stride * weights.first.size)
        val sums = IntArray(stride)
        for (row in weights.first.indices) {
            sums.fill(HALF)
            for (i in 0 until weights.count[row]) {
                val weight = weights.values[row * weights.room + i]
                val start = (weights.first[row] + i) * stride
                for (at in 0 until stride) sums[at] += (from[start + at].toInt() and 255) * weight
            }
            for (at in 0 until stride) out[row * stride + at] = clipped(sums[at])
        }
        return Picture(picture.width, weights.first.size, out)
    }

    private companion object {
        const val BITS = 32 - 8 - 2
        const val HALF = 1 shl (BITS - 1)

        fun clipped(sum: Int): Byte = (sum shr BITS).coerceIn(0, 255).toByte()
    }
}
