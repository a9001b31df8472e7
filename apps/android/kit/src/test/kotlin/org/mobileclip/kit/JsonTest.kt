package org.mobileclip.kit

import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import org.junit.jupiter.api.Test

class JsonTest {
    @Test
    fun `values are read as they are`() {
        val text =
            """ {"a": [1, -2.5, 1e3, 12345678901234567890, true, false, null], "b": "\u00e9\n\"\\\/ é", "a b": {}} """
        val value = Json.parse(text) as Map<*, *>
        assertEquals(listOf(1L, -2.5, 1000.0, 1.2345678901234567e19, true, false, null), value["a"])
        assertEquals("é\n\"\\/ é", value["b"])
        assertEquals(listOf("a", "b", "a b"), value.keys.toList())
    }

    @Test
    fun `what is written reads back`() {
        val value =
            mapOf(
                "list" to listOf(1L, 0.1, 1e-300, 3.0, null, true, "x\u0001\ud800\u2028\"\\"),
                "map" to mapOf("k" to emptyList<Any>()),
            )
        for (indent in listOf(0, 2)) {
            val read = Json.parse(Json.write(value, indent)) as Map<*, *>
            assertEquals(
                listOf(1L, 0.1, 1e-300, 3L, null, true, "x\u0001\ud800\u2028\"\\"),
                read["list"],
            )
            assertEquals(mapOf("k" to emptyList<Any>()), read["map"])
        }
        assertEquals("[0.1, 2]", Json.write(listOf(0.1f, floatArrayOf(2f)[0])))
        assertFailsWith<IllegalArgumentException> { Json.write(Double.NaN) }
    }

    @Test
    fun `what is no JSON is refused with its place`() {
        val wrong =
            listOf(
                "",
                "{",
                "[1,]",
                "{\"a\" 1}",
                "nul",
                "01",
                "1.",
                "--1",
                "\"a",
                "\"\\x\"",
                "\"\\u12g4\"",
                "[1] 2",
                "{a: 1}",
                "\"\n\"",
                "+1",
                "'a'",
                "NaN",
                "-",
            )
        for (text in wrong) assertFailsWith<JsonException>(text) { Json.parse(text) }
        assertEquals(
            "This is not JSON: ',' or ']' is missing (at character 3).",
            assertFailsWith<JsonException> { Json.parse("[1 2]") }.message,
        )
        assertEquals(
            "This is not JSON: it is nested deeper than 100 (at character 101).",
            assertFailsWith<JsonException> { Json.parse("[".repeat(50_000)) }.message,
        )
    }
}
