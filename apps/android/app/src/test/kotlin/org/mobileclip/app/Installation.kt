package org.mobileclip.app

import android.content.Context
import android.os.Looper
import java.io.File
import java.util.concurrent.TimeUnit
import org.mobileclip.kit.Artifact
import org.mobileclip.kit.FloatTensor
import org.mobileclip.kit.IntTensor
import org.mobileclip.kit.Json
import org.mobileclip.kit.Loader
import org.mobileclip.kit.Runner
import org.mobileclip.kit.Tensor
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf

/** The app as Robolectric runs it, with bundles made of the golden one. */
object Installation {
    val golden = File(System.getProperty("golden"))
    val app
        get() = RuntimeEnvironment.getApplication() as App

    /**
     * Copies a golden bundle to where developers put theirs; its ONNX artifacts are called
     * ExecuTorch's. `bytes` is what the manifest says of each artifact; with `small` there is a
     * second form of each, of that many.
     */
    fun install(from: String = "good", name: String = "golden", bytes: Long? = null, small: Long? = null): File {
        val folder = File(BundleStore(app).folder, name)
        folder.deleteRecursively()
        File(golden, "bundles/$from").copyRecursively(folder)
        val file = File(folder, "manifest.json")
        if (!file.isFile) return folder
        val manifest = Json.parse(file.readText()) as? Map<*, *>
        if (manifest == null || manifest["artifacts"] !is List<*>) return folder
        val large =
            (manifest["artifacts"] as List<*>)
                .map { it as Map<*, *> }
                .map { entry ->
                    entry +
                        mapOf(
                            "target" to (entry["target"] as String).replace("onnx", Engine.TARGET)
                        ) +
                        (bytes?.let { mapOf("bytes" to it) } ?: emptyMap())
                }
        val second =
            if (small == null) emptyList()
            else large.filter { it["target"] == Engine.TARGET }.map { it + mapOf("bytes" to small) }
        file.writeText(Json.write(manifest + mapOf("artifacts" to large + second)))
        return folder
    }

    /** Waits for the model's thread, then lets the main thread do what it was handed. */
    fun settle() {
        repeat(3) {
            app.worker.submit {}.get(60, TimeUnit.SECONDS)
            shadowOf(Looper.getMainLooper()).idle()
        }
    }

    fun string(id: Int, vararg arguments: Any): String = (app as Context).getString(id, *arguments)
}

/**
 * The networks of the golden bundle, which are small enough to be written down
 * (apps/golden/makers/bundles.py): the means of a picture's channels times a matrix; a text's ids
 * times a matrix of small integers. There is no native code here.
 */
class GoldenLoader(private val error: Float = 0f) : Loader {
    var loaded = 0
    var closed = 0

    override fun load(artifact: Artifact, path: String, threads: Int): Runner {
        loaded++
        return object : Runner {
            override val runtime = "kotlin"
            override val version = null
            override val provider = "cpu"
            override val threads = null

            override fun run(inputs: List<Tensor>): List<Tensor> {
                val values =
                    when (val input = inputs.single()) {
                        is FloatTensor -> image(input.values)
                        is IntTensor -> text(input.values)
                    }
                return listOf(
                    FloatTensor(
                        intArrayOf(1, values.size),
                        FloatArray(values.size) { values[it] + error },
                    )
                )
            }

            override fun close() {
                closed++
            }
        }
    }

    private fun image(values: FloatArray): FloatArray {
        val side = values.size / 3
        val means =
            FloatArray(3) { channel ->
                (values.copyOfRange(channel * side, (channel + 1) * side).sumOf { it.toDouble() } /
                        side)
                    .toFloat()
            }
        val rows = listOf(listOf(2, -1, 0, 1), listOf(0, 3, -2, 1), listOf(-1, 0, 2, 1))
        return FloatArray(4) { i -> (0..2).map { means[it] * rows[it][i] }.sum() }
    }

    private fun text(ids: IntArray): FloatArray =
        FloatArray(4) { column ->
            ids.indices
                .sumOf { row ->
                    ids[row].toDouble() * (((row * 4 + column) * 7919 % 13 - 6) / 49408f)
                }
                .toFloat()
        }
}
