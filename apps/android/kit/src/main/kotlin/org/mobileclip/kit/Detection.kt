package org.mobileclip.kit

import kotlin.math.ceil

/** A box in pixels of the picture: left, top, right, bottom. */
data class Box(val left: Float, val top: Float, val right: Float, val bottom: Float) {
    internal val area
        get() = (right - left) * (bottom - top)
}

/** One found object; `mask` is [rows, columns] of the picture. */
class DetectedObject(val box: Box, val score: Float, val label: Int, val mask: BooleanArray)

/**
 * What an app does around an exported detector, whose input was letterboxed.
 *
 * Legend: K classes, N points, P prototypes, D rows of a static Mask R-CNN.
 */
object Detection {
    /** Least score; apps that show boxes take 0.3 to 0.5. */
    const val THRESHOLD = 0.05

    /** Objects that are kept, the best first. */
    const val MOST = 100
    private const val CANDIDATES = 1000

    /** By the head's rule of the manifest; `outputs` are the head's own, in its order. */
    fun objects(
        outputs: List<Tensor>,
        original: Size,
        rules: DenseRules,
        head: HeadRule,
        threshold: Double = head.threshold,
    ): List<DetectedObject> =
        if (head.kind == "objects") {
            regions(
                outputs[0],
                outputs[1],
                outputs[2],
                outputs[3],
                original,
                rules.size,
                threshold,
                head.most,
            )
        } else {
            points(
                outputs[0],
                outputs[1],
                outputs[2],
                outputs[3],
                original,
                threshold,
                head.most,
                head.overlap,
            )
        }

    /**
     * The raw outputs of a one-stage head: of all pairs of a class and a point above `threshold`
     * the best `most`. A pixel belongs to an object if its centre is inside the box and the mix of
     * prototypes there is above 0.
     *
     * @param boxes [1, 4, N] in pixels of the input.
     * @param scores [1, K, N]
     * @param coeffs [1, P, N]
     * @param protos [1, P, h, w]; the input has 4 h rows and 4 w columns.
     * @param overlap of two of a class that overlap by more, the worse goes; null: the head needs
     *   none.
     */
    fun points(
        boxes: Tensor,
        scores: Tensor,
        coeffs: Tensor,
        protos: Tensor,
        original: Size,
        threshold: Double = THRESHOLD,
        most: Int = MOST,
        overlap: Double? = null,
    ): List<DetectedObject> {
        val points = scores.shape.last()
        val (prototypes, height, width) = protos.shape.takeLast(3)
        val inside = Preprocessing.content(original.rows, original.columns, 4 * height, 4 * width)
        var kept =
            best(scores, threshold, if (overlap == null) most else CANDIDATES)
                .map { place ->
                    val point = place % points
                    val box =
                        toOriginal(
                            FloatArray(4) { boxes.at(it * points + point).toFloat() },
                            original,
                            inside,
                        )
                    Candidate(box, scores.at(place).toFloat(), place / points, point)
                }
                .filter { it.box.right > it.box.left && it.box.bottom > it.box.top }
        if (overlap != null) kept = suppressed(kept, overlap)
        return kept.take(most).map { candidate ->
            val own = FloatArray(prototypes) { coeffs.at(it * points + candidate.place).toFloat() }
            DetectedObject(
                candidate.box,
                candidate.score,
                candidate.label,
                mixed(own, protos, candidate.box, original, inside),
            )
        }
    }

    /**
     * The outputs of a static Mask R-CNN.
     *
     * @param boxes [D, 4] in pixels of the input; scores [D], 0 where a row is empty; labels [D];
     *   masks [D, m, m].
     */
    fun regions(
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        masks: Tensor,
        original: Size,
        size: Size,
        threshold: Double = THRESHOLD,
        most: Int = MOST,
    ): List<DetectedObject> {
        val inside = Preprocessing.content(original.rows, original.columns, size.rows, size.columns)
        val side = masks.shape.last()
        return (0 until scores.size)
            .filter { scores.at(it) > threshold.toFloat() }
            .sortedByDescending { scores.at(it) } // stable
            .map { row ->
                row to
                    toOriginal(FloatArray(4) { boxes.at(4 * row + it).toFloat() }, original, inside)
            }
            .filter { (_, box) -> box.right > box.left && box.bottom > box.top }
            .take(most)
            .map { (row, box) ->
                val probabilities =
                    FloatArray(side * side) { masks.at(row * side * side + it).toFloat() }
                DetectedObject(
                    box,
                    scores.at(row).toFloat(),
                    labels.at(row).toInt(),
                    pasted(probabilities, side, box, original),
                )
            }
    }

    private class Candidate(val box: Box, val score: Float, val label: Int, val place: Int)

    /**
     * Places of the best scores above a threshold, best first; equal ones by class, then by point.
     */
    private fun best(scores: Tensor, threshold: Double, most: Int): List<Int> {
        val bar = threshold.toFloat()
        val places = (0 until scores.size).filter { scores.at(it) > bar }
        return places.sortedByDescending { scores.at(it) }.take(most)
    }

    private fun toOriginal(box: FloatArray, original: Size, inside: Size): Box {
        val across = (original.columns.toDouble() / inside.columns).toFloat()
        val down = (original.rows.toDouble() / inside.rows).toFloat()
        fun x(value: Float) = (value * across).coerceIn(0f, original.columns.toFloat())
        fun y(value: Float) = (value * down).coerceIn(0f, original.rows.toFloat())
        return Box(x(box[0]), y(box[1]), x(box[2]), y(box[3]))
    }

