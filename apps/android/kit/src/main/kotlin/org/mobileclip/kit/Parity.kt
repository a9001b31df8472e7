package org.mobileclip.kit

import kotlin.math.abs
import kotlin.math.log10
import kotlin.math.min
import kotlin.math.sqrt

/**
 * What outputs must reach against a known answer; defaults of `equal` and `found` are for manifests
 * without them.
 */
data class Gate(
    val db: Double,
    val cosine: Double,
    val equal: Double = 1.0,
    val found: Double = 1.0,
)

/** One output held against its reference. */
data class Parity(
    /** 10 log10(sum reference^2 / sum error^2). */
    val db: Double,
    val cosine: Double,
    val maxError: Double,
    /** Share of equal labels; null where the output is no labels. */
    val equal: Double? = null,
    /**
     * Share of objects that were found again, of which the others speak; null where the output is
     * no objects.
     */
    val found: Double? = null,
) {
    /**
     * Labels by their share, all else by dB and cosine, and objects by the share that was found as
     * well.
     */
    fun passes(gate: Gate): Boolean =
        if (equal != null) equal >= gate.equal
        else db >= gate.db && cosine >= gate.cosine && (found == null || found >= gate.found)

    /** As results and manifests write it. */
    fun json(): Map<String, Any?> =
        linkedMapOf("db" to db, "cosine" to cosine, "max_error" to maxError).apply {
            equal?.let { put("equal", it) }
            found?.let { put("found", it) }
        }

    companion object {
        private const val LARGEST_DB = 300.0
        private const val OVERLAP = 0.9

        /**
         * All outputs of an artifact with their references, one each, as its manifest says they are
         * compared.
         */
        fun compare(
            outputs: List<Tensor>,
            references: List<Tensor>,
            rules: List<OutputRule>,
        ): List<Parity> {
            if (
                outputs.size != references.size ||
                    outputs.indices.any { outputs[it].size != references[it].size }
            ) {
                return references.map { Parity(-LARGEST_DB, 0.0, Float.MAX_VALUE.toDouble()) }
            }
            val matched = references.indices.filter { rules.getOrNull(it)?.compare == "matched" }
            val objects =
                if (matched.size >= 3)
                    matched
                        .zip(objects(matched.map(outputs::get), matched.map(references::get)))
                        .toMap()
                else emptyMap()
            return references.indices.map { place ->
                objects[place]
                    ?: if (rules.getOrNull(place)?.compare == "equal") {
                        labels(outputs[place], references[place])
                    } else {
                        floats(outputs[place], references[place])
                    }
            }
        }

        /** One that is no better than any of `found`. */
        fun worst(found: List<Parity>): Parity =
            Parity(
                found.minOf { it.db },
                found.minOf { it.cosine },
                found.maxOf { it.maxError },
                found.mapNotNull { it.equal }.takeIf { it.size == found.size }?.min(),
                found.mapNotNull { it.found }.takeIf { it.size == found.size }?.min(),
            )

        /** Anything not finite in the output gives the lowest dB and cosine 0. */
        fun floats(
            output: Tensor,
            reference: Tensor,
            places: Iterable<Int> = 0 until reference.size,
            of: (Int) -> Int = { it },
        ): Parity {
            var error = 0.0
            var signal = 0.0
            var dot = 0.0
            var power = 0.0
            var largest = 0.0
            for (place in places) {
                val a = output.at(of(place))
                val b = reference.at(place)
                if (!a.isFinite()) return Parity(-LARGEST_DB, 0.0, Float.MAX_VALUE.toDouble())
                error += (a - b) * (a - b)
                signal += b * b
                dot += a * b
                power += a * a
                largest = maxOf(largest, abs(a - b))
            }
            val db =
                if (error == 0.0) LARGEST_DB
                else if (signal == 0.0) -LARGEST_DB else 10 * log10(signal / error)
            val lengths = sqrt(power) * sqrt(signal)
            val cosine = if (lengths != 0.0) dot / lengths else if (error == 0.0) 1.0 else 0.0
            return Parity(min(db, LARGEST_DB), min(cosine, 1.0), largest)
        }

        private fun labels(output: Tensor, reference: Tensor): Parity {
            val wrong = (0 until reference.size).count { output.at(it) != reference.at(it) }
            val share = 1 - wrong.toDouble() / maxOf(reference.size, 1)
            val error =
                (0 until reference.size).maxOfOrNull { abs(output.at(it) - reference.at(it)) }
                    ?: 0.0
            return Parity(
                if (wrong == 0) LARGEST_DB else 10 * log10(reference.size.toDouble() / wrong),
                share,
                error,
                share,
            )
        }

        /**
         * Boxes [D, 4], scores [D], labels [D], masks [D, ...], rows in any order: an object is
         * found again by one of the same label that no other claimed and whose box overlaps by 0.9.
         * Rows without area are empty places.
         */
        private fun objects(outputs: List<Tensor>, references: List<Tensor>): List<Parity> {
            val rows = references[1].size
            fun box(boxes: Tensor, row: Int) = DoubleArray(4) { boxes.at(4 * row + it) }
            val there = (0 until rows).filter { area(box(references[0], it)) > 0 }
            val free = (0 until rows).filter { area(box(outputs[0], it)) > 0 }.toMutableList()
            val total = maxOf(there.size, free.size, 1)
            val any = there.isNotEmpty() || free.isNotEmpty()
            val pairs = LinkedHashMap<Int, Int>()
            for (row in there) {
                val best =
                    free
                        .filter { outputs[2].at(it) == references[2].at(row) }
                        .maxByOrNull { overlap(box(outputs[0], it), box(references[0], row)) }
                        ?: continue
                if (overlap(box(outputs[0], best), box(references[0], row)) >= OVERLAP) {
                    free.remove(best)
                    pairs[row] = best
                }
            }
            val share = if (any) pairs.size.toDouble() / total else 1.0
            return references.indices.map { output ->
                val width = references[output].size / rows
                val places = pairs.keys.flatMap { row -> (0 until width).map { row * width + it } }
                val found =
                    if (places.isEmpty()) {
                        Parity(
                            if (share == 1.0) LARGEST_DB else -LARGEST_DB,
                            if (share == 1.0) 1.0 else 0.0,
                            0.0,
                        )
                    } else {
                        floats(outputs[output], references[output], places) {
                            pairs.getValue(it / width) * width + it % width
                        }
                    }
                found.copy(found = share)
            }
        }

        private fun area(box: DoubleArray) =
            maxOf(box[2] - box[0], 0.0) * maxOf(box[3] - box[1], 0.0)

        private fun overlap(a: DoubleArray, b: DoubleArray): Double {
            val across = maxOf(min(a[2], b[2]) - maxOf(a[0], b[0]), 0.0)
            val down = maxOf(min(a[3], b[3]) - maxOf(a[1], b[1]), 0.0)
            val common = across * down
            return common / maxOf(area(a) + area(b) - common, 1e-12)
        }
    }
}
