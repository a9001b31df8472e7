package org.mobileclip.kit

/** Metres of a picture's pixels, row by row. */
class DepthMap(val rows: Int, val columns: Int, val metres: FloatArray)

/** From a depth artifact's output to metres and colours. */
object Depth {
    /** [1, 1, h, w] metres -> metres of each pixel. */
    fun metres(output: FloatTensor, size: Size): DepthMap {
        val (height, width) = output.shape.takeLast(2)
        val upsampler = RowUpsampler(output.values, 1, height, width, size)
        val out = FloatArray(size.rows * size.columns)
        val row = FloatArray(size.columns)
        for (place in 0 until size.rows) {
            upsampler.row(place, row)
            row.copyInto(out, place * size.columns)
        }
        return DepthMap(size.rows, size.columns, out)
    }

    /**
     * The 2nd and 98th hundredth of what is known: the ends of the colours; 0 and 1 where nothing
     * is known.
     */
    fun ends(metres: FloatArray): Pair<Double, Double> {
        val known = metres.filter(::isKnown).map { it.toDouble() }.toDoubleArray()
        if (known.isEmpty()) return 0.0 to 1.0
        known.sort()
        return Statistics.percentile(known, 2.0) to Statistics.percentile(known, 98.0)
    }

    /**
     * Metres -> colours (opaque ARGB) between two distances, beyond them the end's; what has no
     * depth is black.
     */
    fun colours(metres: FloatArray, low: Double, high: Double): IntArray =
        IntArray(metres.size) { place ->
            val value = metres[place]
            if (!isKnown(value)) {
                -0x1000000
            } else {
                val share = (value - low) / maxOf(high - low, 1e-6)
                Colours.distances[Math.rint(share.coerceIn(0.0, 1.0) * 255).toInt()]
            }
        }

    private fun isKnown(metres: Float) = metres.isFinite() && metres > 0
}