    /**
     * In their order, each one that stays removes all later ones of its class that overlap with it
     * by more.
     */
    private fun suppressed(candidates: List<Candidate>, overlap: Double): List<Candidate> {
        val stays = BooleanArray(candidates.size) { true }
        for (place in candidates.indices) {
            if (!stays[place]) continue
            val one = candidates[place]
            for (later in place + 1 until candidates.size) {
                val other = candidates[later]
                if (!stays[later] || other.label != one.label) continue
                val across =
                    maxOf(
                        minOf(one.box.right, other.box.right) - maxOf(one.box.left, other.box.left),
                        0f,
                    )
                val down =
                    maxOf(
                        minOf(one.box.bottom, other.box.bottom) - maxOf(one.box.top, other.box.top),
                        0f,
                    )
                val common = across * down
                if (common > overlap.toFloat() * (other.box.area + one.box.area - common))
                    stays[later] = false
            }
        }
        return candidates.filterIndexed { place, _ -> stays[place] }
    }

    /** The centre of column x is at ((x + 1/2) * inside / W) / 4 - 1/2 prototypes, rows alike. */
    private fun mixed(
        own: FloatArray,
        protos: Tensor,
        box: Box,
        original: Size,
        inside: Size,
    ): BooleanArray {
        val (_, height, width) = protos.shape.takeLast(3)
        val rows = pixels(box.top, box.bottom, original.rows)
        val columns = pixels(box.left, box.right, original.columns)
        val mask = BooleanArray(original.rows * original.columns)
        if (rows.isEmpty() || columns.isEmpty()) return mask
        val down =
            Along(
                rows.map { (it + 0.5) * (inside.rows.toDouble() / original.rows) / 4 - 0.5 },
                height,
            )
        val across =
            Along(
                columns.map {
                    (it + 0.5) * (inside.columns.toDouble() / original.columns) / 4 - 0.5
                },
                width,
            )
        val logits = FloatArray(height * width)
        for (row in down.first.min()..down.second.max()) for (column in
            across.first.min()..across.second.max()) {
            val place = row * width + column
            var sum = 0f
            for (p in own.indices) sum += own[p] * protos.at(p * height * width + place).toFloat()
            logits[place] = sum
        }
        for (row in rows) for (column in columns) {
            mask[row * original.columns + column] =
                bilinear(logits, width, down, row - rows.first, across, column - columns.first) > 0
        }
        return mask
    }

    private fun pixels(low: Float, high: Float, many: Int): IntRange =
        maxOf(ceil(low - 0.5).toInt(), 0) until minOf(ceil(high - 0.5).toInt(), many)

    /**
     * A border of 0 is put around the mask, the box is enlarged by (m + 2) / m about its middle,
     * its corners are cut to whole pixels, and the mask is stretched from there. Source:
     * torchvision's `paste_masks_in_image`.
     */
    private fun pasted(
        probabilities: FloatArray,
        small: Int,
        box: Box,
        original: Size,
    ): BooleanArray {
        val side = small + 2
        val padded = FloatArray(side * side)
        for (row in 0 until small) probabilities.copyInto(
            padded,
            (row + 1) * side + 1,
            row * small,
            (row + 1) * small,
        )
        val grow = (side.toDouble() / small).toFloat() * 0.5f
        fun corners(low: Float, high: Float): Pair<Int, Int> {
            val half = (high - low) * grow
            val middle = (high + low) * 0.5f
            return (middle - half).toInt() to (middle + half).toInt()
        }
        val (left, right) = corners(box.left, box.right)
        val (top, bottom) = corners(box.top, box.bottom)
        val rows = maxOf(top, 0) until minOf(bottom + 1, original.rows)
        val columns = maxOf(left, 0) until minOf(right + 1, original.columns)
        val down =
            Along(
                rows.map { (it - top + 0.5) * (side.toDouble() / (bottom - top + 1)) - 0.5 },
                side,
            )
        val across =
            Along(
                columns.map { (it - left + 0.5) * (side.toDouble() / (right - left + 1)) - 0.5 },
                side,
            )
        val mask = BooleanArray(original.rows * original.columns)
        for (row in rows) for (column in columns) {
            mask[row * original.columns + column] =
                bilinear(padded, side, down, row - rows.first, across, column - columns.first) >
                    0.5f
        }
        return mask
    }

    /**
     * Positions along an axis of `few` samples: the two that each lies between; beyond the outer
     * ones, these.
     */
    private class Along(at: List<Double>, few: Int) {
        private val places = at.map { it.coerceIn(0.0, few - 1.0) }
        val first = IntArray(at.size) { places[it].toInt() }
        val second = IntArray(at.size) { minOf(first[it] + 1, few - 1) }
        val share = FloatArray(at.size) { (places[it] - first[it]).toFloat() }
    }

    private fun bilinear(
        values: FloatArray,
        width: Int,
        down: Along,
        row: Int,
        across: Along,
        column: Int,
    ): Float {
        val share = across.share[column]
        fun wide(at: Int) =
            values[at * width + across.first[column]] * (1 - share) +
                values[at * width + across.second[column]] * share
        return wide(down.first[row]) * (1 - down.share[row]) +
            wide(down.second[row]) * down.share[row]
    }
}
