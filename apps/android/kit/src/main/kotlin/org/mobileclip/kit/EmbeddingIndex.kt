package org.mobileclip.kit

/** A row of an index and its cosine to the question. */
data class Hit(val place: Int, val score: Double)

/**
 * Unit embeddings in memory, in 8 or 16 bits, and the search among them: exact, or by the signs of
 * all rows first and exactly among the nearest of those. Rows are never removed; `IndexFile` makes
 * a new index where photos are gone.
 *
 * Not safe for several threads.
 */
class EmbeddingIndex(val width: Int, val kind: Kind = Kind.INT8) {
    enum class Kind {
        INT8,
        FP16,
    }

    private val integers = if (kind == Kind.INT8) Int8Rows(width) else null
    private var scales = FloatArray(64)
    private var halves = ArrayList<ShortArray>()
    private val words = (width + 63) / 64
    private var codes = LongArray(64 * words)

    /** Rows. */
    var size = 0
        private set

    /**
     * Add an embedding of any length; its place is the former `size`.
     *
     * @throws EmbeddingException not finite, or of another width.
     */
    fun add(embedding: FloatArray) {
        val unit = checked(embedding)
        if (kind == Kind.INT8) add(Quantised.of(unit), unit)
        else addHalves(ShortArray(width) { Halves.of(unit[it]) }, unit)
    }

    /** Add a row as it was stored; signs are those of its integers. */
    fun add(row: Quantised) {
        require(row.integers.size == width) {
            "${row.integers.size} integers in an index of width $width"
        }
        add(row, FloatArray(width) { row.integers[it].toFloat() })
    }

    /** The `most` rows of the highest cosine, best first, equal ones in their order. */
    fun search(question: FloatArray, most: Int): List<Hit> {
        val unit = checked(question)
        val best = Best(minOf(most, size))
        return if (kind == Kind.INT8) {
            val asked = Quantised.of(unit)
            integers!!.dots(asked.integers) { first, count, dots ->
                for (row in 0 until count) {
                    val score = dots[row].toDouble() * scales[first + row]
                    if (score > best.bar) best.offer(first + row, score)
                }
            }
            hits(best, asked.scale.toDouble())
        } else {
            for (place in 0 until size) best.offer(place, halfDot(halves[place], unit))
            hits(best, 1.0)
        }
    }

    /** The same among the `candidates` rows whose signs differ least from the question's. */
    fun searchCoded(question: FloatArray, most: Int, candidates: Int): List<Hit> {
        val unit = checked(question)
        val asked = Quantised.of(unit)
        val best = Best(minOf(most, candidates, size))
        for (place in nearest(unit, candidates)) {
            val score =
                if (kind == Kind.INT8)
                    dot(integers!!.row(place), asked.integers).toDouble() * scales[place]
                else halfDot(halves[place], unit)
            best.offer(place, score)
        }
        return hits(best, if (kind == Kind.INT8) asked.scale.toDouble() else 1.0)
    }

    /** How many signs of each row differ from the question's. */
    fun distances(question: FloatArray): IntArray {
        val asked = signs(checked(question))
        val out = IntArray(size)
        for (place in 0 until size) {
            var sum = 0
            for (word in 0 until words) sum +=
                java.lang.Long.bitCount(codes[place * words + word] xor asked[word])
            out[place] = sum
        }
        return out
    }

    /** Places in ascending order; of equal distances the first ones. */
    private fun nearest(unit: FloatArray, candidates: Int): IntArray {
        val distances = distances(unit)
        val counts = IntArray(width + 1)
        for (distance in distances) counts[distance]++
        var limit = 0
        var below = 0
        while (limit < width && below + counts[limit] < candidates) below += counts[limit++]
        var left = candidates - below
        val out = IntArray(minOf(candidates, size))
        var count = 0
        for (place in distances.indices) {
            val distance = distances[place]
            if (distance < limit || distance == limit && left-- > 0) out[count++] = place
        }
        return out.copyOf(count)
    }

    private fun add(row: Quantised, signed: FloatArray) {
        integers!!.add(row.integers)
        if (size == scales.size) scales = scales.copyOf(size * 2)
        scales[size] = row.scale
        addSigns(signed)
    }

    private fun addHalves(row: ShortArray, signed: FloatArray) {
        halves.add(row)
        addSigns(signed)
    }

    private fun addSigns(signed: FloatArray) {
        if ((size + 1) * words > codes.size) codes = codes.copyOf(codes.size * 2)
        signs(signed).copyInto(codes, size * words)
        size++
    }

    /** Bit i % 64 of word i / 64 is whether value i is above 0. */
    private fun signs(unit: FloatArray): LongArray {
        val out = LongArray(words)
        for (i in unit.indices) if (unit[i] > 0) out[i / 64] = out[i / 64] or (1L shl i % 64)
        return out
    }

    private fun checked(embedding: FloatArray): FloatArray {
        if (embedding.size != width) {
            throw EmbeddingException(
                "An embedding of ${embedding.size} values came to an index of $width: build the index again."
            )
        }
        if (!Vectors.isFinite(embedding))
            throw EmbeddingException("An embedding is not a number: check the model.")
        return Vectors.unit(embedding)
    }

    private fun hits(best: Best, scale: Double): List<Hit> {
        val scores = best.scores()
        return best.places().mapIndexed { rank, place -> Hit(place, scores[rank] * scale) }
    }

    private fun dot(a: ByteArray, b: ByteArray): Int {
        var sum = 0
        for (i in a.indices) sum += a[i] * b[i]
        return sum
    }

    private fun halfDot(row: ShortArray, unit: FloatArray): Double {
        var sum = 0.0
        for (i in row.indices) sum += Halves.toFloat(row[i]).toDouble() * unit[i]
        return sum
    }

    internal fun integersOf(place: Int): ByteArray = integers!!.row(place)

    internal fun scaleOf(place: Int): Float = scales[place]

    internal fun halvesOf(place: Int): ShortArray = halves[place]
}
