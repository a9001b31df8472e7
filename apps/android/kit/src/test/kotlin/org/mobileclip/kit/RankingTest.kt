package org.mobileclip.kit

import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import org.junit.jupiter.api.Test

class RankingTest {
    private val golden = Golden.Vectors("ranking.json")

    @Test
    fun `probabilities and order are the reference's`() {
        for (case in golden.cases) {
            val (image, texts, scale) =
                Triple(
                    case.array("image").floats(),
                    case.array("texts").rows(),
                    case.number("logit_scale"),
                )
            if (case.has("refused")) {
                assertFailsWith<EmbeddingException>(case.name) {
                    ZeroShot(texts, scale).probabilities(image)
                }
                continue
            }
            val found = ZeroShot(texts, scale)
            Golden.assertNear(
                case.numbers("probabilities").toDoubleArray(),
                found.probabilities(image),
                case.number("tolerance"),
                case.name,
            )
            assertEquals(case.integers("order"), found.rank(image).map { it.place }, case.name)
        }
    }

    @Test
    fun `ensembles are the reference's`() {
        for (case in golden.list("ensembles")) {
            val texts = case.array("texts").rows().chunked(case.whole("templates"))
            val expected = case.array("classes").rows()
            texts.forEachIndexed { place, group ->
                Golden.assertNear(
                    expected[place],
                    ZeroShot.ensemble(group),
                    case.number("tolerance"),
                    "class $place",
                )
            }
        }
    }

    @Test
    fun `what cannot be compared is said`() {
        val texts = listOf(floatArrayOf(1f, 0f), floatArrayOf(0f, 1f))
        assertEquals(
            "The picture's embedding has 3 values, the texts' have 2: use one model.",
            assertFailsWith<EmbeddingException> { ZeroShot(texts, 1.0).rank(FloatArray(3)) }.message,
        )
        assertEquals(
            "The picture has no embedding that is a number: check the model.",
            assertFailsWith<EmbeddingException> {
                    ZeroShot(texts, 1.0).rank(floatArrayOf(Float.NaN, 0f))
                }
                .message,
        )
        assertEquals(
            "The texts have no embeddings that are numbers: check the model.",
            assertFailsWith<EmbeddingException> { ZeroShot(listOf(floatArrayOf(Float.NaN)), 1.0) }
                .message,
        )
        assertEquals(
            "The texts' embeddings have several widths ([1, 2]): use one model.",
            assertFailsWith<EmbeddingException> {
                    ZeroShot(listOf(FloatArray(1), FloatArray(2)), 1.0)
                }
                .message,
        )
        assertEquals("a photo of a cat", ZeroShot.prompt("a photo of a {}", "cat"))
    }
}
