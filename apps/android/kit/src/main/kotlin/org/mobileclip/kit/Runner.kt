package org.mobileclip.kit

import java.io.Closeable

/**
 * Something that runs one artifact; the app's is ExecuTorch. Made by a `Loader`, used by one thread
 * at a time.
 */
interface Runner : Closeable {
    /** executorch, onnxruntime, ... */
    val runtime: String
    val version: String?

    /** What really runs it: xnnpack, cpu, ... */
    val provider: String

    /** Threads that it was told to use; null: its own choice. */
    val threads: Int?

    /** Inputs in the artifact's order -> outputs in its order. */
    fun run(inputs: List<Tensor>): List<Tensor>
}

/** Loads an artifact's file; `threads` 0 is the device's own choice. */
fun interface Loader {
    fun load(artifact: Artifact, path: String, threads: Int): Runner
}

/** Whether an artifact gives on this device what it gave where it was exported. */
class SelfTest(private val bundle: Bundle, private val loader: Loader) {
    /** Of each artifact of a target: its parity, or the sentence that says why it did not run. */
    fun run(target: String): List<Outcome> =
        bundle.manifest.artifacts
            .filter { it.target == target }
            .map { artifact ->
                try {
                    val answer = bundle.knownAnswer(artifact)
                    val outputs =
                        loader.load(artifact, bundle.file(artifact.file).path, 0).use {
                            it.run(listOf(answer.input))
                        }
                    val parity =
                        Parity.worst(Parity.compare(outputs, answer.outputs, artifact.outputs))
                    val problem =
                        if (parity.passes(artifact.gate)) null else wrong(artifact, parity)
                    Outcome(artifact, parity, problem)
                } catch (error: KitException) {
                    Outcome(artifact, null, error.message)
                } catch (
                    error:
                        RuntimeException) { // what a runtime throws on a file that it cannot load
                    Outcome(artifact, null, broken(artifact, error))
                }
            }

    /** `problem` is null where the outputs are right. */
    class Outcome(val artifact: Artifact, val parity: Parity?, val problem: String?)

    companion object {
        /** The sentence for what a runtime throws. */
        fun broken(artifact: Artifact, error: Throwable): String =
            "${artifact.file} does not run on this device (${error.message}). Export it again."

        /** The sentence for a wrong answer. */
        fun wrong(artifact: Artifact, parity: Parity): String {
            val told =
                parity.equal?.let { "${percent(it)} of the labels are right" }
                    ?: "%.1f dB and a cosine of %.6f where %.1f dB and %.6f are needed"
                        .format(
                            java.util.Locale.ROOT,
                            parity.db,
                            parity.cosine,
                            artifact.gate.db,
                            artifact.gate.cosine,
                        )
            return "${artifact.file} gives a wrong answer on this device ($told). Do not use it; export it again."
        }

        private fun percent(share: Double) = "%.2f %%".format(java.util.Locale.ROOT, 100 * share)
    }
}
