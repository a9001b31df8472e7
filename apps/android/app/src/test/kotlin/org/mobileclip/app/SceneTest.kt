package org.mobileclip.app

import android.app.Activity
import android.app.ActivityManager
import android.content.Intent
import android.graphics.Bitmap
import android.net.Uri
import android.view.View
import android.view.ViewGroup
import android.widget.Button
import android.widget.ImageView
import android.widget.TextView
import java.io.ByteArrayInputStream
import java.io.ByteArrayOutputStream
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertIs
import kotlin.test.assertNotNull
import kotlin.test.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.mobileclip.kit.FloatTensor
import org.mobileclip.kit.Json
import org.mobileclip.kit.Loader
import org.mobileclip.kit.Picture
import org.mobileclip.kit.Runner
import org.mobileclip.kit.Tensor
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/**
 * A bundle with two heads and an embedding: red pixels are class 1 and green ones class 0; depth is 10 times the
 * blue.
 */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class SceneTest {
    private val app = Installation.app
    private val side = 32

    private val network: Runner =
        object : Runner {
            override val runtime = "kotlin"
            override val version = null
            override val provider = "cpu"
            override val threads = null

            override fun run(inputs: List<Tensor>): List<Tensor> {
                val values = (inputs.single() as FloatTensor).values
                val plane = side * side
                val logits =
                    FloatArray(2 * plane) {
                        if (it < plane) values[plane + it] else values[it - plane]
                    }
                return listOf(
                    FloatTensor(intArrayOf(1, 2, side, side), logits),
                    FloatTensor(
                        intArrayOf(1, 1, side, side),
                        FloatArray(plane) { 10 * values[2 * plane + it] },
                    ),
                    FloatTensor(intArrayOf(1, 2), floatArrayOf(values[0], values[plane])),
                )
            }

            override fun close() = Unit
        }

    private fun hash(bytes: ByteArray) =
        MessageDigest.getInstance("SHA-256").digest(bytes).joinToString("") { "%02x".format(it) }

    private fun install() {
        val folder = File(app.store.folder, "scene").apply { mkdirs() }
        val files = LinkedHashMap<String, String>()
        fun write(name: String, bytes: ByteArray) {
            File(folder, name).apply { parentFile!!.mkdirs() }.writeBytes(bytes)
            files[name] = hash(bytes)
        }
        fun floats(values: FloatArray) =
            ByteBuffer.allocate(4 * values.size)
                .order(ByteOrder.LITTLE_ENDIAN)
                .also { b -> values.forEach { b.putFloat(it) } }
                .array()
        val input = FloatArray(3 * side * side) { (it % 7) / 7f }
        val (logits, depth, embedding) =
            network.run(listOf(FloatTensor(intArrayOf(1, 3, side, side), input))).map {
                (it as FloatTensor).values
            }
        write("known/input.bin", floats(input))
        write("known/output.bin", floats(logits))
        write("known/output1.bin", floats(depth))
        write("known/output2.bin", floats(embedding))
        write(
            "labels.json",
            """{"labels": ["grass", "poppy"], "palette": [[0, 255, 0], [255, 0, 0]]}"""
                .toByteArray(),
        )
        val artifact = "network".toByteArray()
        File(folder, "dense.pte").writeBytes(artifact)
        fun array(file: String, vararg shape: Int) =
            mapOf("file" to file, "dtype" to "float32", "shape" to shape.toList())
        fun output(name: String, vararg shape: Int) =
            mapOf(
                "name" to name,
                "shape" to shape.toList(),
                "dtype" to "float32",
                "meaning" to name,
                "normalised" to false,
            )
        fun head(task: String, output: String) =
            mapOf(
                "task" to task,
                "head" to "linear",
                "outputs" to listOf(output),
                "postprocess" to emptyMap<String, Any>(),
            )
        val checkpoint =
            mapOf(
                "form" to "seeded",
                "source" to "test",
                "sha256" to null,
                "licence" to "MIT",
                "research_only" to false,
            )
        val manifest =
            mapOf(
                "schema" to 1,
                "created" to "2026-11-30",
                "generator" to
                    mapOf("name" to "test", "version" to "1", "tools" to emptyMap<String, Any>()),
                "model" to
                    mapOf(
                        "name" to "scene",
                        "config" to emptyMap<String, Any>(),
                        "checkpoint" to checkpoint,
                    ),
                "preset" to "apple",
                "recipe" to emptyMap<String, Any>(),
                "tokenizer" to null,
                "labels" to "labels.json",
                "dense" to
                    mapOf(
                        "input" to
                            mapOf(
                                "size" to listOf(side, side),
                                "resize" to "stretch",
                                "interpolation" to "bilinear",
                                "antialias" to true,
                            ),
                        "heads" to listOf(head("segmentation", "logits"), head("depth", "depth")),
                    ),
                "known_answer" to
                    mapOf(
                        "dense" to
                            mapOf(
                                "input" to array("known/input.bin", 1, 3, side, side),
                                "output" to array("known/output.bin", 1, 2, side, side),
                                "others" to
                                    listOf(
                                        array("known/output1.bin", 1, 1, side, side),
                                        array("known/output2.bin", 1, 2),
                                    ),
                            )
                    ),
                "artifacts" to
                    listOf(
                        mapOf(
                            "file" to "dense.pte",
                            "sha256" to hash(artifact),
                            "bytes" to artifact.size,
                            "view" to "dense",
                            "target" to Engine.TARGET,
                            "precision" to "fp32",
                            "quantisation" to null,
                            "inputs" to
                                listOf(
                                    mapOf(
                                        "name" to "image",
                                        "kind" to "image",
                                        "shape" to listOf(1, 3, side, side),
                                        "dtype" to "float32",
                                        "scale" to 1 / 255.0,
                                    )
                                ),
                            "outputs" to
                                listOf(
                                    output("logits", 1, 2, side, side),
                                    output("depth", 1, 1, side, side),
                                    output("image embedding of the stretched picture", 1, 2),
                                ),
                            "rewrites" to emptyList<String>(),
                            "delegates" to 1,
                            "loose" to emptyList<String>(),
                            "parity" to null,
                            "gate" to mapOf("db" to 90.0, "cosine" to 0.999999, "passed" to true),
                        )
                    ),
                "files" to files,
            )
        File(folder, "manifest.json").writeText(Json.write(manifest))
    }

    /** 80 x 40: the left quarter is a poppy, and near; the rest grass, and far. */
    private fun photo(): ByteArray {
        val argb =
            IntArray(80 * 40) {
                if (it % 80 < 20) -0x1000000 or 0xff0019 else -0x1000000 or 0x00ffe0
            }
        return ByteArrayOutputStream()
            .also { Pictures.bitmap(argb, 80, 40).compress(Bitmap.CompressFormat.PNG, 100, it) }
            .toByteArray()
    }

    private fun all(view: View): List<View> =
        listOf(view) +
            if (view is ViewGroup) (0 until view.childCount).flatMap { all(view.getChildAt(it)) }
            else emptyList()

    @Test
    fun `a photo's parts and distances are found, shown and said`() {
        app.loader = Loader { _, _, _ -> network }
        shadowOf(app.service<ActivityManager>())
            .setMemoryInfo(ActivityManager.MemoryInfo().apply { availMem = 4L shl 30 })
        install()
        val activity = Robolectric.buildActivity(MainActivity::class.java).setup().get()
        Installation.settle()
        val engine = assertIs<ModelState.Ready>(app.state, "${app.state}").engine
        assertEquals(listOf("segmentation", "depth"), engine.tasks)
        val green = Picture(2, 2, ByteArray(12) { if (it % 3 == 1) -1 else 0 })
        assertEquals(listOf(0f, 1f), engine.embed(green).toList()) // the third output, by its meaning
        assertFalse(engine.hasTowers) // no texts
        fun views() = all(activity.window.decorView)
        fun press(label: Int) =
            views()
                .filterIsInstance<Button>()
                .first { it.text == activity.getString(label) }
                .performClick()
        fun texts() = views().filterIsInstance<TextView>().map { it.text.toString() }
        press(R.string.tab_live) // a model without texts
        assertTrue(
            texts().any {
                "This model has no text part for executorch-xnnpack (it has none)." in it
            },
            "${texts()}",
        )
        press(R.string.tab_dense)
        val uri = Uri.parse("content://photos/1")
        shadowOf(activity.contentResolver).registerInputStreamSupplier(uri) {
            ByteArrayInputStream(photo())
        }
        fun choose() {
            press(R.string.dense_choose)
            val asked = shadowOf(activity).nextStartedActivityForResult.intent
            assertEquals(
                Intent.ACTION_OPEN_DOCUMENT,
                asked.action,
            ) // the system's picker, which needs no permission
            shadowOf(activity).receiveResult(asked, Activity.RESULT_OK, Intent().setData(uri))
            Installation.settle()
        }
        choose()
        assertTrue(
            "grass, 75 percent of the picture\npoppy, 25 percent of the picture" in texts(),
            "${texts()}",
        )
        val image = views().filterIsInstance<ImageView>().first { it.contentDescription != null }
        assertTrue("Parts" in image.contentDescription, "${image.contentDescription}")
        assertNotNull(image.drawable)
        press(R.string.dense_depth)
        assertTrue("From 1.0 m (light) to 8.8 m (dark)" in texts(), "${texts()}")
        // another photo that is none: said, and the first stays
        shadowOf(activity.contentResolver).registerInputStreamSupplier(uri) {
            ByteArrayInputStream("no photo".toByteArray())
        }
        choose()
        assertTrue(texts().any { it.startsWith("The picture cannot be read (") }, "${texts()}")
    }
}
