package org.mobileclip.kit

import kotlin.math.abs
import kotlin.math.sqrt

/** Embeddings as vectors. */
object Vectors {
    /** Whether every value is finite. */
    fun isFinite(vector: FloatArray): Boolean = vector.all { it.isFinite() }

    /** Scaled to unit length without an overflow of squares; zeros stay zeros. */
    fun unit(vector: FloatArray): FloatArray {
        val largest = vector.maxOfOrNull { abs(it) } ?: 0f
        if (largest == 0f) return vector.copyOf()
        val scaled = FloatArray(vector.size) { vector[it] / largest }
        val length = sqrt(dot(scaled, scaled))
        return FloatArray(vector.size) { (scaled[it] / length).toFloat() }
    }

    /** Sum of products, in 64 bits. */
    fun dot(a: FloatArray, b: FloatArray): Double {
        require(a.size == b.size) { "vectors of ${a.size} and ${b.size} values" }
        var sum = 0.0
        for (i in a.indices) sum += a[i].toDouble() * b[i]
        return sum
    }

    /**
     * The places of the `most` highest scores, best first, equal ones in their order; NaN is last.
     */
    fun best(scores: DoubleArray, most: Int = scores.size): IntArray {
        val kept = Best(minOf(most, scores.size))
        for (place in scores.indices) kept.offer(
            place,
            if (scores[place].isNaN()) Double.NEGATIVE_INFINITY else scores[place],
        )
        return kept.places()
    }
}

/** The best so far, in order; one that is offered later loses against an equal one. */
internal class Best(private val room: Int) {
    private val places = IntArray(room)
    private val scores = DoubleArray(room)
    private var size = 0

    /** Scores at or below this change nothing. */
    var bar: Double = Double.NEGATIVE_INFINITY
        private set

    fun offer(place: Int, score: Double) {
        if (room == 0 || size == room && score <= scores[size - 1]) return
        var at = if (size < room) size++ else size - 1
        while (at > 0 && scores[at - 1] < score) {
            scores[at] = scores[at - 1]
            places[at] = places[at - 1]
            at--
        }
        scores[at] = score
        places[at] = place
        if (size == room) bar = scores[size - 1]
    }

    fun places(): IntArray = places.copyOf(size)

    fun scores(): DoubleArray = scores.copyOf(size)
}
