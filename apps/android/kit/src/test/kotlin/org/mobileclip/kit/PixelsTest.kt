package org.mobileclip.kit

import java.io.ByteArrayInputStream
import javax.imageio.ImageIO
import kotlin.math.abs
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue
import org.junit.jupiter.api.Test

class PixelsTest {
    private val golden = Golden.Vectors("preprocessing.json")

    @Test
    fun `squares, stretched and letterboxed pictures are Pillow's to the bit`() {
        for (case in golden.cases) {
            val picture =
                if (case.has("picture")) case.array("picture").picture()
                else generated(case.integers("generated"))
            val (rows, columns) = case.size("size")
            val filter =
                if (case.text("interpolation") == "bicubic") Resampling.BICUBIC
                else Resampling.BILINEAR
            val found =
                when (case.text("kind")) {
                    "square" -> Preprocessing.square(picture, rows, filter)
                    "stretch" -> Preprocessing.stretch(picture, rows, columns)
                    else ->
                        Preprocessing.letterbox(picture, rows, columns).let {
                            assertEquals(case.size("content"), it.content)
                            assertEquals(case.number("scale"), it.scale)
                            it.picture
                        }
                }
            Golden.assertSame(case.array("pixels").picture(), found, case.name)
        }
    }

    private fun generated(size: List<Int>): Picture {
        val (width, height) = size
        return Picture(
            width,
            height,
            ByteArray(3 * width * height) {
                val (c, x, y) = Triple(it % 3, it / 3 % width, it / 3 / width)
                ((2 * c + 3) * x + (3 * c + 5) * y + 11 * (x * y % 7)).toByte()
            },
        )
    }

    @Test
    fun `tensors are the reference's`() {
        for (case in golden.list("tensors")) {
            val (mean, std) =
                listOf("mean", "std").map { key ->
                    case.numbers(key).map { it.toFloat() }.toFloatArray()
                }
            val found = Preprocessing.tensor(case.array("pixels").picture(), mean = mean, std = std)
            Golden.assertNear(
                case.array("tensor").floats(),
                found.values,
                case.number("tolerance"),
                case.name,
            )
        }
    }

    @Test
    fun `pixels of every kind become RGB`() {
        for (case in golden.list("modes")) {
            val pixels = case.array("pixels")
            val (height, width) = pixels.shape.toList()
            val found =
                when (val mode = case.text("mode")) {
                    "L" -> Picture.ofGrey(width, height, pixels.bytes())
                    "LA" -> Picture.ofGrey(width, height, pixels.bytes(), stride = 2)
                    "RGBA" -> Picture.ofRgba(width, height, pixels.bytes())
                    "I;16" -> Picture.ofGrey16(width, height, pixels.shorts())
                    "P" ->
                        Picture.ofPalette(
                            width,
                            height,
                            pixels.bytes(),
                            case.array("palette").bytes(),
                        )
                    "CMYK" -> Picture.ofCmyk(width, height, pixels.bytes())
                    else -> error(mode)
                }
            Golden.assertSame(case.array("rgb").picture(), found, case.text("mode"))
        }
    }

    @Test
    fun `orientations are found in files, and turn what is stored upright`() {
        for (case in golden.list("files")) {
            val orientation = Exif.orientation(case.bytes("base64"))
            if (case.has("refused")) {
                assertEquals(1, orientation, case.name)
                continue
            }
            assertEquals(case.whole("orientation"), orientation, case.name)
            val file = case.bytes("base64")
            assertEquals(orientation to 1, Exif.takeOut(file) to Exif.orientation(file), case.name)
            val turned = case.array("stored").picture().turned(orientation)
            val upright = case.array("upright").picture()
            assertEquals(
                listOf(upright.width, upright.height),
                listOf(turned.width, turned.height),
                case.name,
            )
            assertTrue(
                largest(upright, turned) <= case.number("tolerance"),
                "${case.name}: ${largest(upright, turned)}",
            )
        }
    }

