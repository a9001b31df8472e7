package org.mobileclip.kit

/**
 * Maps of an artifact at the size of a picture: the value at row r of H is that at (r + 1/2) h /
 * H - 1/2 of h, between two by their share, beyond the edge that of the edge (bilinear, corners not
 * aligned).
 */
internal class Between(few: Int, many: Int) {
    val first = IntArray(many)
    val second = IntArray(many)
    val share = FloatArray(many)

    init {
        for (place in 0 until many) {
            val at = maxOf((place + 0.5) * (few.toDouble() / many) - 0.5, 0.0)
            first[place] = minOf(at.toInt(), few - 1)
            second[place] = minOf(first[place] + 1, few - 1)
            share[place] = (at - first[place]).toFloat()
        }
    }
}

/** One row of `channels` maps [C, h, w], at the width of the picture: into [C, W]. */
internal class RowUpsampler(
    private val maps: FloatArray,
    private val channels: Int,
    private val height: Int,
    private val width: Int,
    size: Size,
) {
    private val down = Between(height, size.rows)
    private val across = Between(width, size.columns)
    private val columns = size.columns
    private var above = FloatArray(channels * columns)
    private var below = FloatArray(channels * columns)
    private var aboveRow = -1
    private var belowRow = -1

    fun row(row: Int, out: FloatArray) {
        val first = down.first[row]
        val second = down.second[row]
        if (first != aboveRow) {
            if (first == belowRow) {
                above = below.also { below = above }
                belowRow = aboveRow
            } else {
                widen(first, above)
            }
            aboveRow = first
        }
        if (second != belowRow) {
            widen(second, below)
            belowRow = second
        }
        val weight = down.share[row]
        for (i in 0 until channels * columns) out[i] = above[i] * (1 - weight) + below[i] * weight
    }

    private fun widen(row: Int, into: FloatArray) {
        for (channel in 0 until channels) {
            val from = (channel * height + row) * width
            val to = channel * columns
            for (column in 0 until columns) {
                val share = across.share[column]
                into[to + column] =
                    maps[from + across.first[column]] * (1 - share) +
                        maps[from + across.second[column]] * share
            }
        }
    }
}
