package org.mobileclip.kit

import kotlin.math.abs
import kotlin.math.floor

/** A unit vector in 8 bits: value = integer times `scale`. */
class Quantised(val integers: ByteArray, val scale: Float) {
    companion object {
        /** scale = max|v| / 127; integers are rounded half away from zero; zeros have scale 0. */
        fun of(vector: FloatArray): Quantised {
            val largest = (vector.maxOfOrNull { abs(it) } ?: 0f).toDouble()
            val integers =
                ByteArray(vector.size) { place ->
                    val share =
                        if (largest == 0.0) 0.0
                        else floor(abs(vector[place]).toDouble() * 127 / largest + 0.5)
                    (if (vector[place] < 0) -share else share).toInt().toByte()
                }
            return Quantised(integers, (largest / 127).toFloat())
        }
    }
}

/**
 * Rows of 8-bit integers, laid out so that plain loops over ints do four products with two
 * multiplications, and so that the compilers of JVMs and of Android make vector instructions of
 * them (which they do for no loop over bytes, for none that begins inside of an array, and for none
 * of many operations): integers are stored plus 128, an array for each dimension of a block of
 * 1,024 rows, four rows to an int. With u = a + 128 and w = b + 128 the dot product is sum(u w) -
 * 128 sum(u) - 128 sum(w) + 128 * 128 * width, exactly, up to a width of 32,000.
 */
internal class Int8Rows(private val width: Int) {
    private val blocks = ArrayList<Array<IntArray>>()
    private var sums = IntArray(BLOCK)
    var size = 0
        private set

    init {
        require(width in 1..32_000) { "a width of $width" }
    }

    fun add(integers: ByteArray) {
        require(integers.size == width) { "${integers.size} integers in an index of width $width" }
        if (size % BLOCK == 0) blocks.add(Array(width) { IntArray(LANES) })
        if (size == sums.size) sums = sums.copyOf(size * 2)
        val block = blocks.last()
        val lane = size % BLOCK / 4
        val shift = size % 4 * 8
        var sum = 0
        for (i in 0 until width) {
            val shifted = integers[i] + 128
            sum += shifted
            block[i][lane] = block[i][lane] or (shifted shl shift)
        }
        sums[size++] = sum
    }

    fun row(place: Int): ByteArray {
        val block = blocks[place / BLOCK]
        val lane = place % BLOCK / 4
        return ByteArray(width) { ((block[it][lane] ushr place % 4 * 8 and 255) - 128).toByte() }
    }

    /**
     * Dot products of every row with `question`, block by block: `found(first row, how many,
     * products)`.
     */
    inline fun dots(question: ByteArray, found: (Int, Int, IntArray) -> Unit) {
        val work = Work(question)
        for (block in 0 until blockCount) {
            val first = block * BLOCK
            val count = minOf(BLOCK, size - first)
            found(first, count, dots(block, work, count))
        }
    }

    val blockCount: Int
        get() = blocks.size

    /** A question's integers plus 128, and room for sums. */
    class Work(question: ByteArray) {
        val shifted = IntArray(question.size) { question[it] + 128 }
        val sum = shifted.sum()
        val even = IntArray(LANES)
        val evenHigh = IntArray(LANES)
        val odd = IntArray(LANES)
        val oddHigh = IntArray(LANES)
        val out = IntArray(BLOCK)
    }

    fun dots(block: Int, work: Work, count: Int): IntArray {
        val codes = blocks[block]
        work.even.fill(0)
        work.evenHigh.fill(0)
        work.odd.fill(0)
        work.oddHigh.fill(0)
        for (i in 0 until width) {
            even(codes[i], work.shifted[i], work.even, work.evenHigh)
            odd(codes[i], work.shifted[i], work.odd, work.oddHigh)
        }
        val constant = 128 * 128 * width - 128 * work.sum
        val first = block * BLOCK
        for (row in 0 until count) {
            val lane = row / 4
            // the sum of both fields, less the upper ones, is the lower ones'
            val product =
                when (row % 4) {
                    0 -> work.even[lane] - (work.evenHigh[lane] shl 16)
                    1 -> work.odd[lane] - (work.oddHigh[lane] shl 16)
                    2 -> work.evenHigh[lane]
                    else -> work.oddHigh[lane]
                }
            work.out[row] = product - 128 * sums[first + row] + constant
        }
        return work.out
    }

    private fun even(codes: IntArray, weight: Int, both: IntArray, high: IntArray) {
        for (lane in 0 until LANES) {
            val products = (codes[lane] and FIELDS) * weight
            both[lane] += products
            high[lane] += products ushr 16
        }
    }

    private fun odd(codes: IntArray, weight: Int, both: IntArray, high: IntArray) {
        for (lane in 0 until LANES) {
            val products = (codes[lane] ushr 8 and FIELDS) * weight
            both[lane] += products
            high[lane] += products ushr 16
        }
    }

    companion object {
        const val BLOCK = 1024
        const val LANES = BLOCK / 4
        private const val FIELDS = 0x00ff00ff
    }
}
