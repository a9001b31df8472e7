package org.mobileclip.kit

import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertTrue
import org.junit.jupiter.api.Test

class TokenizerTest {
    private val golden = Golden.Vectors("tokenization.json")
    private val tokenizer = Golden.tokenizer

    @Test
    fun `every golden text has the reference's ids`() {
        assertTrue(golden.cases.size >= 2000)
        val wrong =
            golden.cases.filter { case ->
                tokenizer.encode(case.text("text"), 75).toList() != case.integers("ids") ||
                    case.has("tokens") &&
                        tokenizer.encode(case.text("text")).size != case.whole("tokens")
            }
        assertEquals(
            emptyList<String>(),
            wrong.map {
                "${Json.write(it.text("text")).take(200)}: ${tokenizer.encode(it.text("text"), 75).toList()} instead of ${it.integers("ids")}"
            },
        )
    }

    @Test
    fun `halves of surrogate pairs are the replacement character`() {
        for (case in golden.list("surrogates")) {
            val text =
                String(
                    CharArray(case.integers("utf16").size) { case.integers("utf16")[it].toChar() }
                )
            assertEquals(
                case.integers("ids"),
                tokenizer.encode(text).toList(),
                "${case.integers("utf16")}",
            )
        }
    }

    @Test
    fun `mojibake is not repaired`() {
        for (case in golden.list("repaired")) assertEquals(
            case.integers("ids"),
            tokenizer.encode(case.text("text"), 75).toList(),
        )
    }

    @Test
    fun `rows are padded and cut as towers take them`() {
        for (case in golden.cases) {
            val ids = case.integers("ids")
            val row = tokenizer.row(case.text("text"))
            assertEquals(77, row.size)
            assertContentEquals(
                (listOf(49406) + ids + 49407 + List(75 - ids.size) { 0 }).toIntArray(),
                row,
            )
        }
    }

    @Test
    fun `the merges are those that a manifest names`() {
        assertEquals(golden.value("merges_sha256"), tokenizer.sha256)
    }

    @Test
    fun `ids do not depend on the device's language`() {
        val before = java.util.Locale.getDefault()
        try {
            java.util.Locale.setDefault(java.util.Locale.forLanguageTag("tr"))
            assertContentEquals(
                tokenizer.encode("title in ISTANBUL"),
                Tokenizer.load().encode("title in ISTANBUL"),
            )
            assertContentEquals(intArrayOf(328), tokenizer.encode("I"))
        } finally {
            java.util.Locale.setDefault(before)
        }
    }

    @Test
    fun `a text of a megabyte takes no minute`() {
        val start = System.nanoTime()
        for (text in
            listOf(
                "a".repeat(1_000_000),
                "&amp;".repeat(200_000),
                "\u732b".repeat(300_000),
                "&#".repeat(500_000),
            )) tokenizer.row(text)
        assertTrue((System.nanoTime() - start) / 1e9 < 30)
    }
}
