package org.mobileclip.kit

import kotlin.random.Random
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import org.junit.jupiter.api.Test

class SearchTest {
    private val golden = Golden.Vectors("search.json")

    @Test
    fun `stored rows, scores and order are the reference's`() {
        for (case in golden.cases) {
            val question = case.array("question").floats()
            val rows = case.array("rows").rows()
            val most = case.whole("most")

            val half = case.case("fp16")
            val halves =
                EmbeddingIndex(question.size, EmbeddingIndex.Kind.FP16).apply {
                    rows.forEach(::add)
                }
            assertContentEquals(
                half.array("stored").shorts(),
                rows.indices.flatMap { halves.halvesOf(it).toList() }.toShortArray(),
                case.name,
            )
            check(half, halves.search(question, most), case.name)

            val eight = case.case("int8")
            val index = EmbeddingIndex(question.size).apply { rows.forEach(::add) }
            assertContentEquals(
                eight.array("stored").bytes(),
                rows.indices.flatMap { index.integersOf(it).toList() }.toByteArray(),
                case.name,
            )
            assertContentEquals(
                eight.array("scales").floats(),
                FloatArray(rows.size, index::scaleOf),
                case.name,
            )
            val asked = Quantised.of(Vectors.unit(question))
            assertContentEquals(eight.array("question").bytes(), asked.integers, case.name)
            val int8 =
                Int8Rows(question.size).apply {
                    rows.forEach { add(Quantised.of(Vectors.unit(it)).integers) }
                }
            int8.dots(asked.integers) { first, count, dots ->
                assertContentEquals(
                    eight.array("dots").ints().copyOfRange(first, first + count),
                    dots.copyOf(count),
                    case.name,
                )
            }
            check(eight, index.search(question, most), case.name)

            val binary = case.case("binary")
            assertContentEquals(
                binary.array("distances").ints(),
                index.distances(question),
                case.name,
            )
            assertEquals(
                binary.integers("order"),
                index.searchCoded(question, most, case.whole("candidates")).map { it.place },
                case.name,
            )
        }
    }

    private fun check(expected: Golden.Case, found: List<Hit>, name: String) {
        assertEquals(expected.integers("order"), found.map { it.place }, name)
        Golden.assertNear(
            expected.numbers("scores").toDoubleArray(),
            found.map { it.score }.toDoubleArray(),
            expected.number("tolerance"),
            name,
        )
    }

    @Test
    fun `dot products are exact over many blocks and odd widths`() {
        val random = Random(3)
        for (width in listOf(1, 2, 3, 5, 8, 511, 512, 2048)) {
            val rows =
                List(Int8Rows.BLOCK + 77) {
                    ByteArray(width) { random.nextInt(-127, 128).toByte() }
                } + listOf(ByteArray(width) { 127 }, ByteArray(width) { -127 })
            val store = Int8Rows(width).apply { rows.forEach(::add) }
            for (question in
                listOf(
                    rows[9],
                    ByteArray(width) { 127 },
                    ByteArray(width) { -127 },
                    ByteArray(width),
                )) {
                store.dots(question) { first, count, dots ->
                    for (row in 0 until count) {
                        assertEquals(
                            rows[first + row].indices.sumOf {
                                rows[first + row][it] * question[it]
                            },
                            dots[row],
                            "row ${first + row}",
                        )
                    }
                }
            }
            assertContentEquals(rows[Int8Rows.BLOCK + 3], store.row(Int8Rows.BLOCK + 3))
        }
    }

    @Test
    fun `halves round as IEEE 754 says`() {
        for (bits in 0..0xffff) {
            val value = Halves.toFloat(bits.toShort())
            if (!value.isNaN()) assertEquals(bits.toShort(), Halves.of(value))
        }
        for ((value, half) in
            listOf(
                65519f to 0x7bff,
                65520f to 0x7c00,
                1e-8f to 0,
                2.9802322e-8f to 0,
                2.9802326e-8f to 1,
                1.00048828125f to 0x3c00,
                1.0014648f to 0x3c02,
            )) {
            assertEquals(half.toShort(), Halves.of(value), "$value")
        }
    }

    @Test
    fun `what cannot be indexed is said`() {
        val index = EmbeddingIndex(4)
        assertEquals(
            "An embedding of 3 values came to an index of 4: build the index again.",
            assertFailsWith<EmbeddingException> { index.add(FloatArray(3)) }.message,
        )
        assertEquals(
            "An embedding is not a number: check the model.",
            assertFailsWith<EmbeddingException> { index.add(floatArrayOf(1f, Float.NaN, 0f, 0f)) }
                .message,
        )
        assertEquals(emptyList<Hit>(), index.search(floatArrayOf(1f, 0f, 0f, 0f), 5))
        assertEquals(emptyList<Hit>(), index.searchCoded(floatArrayOf(1f, 0f, 0f, 0f), 5, 5))
    }
}
