package org.mobileclip.kit

/**
 * IEEE 754 half floats as the 16 bits of a Short; `java.lang.Float.float16ToFloat` is too young for
 * phones.
 */
internal object Halves {
    /** The nearest half, ties to even. */
    fun of(value: Float): Short {
        val bits = value.toRawBits()
        val sign = bits ushr 16 and 0x8000
        val magnitude = bits and 0x7fffffff
        val half =
            when {
                magnitude > 0x7f800000 -> 0x7e00
                magnitude >= 0x477ff000 -> 0x7c00 // 65,520 and more
                magnitude >= 0x38800000 -> rounded(magnitude - (112 shl 23), 13)
                magnitude >= 0x33000000 -> { // subnormal: from 2^-25 on
                    val shift = 126 - (magnitude ushr 23)
                    rounded(magnitude and 0x7fffff or 0x800000, shift)
                }
                else -> 0
            }
        return (sign or half).toShort()
    }

    private fun rounded(bits: Int, shift: Int): Int {
        val kept = bits ushr shift
        val rest = bits and (1 shl shift) - 1
        val half = 1 shl shift - 1
        return if (rest > half || rest == half && kept and 1 == 1) kept + 1 else kept
    }

    /** Exact. */
    fun toFloat(half: Short): Float = TABLE[half.toInt() and 0xffff]

    private val TABLE =
        FloatArray(0x10000) { bits ->
            val sign = if (bits and 0x8000 == 0) 1f else -1f
            val exponent = bits ushr 10 and 31
            val fraction = bits and 0x3ff
            when (exponent) {
                0 -> sign * fraction / (1 shl 24)
                31 -> if (fraction == 0) sign * Float.POSITIVE_INFINITY else Float.NaN
                else ->
                    Float.fromBits(
                        (bits and 0x8000 shl 16) or (exponent + 112 shl 23) or (fraction shl 13)
                    )
            }
        }
}
