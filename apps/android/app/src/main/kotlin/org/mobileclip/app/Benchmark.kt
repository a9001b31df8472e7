package org.mobileclip.app

import android.content.Context
import android.graphics.Bitmap
import java.io.ByteArrayOutputStream
import java.io.File
import org.mobileclip.kit.Artifact
import org.mobileclip.kit.FloatTensor
import org.mobileclip.kit.LatencyResult
import org.mobileclip.kit.Loader
import org.mobileclip.kit.Parts
import org.mobileclip.kit.Picture
import org.mobileclip.kit.Plan
import org.mobileclip.kit.Protocol
import org.mobileclip.kit.Runner
import org.mobileclip.kit.Size
import org.mobileclip.kit.Subject
import org.mobileclip.kit.ZeroShot

/** Runs the protocol on artifacts of a bundle; the screen and the instrumentation both call it. */
class Benchmark(
    private val context: Context,
    private val engine: Engine,
    private val loader: Loader,
) {
    /** Where results are kept, one file each. */
    val folder = File(context.filesDir, RESULTS)

    /** Times the artifacts, each alone, and writes a result for each. */
    fun run(
        artifacts: List<Artifact>,
        plan: Plan,
        cancelled: () -> Boolean,
        progress: (Double) -> Unit,
    ): List<Pair<LatencyResult, File>> {
        engine.release() // its memory is not the measured artifact's
        val out = ArrayList<Pair<LatencyResult, File>>()
        for ((place, artifact) in artifacts.withIndex()) {
            if (cancelled()) break
            val protocol =
                Protocol(
                    loader,
                    AndroidDevice(context),
                    plan,
                    cancelled,
                    { progress((place + it) / artifacts.size) },
                )
            val result = protocol.measure(listOf(subject(artifact)))
            folder.mkdirs()
            val file =
                File(
                    folder,
                    "${engine.bundle.manifest.model}-${artifact.view}-${artifact.target}-${artifact.precision}.json"
                        .replace(Regex("[^A-Za-z0-9_.@+-]"), "-"),
                )
            file.writeText(result.json())
            out.add(result to file)
        }
        return out
    }

    private fun subject(artifact: Artifact): Subject {
        val bundle = engine.bundle
        val name =
            "${bundle.manifest.model} ${artifact.view} ${artifact.target} ${artifact.precision}"
        val whole =
            when {
                artifact.view == "text" -> null
                artifact.view == "image" -> embedding(artifact)
                bundle.manifest.dense != null -> scene(artifact)
                else -> null
            }
        return Subject(
            name,
            artifact,
            bundle.file(artifact.file).path,
            bundle.knownAnswer(artifact),
            whole,
            listOf(WIDTH, HEIGHT).takeIf { whole != null },
        )
    }

    private val encoded: ByteArray by lazy {
        val argb =
            IntArray(WIDTH * HEIGHT) { place ->
                val (x, y) = place % WIDTH to place / WIDTH
                -0x1000000 or
                    (x * 255 / WIDTH shl 16) or
                    (y * 255 / HEIGHT shl 8) or
                    ((x xor y) and 255)
            }
        val out = ByteArrayOutputStream()
        Pictures.bitmap(argb, WIDTH, HEIGHT).compress(Bitmap.CompressFormat.JPEG, 90, out)
        out.toByteArray()
    }

    private fun embedding(artifact: Artifact): (Runner) -> Parts {
        val width = engine.width
        val random = java.util.Random(0)
        val texts =
            List(maxOf(engine.bundle.labels.names.size, 1)) {
                FloatArray(width) { random.nextGaussian().toFloat() }
            }
        val ranking = ZeroShot(texts, engine.bundle.manifest.logitScale ?: 100.0)
        return { runner ->
            timed({ engine.imageInput(artifact, it) }, runner) { outputs, _ ->
                ranking.rank((outputs.first() as FloatTensor).values)
            }
        }
    }

    private fun scene(artifact: Artifact): (Runner) -> Parts {
        val rules = engine.bundle.manifest.dense!!
        return { runner ->
            timed({ engine.denseInput(artifact, rules, it) }, runner) { outputs, size ->
                engine.finished(artifact, rules, outputs, size)
            }
        }
    }

    private fun timed(
        input: (Picture) -> FloatTensor,
        runner: Runner,
        after: (List<org.mobileclip.kit.Tensor>, Size) -> Any,
    ): Parts {
        val times = ArrayList<Long>().apply { add(System.nanoTime()) }
        val picture = Pictures(context).read(encoded)
        times.add(System.nanoTime())
        val tensor = input(picture)
        times.add(System.nanoTime())
        val outputs = runner.run(listOf(tensor))
        times.add(System.nanoTime())
        after(outputs, Size(picture.height, picture.width))
        times.add(System.nanoTime())
        val (decode, resize, forward, rest) = times.zipWithNext { a, b -> (b - a) / 1e6 }
        return Parts(decode, resize, forward, rest)
    }

    companion object {
        const val RESULTS = "results"

        /**
         * Of the picture that end-to-end figures begin with, as the toolkit's own: a camera frame
         * as JPEG of quality 90.
         */
        private const val WIDTH = 1280
        private const val HEIGHT = 960
    }
}
