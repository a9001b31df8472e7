package org.mobileclip.kit

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.Base64
import kotlin.math.abs
import kotlin.test.assertEquals
import kotlin.test.assertTrue

/** The golden vectors of apps/golden, which every kit is held against. */
object Golden {
    val folder = File(System.getProperty("golden"))
    val tokenizer: Tokenizer by lazy { Tokenizer.load() }

    /** A golden file; a list of it has at least one case. */
    class Vectors(private val name: String) {
        private val whole = Json.parse(File(folder, name).readText()) as Map<*, *>

        init {
            assertEquals(1L, whole["version"], "$name is of another version")
        }

        val cases
            get() = list("cases")

        fun list(key: String): List<Case> =
            (whole[key] as List<*>)
                .map { Case(it as Map<*, *>) }
                .also { assertTrue(it.isNotEmpty(), "$name has no $key") }

        fun value(key: String): Any? = whole[key]
    }

    class Case(private val fields: Map<*, *>) {
        val name
            get() = text("name")

        fun has(key: String) = fields[key] != null

        fun text(key: String) = fields[key] as String

        fun flag(key: String) = fields[key] as Boolean

        fun number(key: String) = (fields[key] as Number).toDouble()

        fun whole(key: String) = (fields[key] as Long).toInt()

        fun integers(key: String) = (fields[key] as List<*>).map { (it as Long).toInt() }

        fun numbers(key: String) = (fields[key] as List<*>).map { (it as Number).toDouble() }

        fun bytes(key: String): ByteArray = Base64.getDecoder().decode(text(key))

        fun array(key: String) = Values(Case(fields[key] as Map<*, *>))

        fun case(key: String) = Case(fields[key] as Map<*, *>)

        fun map(key: String) = fields[key] as Map<*, *>

        fun size(key: String) = integers(key).let { Size(it[0], it[1]) }
    }

    /** An array of a golden file. */
    class Values(entry: Case) {
        private val dtype = entry.text("dtype")
        val shape = entry.integers("shape").toIntArray()
        private val raw = entry.bytes("base64")
        private val buffer
            get() = ByteBuffer.wrap(raw).order(ByteOrder.LITTLE_ENDIAN)

        private val count = shape.fold(1, Int::times)

        fun bytes(): ByteArray = raw.also { require(dtype == "uint8" || dtype == "int8") }

        fun shorts(): ShortArray = buffer.let { b -> ShortArray(count) { b.getShort() } }

        fun ints(): IntArray =
            buffer.let { b ->
                IntArray(count) {
                    when (dtype) {
                        "int32" -> b.getInt()
                        "int64" -> b.getLong().toInt()
                        "uint8" -> b.get().toInt() and 255
                        else -> error(dtype)
                    }
                }
            }

        fun floats(): FloatArray =
            buffer
                .let { b -> FloatArray(count) { b.getFloat() } }
                .also { require(dtype == "float32") }

        fun rows(): List<FloatArray> =
            floats().let { all ->
                List(shape[0]) { all.copyOfRange(it * shape[1], (it + 1) * shape[1]) }
            }

        fun tensor(): Tensor =
            if (dtype == "float32") FloatTensor(shape, floats()) else IntTensor(shape, ints())

        fun picture() = Picture(shape[1], shape[0], bytes())
    }

    fun assertNear(expected: DoubleArray, actual: DoubleArray, tolerance: Double, name: String) {
        assertEquals(expected.size, actual.size, name)
        for (i in expected.indices) {
            val same =
                expected[i].isNaN() && actual[i].isNaN() ||
                    abs(expected[i] - actual[i]) <= tolerance
            assertTrue(same, "$name: ${actual[i]} at $i instead of ${expected[i]}")
        }
    }

    fun assertNear(expected: FloatArray, actual: FloatArray, tolerance: Double, name: String) =
        assertNear(
            expected.map { it.toDouble() }.toDoubleArray(),
            actual.map { it.toDouble() }.toDoubleArray(),
            tolerance,
            name,
        )

    fun assertSame(expected: Picture, actual: Picture, name: String) {
        assertEquals(
            listOf(expected.width, expected.height),
            listOf(actual.width, actual.height),
            name,
        )
        val different = expected.rgb.indices.count { expected.rgb[it] != actual.rgb[it] }
        assertEquals(0, different, "$name: so many of ${expected.rgb.size} values differ")
    }
}
