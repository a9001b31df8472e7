package org.mobileclip.kit

/** Statistics of latency samples, in the samples' own unit. */
object Statistics {
    /** Samples of a ModelBench round, and how many are dropped at each end. */
    const val ROUND = 50
    const val ROUNDS = 20
    private const val DROPPED = 10

    /** p50, p90, p99, min, mean, n; empty without samples. */
    fun percentiles(samples: List<Double>): Map<String, Double> {
        if (samples.isEmpty()) return emptyMap()
        val sorted = samples.toDoubleArray().also { it.sort() }
        return linkedMapOf(
            "p50" to percentile(sorted, 50.0),
            "p90" to percentile(sorted, 90.0),
            "p99" to percentile(sorted, 99.0),
            "min" to sorted[0],
            "mean" to samples.average(),
            "n" to samples.size.toDouble(),
        )
    }

    /** Of ascending samples, linear between two. */
    fun percentile(sorted: DoubleArray, percent: Double): Double {
        val at = percent / 100 * (sorted.size - 1)
        val below = at.toInt()
        val above = minOf(below + 1, sorted.size - 1)
        return sorted[below] + (sorted[above] - sorted[below]) * (at - below)
    }

    /** Whole rounds of 50 of the samples, in order. */
    fun rounds(samples: List<Double>): List<List<Double>> =
        samples.chunked(ROUND).filter { it.size == ROUND }

    /**
     * ModelBench's mean: of each round the 10 lowest and 10 highest dropped, the mean of their
     * means; null without a whole round.
     */
    fun modelBench(rounds: List<List<Double>>): Double? =
        rounds
            .filter { it.size >= ROUND }
            .map { it.sorted().drop(DROPPED).dropLast(DROPPED).average() }
            .takeIf { it.isNotEmpty() }
            ?.average()
}
