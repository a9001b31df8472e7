package org.mobileclip.kit

import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import org.junit.jupiter.api.Test

class DenseTest {
    private val segmentation = Golden.Vectors("segmentation.json")

    @Test
    fun `labels and metres are the reference's`() {
        for (case in segmentation.cases) {
            val output = case.array("output").tensor()
            val size = case.size("size")
            if (case.text("kind") == "depth") {
                val found = Depth.metres(output as FloatTensor, size)
                Golden.assertNear(
                    case.array("metres").floats(),
                    found.metres,
                    case.number("tolerance"),
                    case.name,
                )
            } else {
                assertContentEquals(
                    case.array("labels").bytes(),
                    Segmentation.labels(output, size).labels,
                    case.name,
                )
            }
        }
    }

    @Test
    fun `colours are the reference's`() {
        for (case in segmentation.list("colours")) {
            val expected = case.array("rgb").bytes()
            val found =
                when (case.name) {
                    "palette" -> Colours.palette(case.whole("count"))
                    "distances" -> Colours.distances
                    else -> {
                        val metres = case.array("metres").floats()
                        if (case.name == "depth") {
                            val (low, high) = Depth.ends(metres)
                            Golden.assertNear(
                                doubleArrayOf(case.number("low"), case.number("high")),
                                doubleArrayOf(low, high),
                                1e-6,
                                case.name,
                            )
                        }
                        Depth.colours(metres, case.number("low"), case.number("high"))
                    }
                }
            val rgb =
                found
                    .flatMap { listOf((it shr 16).toByte(), (it shr 8).toByte(), it.toByte()) }
                    .toByteArray()
            assertContentEquals(expected, rgb, case.name)
        }
    }

    @Test
    fun `shares of classes add up, the largest first`() {
        val map = LabelMap(2, 2, byteArrayOf(3, -56, 3, 3))
        assertEquals(listOf(3 to 0.75, 200 to 0.25), Segmentation.shares(map))
    }

    @Test
    fun `objects are the reference's`() {
        for (case in Golden.Vectors("detection.json").cases) {
            val outputs = case.case("outputs")
            fun output(name: String) = outputs.array(name).tensor()
            val threshold =
                if (case.has("threshold")) case.number("threshold") else Detection.THRESHOLD
            val most = if (case.has("most")) case.whole("most") else Detection.MOST
            val original = case.size("original")
            val found =
                if (case.text("kind") == "points") {
                    val overlap = if (case.has("nms")) case.number("nms") else null
                    Detection.points(
                        output("boxes"),
                        output("scores"),
                        output("coeffs"),
                        output("protos"),
                        original,
                        threshold,
                        most,
                        overlap,
                    )
                } else {
                    Detection.regions(
                        output("boxes"),
                        output("scores"),
                        output("labels"),
                        output("masks"),
                        original,
                        case.size("size"),
                        threshold,
                        most,
                    )
                }
            assertContentEquals(
                case.array("classes").ints(),
                found.map { it.label }.toIntArray(),
                case.name,
            )
            Golden.assertNear(
                case.array("scores").floats(),
                found.map { it.score }.toFloatArray(),
                case.number("tolerance"),
                case.name,
            )
            val corners =
                found
                    .flatMap { listOf(it.box.left, it.box.top, it.box.right, it.box.bottom) }
                    .toFloatArray()
            Golden.assertNear(
                case.array("boxes").floats(),
                corners,
                case.number("tolerance"),
                case.name,
            )
            val masks =
                found.flatMap { one -> one.mask.map { if (it) 1.toByte() else 0 } }.toByteArray()
            assertContentEquals(case.array("masks").bytes(), masks, case.name)
        }
    }
}