    @Test
    fun `a decoder's ARGB, turned, is the upright picture`() {
        val decoded =
            golden
                .list("files")
                .filterNot { it.has("refused") }
                .mapNotNull { case ->
                    val image =
                        try {
                            ImageIO.read(
                                ByteArrayInputStream(case.bytes("base64"))
                            ) // does not turn, and has no CMYK
                        } catch (_: javax.imageio.IIOException) {
                            return@mapNotNull null
                        }
                    if (
                        image.raster.numBands == 2 ||
                            image.sampleModel.dataType == java.awt.image.DataBuffer.TYPE_USHORT ||
                            case.name in listOf("JPEG, grey", "PNG, grey", "JPEG, CMYK")
                    ) {
                        return@mapNotNull null // Java takes grey as linear, and inks as another
                                               // space
                    }
                    val argb = image.getRGB(0, 0, image.width, image.height, null, 0, image.width)
                    val found =
                        Picture.ofArgb(image.width, image.height, argb)
                            .turned(Exif.orientation(case.bytes("base64")))
                    assertTrue(
                        largest(case.array("upright").picture(), found) <=
                            case.number("tolerance") + 2,
                        case.name,
                    )
                    case.name
                }
        assertTrue(decoded.size >= 15, "$decoded")
    }

    private fun largest(a: Picture, b: Picture) =
        a.rgb.indices.maxOf { abs((a.rgb[it].toInt() and 255) - (b.rgb[it].toInt() and 255)) }

    @Test
    fun `a damaged EXIF block of any kind says nothing`() {
        val file =
            golden.list("files").first { it.name == "JPEG, EXIF orientation 6" }.bytes("base64")
        assertEquals(6, Exif.orientation(file))
        for (cut in 0..60) Exif.orientation(file.copyOf(cut))
        for (place in 0 until 80) Exif.orientation(file.copyOf().also { it[place] = -1 })
        assertEquals(1, Exif.orientation(ByteArray(0)))
    }

    @Test
    fun `turning eight ways and back gives the picture`() {
        val picture = generated(listOf(5, 3))
        for ((there, back) in
            listOf(1 to 1, 2 to 2, 3 to 3, 4 to 4, 5 to 5, 6 to 8, 7 to 7, 8 to 6)) {
            Golden.assertSame(picture, picture.turned(there).turned(back), "$there")
        }
        assertContentEquals(
            intArrayOf(-0x1000000 or 0x00050a, -0x1000000 or 0x03080d),
            Picture(2, 1, byteArrayOf(0, 5, 10, 3, 8, 13)).argb(),
        )
    }

    @Test
    fun `a picture of 12,000 pixels a side is taken, a longer ratio is refused`() {
        val long = Picture(12_000, 9, ByteArray(12_000 * 9 * 3))
        assertEquals(256, Preprocessing.square(long, 256, Resampling.BILINEAR).width)
        val error =
            assertFailsWith<PictureException> {
                Preprocessing.square(
                    Picture(12_000, 1, ByteArray(36_000)),
                    256,
                    Resampling.BILINEAR,
                )
            }
        assertEquals(
            "The picture is 12000 x 1: a side may be at most 2,730 times the other.",
            error.message,
        )
        Picture.check(12_000, 12_000)
        assertEquals(
            "The picture is 20000 x 20000: at most 178,956,970 pixels are allowed. Make it smaller first.",
            assertFailsWith<PictureException> { Picture.check(20_000, 20_000) }.message,
        )
        assertEquals(
            "The picture is 0 x 9: it has no pixels. Choose one with at least 1 x 1.",
            assertFailsWith<PictureException> { Picture(0, 9, ByteArray(0)) }.message,
        )
    }

    @Test
    fun `a camera's frame of one colour has that colour`() {
        // BT.601, full range: Y 76, Cb 85, Cr 255 is red
        fun plane(value: Int, size: Int, row: Int, step: Int) =
            Picture.Plane(ByteArray(size) { value.toByte() }, row, step)
        val planes = listOf(plane(76, 8 * 4, 8, 1), plane(85, 8 * 2, 8, 2), plane(255, 8 * 2, 8, 2))
        val picture = Picture.ofYuv(6, 4, planes)
        assertEquals(listOf(6, 4), listOf(picture.width, picture.height))
        for (place in 0 until 24) {
            val (r, g, b) = List(3) { picture.rgb[3 * place + it].toInt() and 255 }
            assertTrue(r >= 253 && g <= 2 && b <= 2, "$r $g $b")
        }
        assertEquals(3, Picture.ofYuv(6, 4, planes, step = 2).width)
    }
}
