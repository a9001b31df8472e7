package org.mobileclip.kit

/** Classes of a picture's pixels, row by row. */
class LabelMap(val rows: Int, val columns: Int, val labels: ByteArray)

/** From a segmentation artifact's output to the class of each pixel of a picture. */
object Segmentation {
    /**
     * Logits [1, K, h, w] or [K, h, w] are enlarged before the best class is taken; labels
     * [1, 1, h, w] (integers) give each pixel the nearest.
     */
    fun labels(output: Tensor, size: Size): LabelMap =
        when (output) {
            is FloatTensor -> ofLogits(output, size)
            is IntTensor -> ofLabels(output, size)
        }

    private fun ofLogits(output: FloatTensor, size: Size): LabelMap {
        val (classes, height, width) = output.shape.takeLast(3)
        require(classes <= 256) { "$classes classes" }
        val upsampler = RowUpsampler(output.values, classes, height, width, size)
        val values = FloatArray(classes * size.columns)
        val out = ByteArray(size.rows * size.columns)
        val best = FloatArray(size.columns)
        for (row in 0 until size.rows) {
            upsampler.row(row, values)
            val start = row * size.columns
            values.copyInto(best, 0, 0, size.columns)
            for (label in 1 until classes) {
                val from = label * size.columns
                for (column in 0 until size.columns) {
                    if (values[from + column] > best[column]) {
                        best[column] = values[from + column]
                        out[start + column] = label.toByte()
                    }
                }
            }
        }
        return LabelMap(size.rows, size.columns, out)
    }

    private fun ofLabels(output: IntTensor, size: Size): LabelMap {
        val (height, width) = output.shape.takeLast(2)
        fun nearest(few: Int, many: Int) =
            IntArray(many) { minOf((it + 0.5) * few / many, few - 1.0).toInt() }
        val rows = nearest(height, size.rows)
        val columns = nearest(width, size.columns)
        val out = ByteArray(size.rows * size.columns)
        for (row in rows.indices) for (column in columns.indices) {
            out[row * size.columns + column] =
                output.values[rows[row] * width + columns[column]].toByte()
        }
        return LabelMap(size.rows, size.columns, out)
    }

    /** Share of the picture of each class that is there, the largest first. */
    fun shares(map: LabelMap): List<Pair<Int, Double>> {
        val counts = IntArray(256)
        for (label in map.labels) counts[label.toInt() and 255]++
        return counts.indices
            .filter { counts[it] > 0 }
            .sortedByDescending { counts[it] }
            .map { it to counts[it].toDouble() / map.labels.size }
    }
}
