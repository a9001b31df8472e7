package org.mobileclip.kit

import java.io.File
import java.nio.file.Files
import java.nio.file.Path
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull
import kotlin.test.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir

class BundleTest {
    private val tokenizer = Golden.tokenizer.sha256
    private val good = File(Golden.folder, "bundles/good")

    @Test
    fun `good bundles open, broken ones are refused in the words of all apps`() {
        for (case in Golden.Vectors("manifests.json").cases) {
            val folder = File(Golden.folder, "bundles/${case.text("bundle")}")
            fun open() =
                Bundle.open(folder, tokenizer).artifact(case.text("view"), case.text("target"))
            if (case.flag("ok")) {
                assertEquals(case.text("file"), open().file)
            } else {
                val error = assertFailsWith<BundleException>(case.text("bundle")) { open() }
                assertEquals(
                    case.text("code") to case.text("message"),
                    error.code to error.message,
                    case.text("bundle"),
                )
            }
        }
    }

    @Test
    fun `a link that leads out of the folder is refused`(@TempDir folder: Path) {
        good.copyRecursively(folder.resolve("bundle").toFile())
        val file = folder.resolve("bundle/image.onnx")
        Files.move(file, folder.resolve("outside.onnx"))
        Files.createSymbolicLink(file, folder.resolve("outside.onnx"))
        val error =
            assertFailsWith<BundleException> {
                Bundle.open(folder.resolve("bundle").toFile(), tokenizer)
            }
        assertEquals("outside", error.code)
    }

    @Test
    fun `what cannot be read is said`(@TempDir folder: Path) {
        good.copyRecursively(folder.toFile(), overwrite = true)
        val file = folder.resolve("labels.json").toFile()
        file.delete()
        file.mkdir() // a folder of no files has a hash too, another one
        assertEquals(
            "changed",
            assertFailsWith<BundleException> { Bundle.open(folder.toFile(), tokenizer) }.code,
        )
        folder
            .resolve("manifest.json")
            .toFile()
            .writeBytes(ByteArray((8 shl 20) + 1) { ' '.code.toByte() })
        assertEquals(
            "not_json",
            assertFailsWith<BundleException> { Bundle.open(folder.toFile(), tokenizer) }.code,
        )
    }

    @Test
    fun `no cut or changed manifest crashes`(@TempDir folder: Path) {
        good.copyRecursively(folder.toFile(), overwrite = true)
        val file = folder.resolve("manifest.json").toFile()
        val text = file.readText()
        for (cut in text.indices step 97) {
            file.writeText(text.take(cut))
            assertEquals(
                "not_json",
                assertFailsWith<BundleException> { Bundle.open(folder.toFile(), tokenizer) }.code,
            )
        }
        for (word in Regex("\"[a-z_]+\": ").findAll(text).toList()) {
            file.writeText(text.replaceRange(word.range, "\"gone\": "))
            try {
                Bundle.open(folder.toFile(), tokenizer)
            } catch (error: BundleException) {
                assertTrue(
                    error.code in setOf("incomplete", "not_json", "changed", "missing"),
                    "${word.value} ${error.code}",
                )
            }
        }
    }

    @Test
    fun `labels, known answers and rules are read`() {
        val bundle = Bundle.open(good, tokenizer)
        val image = bundle.artifact("image", "onnx")
        val answer = bundle.knownAnswer(image)
        assertEquals(listOf(1, 3, 8, 8), answer.input.shape.toList())
        assertEquals(4, answer.outputs.single().size)
        assertTrue(bundle.labels.names.isNotEmpty() && "{}" in bundle.labels.template)
        assertEquals(Resampling.BILINEAR, image.inputs.single().resampling)
        assertTrue(image.gate.db > 0)
        assertNull(bundle.manifest.dense)
        assertEquals(
            IntTensor::class,
            bundle.knownAnswer(bundle.artifact("text", "onnx")).input::class,
        )
    }
}
