package org.mobileclip.kit

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Values in a shape, row by row: what artifacts take and give. */
sealed interface Tensor {
    val shape: IntArray

    /** How many values. */
    val size: Int

    /** The value at a place of the flattened tensor. */
    fun at(place: Int): Double
}

/** 32-bit floats. Half floats of an artifact come as these. */
class FloatTensor(override val shape: IntArray, val values: FloatArray) : Tensor {
    init {
        require(shape.fold(1, Int::times) == values.size) {
            "${shape.toList()} are not ${values.size} values"
        }
    }

    override val size: Int
        get() = values.size

    override fun at(place: Int): Double = values[place].toDouble()
}

/** Integers of 8, 32 or 64 bits, which fit in 32: token ids and labels. */
class IntTensor(override val shape: IntArray, val values: IntArray) : Tensor {
    init {
        require(shape.fold(1, Int::times) == values.size) {
            "${shape.toList()} are not ${values.size} values"
        }
    }

    override val size: Int
        get() = values.size

    override fun at(place: Int): Double = values[place].toDouble()
}

/**
 * Little-endian bytes of a known answer -> a tensor of its type; null where they do not fit the
 * shape.
 */
internal fun tensorOf(bytes: ByteArray, dtype: String, shape: IntArray): Tensor? {
    val count = shape.fold(1L) { product, side -> product * side }
    val width = if (dtype == "int64") 8 else 4
    if (bytes.size.toLong() != count * width) return null
    val buffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)
    return when (dtype) {
        "float32" -> FloatTensor(shape, FloatArray(count.toInt()) { buffer.getFloat() })
        "int32" -> IntTensor(shape, IntArray(count.toInt()) { buffer.getInt() })
        "int64" -> IntTensor(shape, IntArray(count.toInt()) { buffer.getLong().toInt() })
        else -> null
    }
}
