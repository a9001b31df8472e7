package org.mobileclip.kit

import kotlin.math.exp

/** A label and how probable it is among the others, 0..1. */
data class Ranked(val place: Int, val probability: Double)

/**
 * Which of several texts fits a picture: softmax of the logit scale times the cosines, in 64 bits.
 *
 * A text whose embedding is not finite takes no part (probability 0).
 *
 * @throws EmbeddingException every text's embedding is not finite, or the widths differ.
 */
class ZeroShot(texts: List<FloatArray>, private val logitScale: Double) {
    private val rows: List<FloatArray?> =
        texts.map { if (Vectors.isFinite(it)) Vectors.unit(it) else null }

    init {
        if (rows.all { it == null })
            throw EmbeddingException(
                "The texts have no embeddings that are numbers: check the model."
            )
        val widths = texts.map { it.size }.distinct()
        if (widths.size > 1)
            throw EmbeddingException(
                "The texts' embeddings have several widths ($widths): use one model."
            )
    }

    /**
     * Probabilities of the texts, in their order.
     *
     * @throws EmbeddingException the picture's embedding is not finite, or of another width.
     */
    fun probabilities(image: FloatArray): DoubleArray {
        if (!Vectors.isFinite(image))
            throw EmbeddingException(
                "The picture has no embedding that is a number: check the model."
            )
        val width = rows.first { it != null }!!.size
        if (image.size != width) {
            throw EmbeddingException(
                "The picture's embedding has ${image.size} values, the texts' have $width: use one model."
            )
        }
        val one = Vectors.unit(image)
        val logits =
            DoubleArray(rows.size) { place ->
                rows[place]?.let { logitScale * Vectors.dot(it, one) } ?: Double.NEGATIVE_INFINITY
            }
        val highest = logits.max()
        val powers = DoubleArray(logits.size) { exp(logits[it] - highest) }
        val sum = powers.sum()
        return DoubleArray(powers.size) { powers[it] / sum }
    }

    /** The most probable texts, best first, equal ones in their order. */
    fun rank(image: FloatArray, most: Int = rows.size): List<Ranked> {
        val found = probabilities(image)
        return Vectors.best(found, most).map { Ranked(it, found[it]) }
    }

    companion object {
        /** The prompt of a label: `template` with the label where it says {}. */
        fun prompt(template: String, label: String): String = template.replace("{}", label)

        /**
         * A class's embedding from several texts of it: the mean of unit vectors, scaled to unit
         * length.
         */
        fun ensemble(texts: List<FloatArray>): FloatArray {
            val units = texts.map(Vectors::unit)
            val width = units.first().size
            return Vectors.unit(
                FloatArray(width) { i -> (units.sumOf { it[i].toDouble() } / units.size).toFloat() }
            )
        }
    }
}
