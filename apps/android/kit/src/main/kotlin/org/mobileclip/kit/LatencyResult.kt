package org.mobileclip.kit

/**
 * One run of the protocol on this device, as JSON of version 2 (benchmarks/result.schema.json), the
 * form that `mobileclip report` reads from every device.
 */
class LatencyResult
internal constructor(
    private val date: String,
    private val device: DeviceReader,
    private val plan: Plan,
    private val thermal: List<Map<String, Any?>>,
    val sides: List<Side>,
    /** complete, partial or wrong. */
    val state: String,
    /** One sentence where the state is not complete. */
    val problem: String?,
) {
    class Side
    internal constructor(
        val subject: Subject,
        private val runner: Runner?,
        private val parity: Parity?,
        private val right: Boolean,
        private val loadMs: Double?,
        private val firstMs: Double?,
        private val warmup: Int?,
        val steadyMs: List<Double>,
        private val whole: List<Parts>,
        private val sustained: List<Double>,
        private val rounds: List<List<Double>>?,
        private val memory: List<Long?>,
    ) {
        internal fun json(): Map<String, Any?> =
            linkedMapOf(
                "name" to subject.name,
                "sha256" to subject.artifact.sha256,
                "bytes" to subject.artifact.bytes,
                "runtime" to
                    linkedMapOf(
                        "name" to (runner?.runtime ?: "executorch"),
                        "version" to runner?.version,
                        "provider" to (runner?.provider ?: "none"),
                        "threads" to runner?.threads,
                    ),
                "known_answer" to
                    linkedMapOf<String, Any?>("right" to parity?.let { right }) +
                        parity?.json().orEmpty(),
                "load_ms" to loadMs,
                "first_ms" to firstMs,
                "warmup" to warmup,
                "steady_ms" to steadyMs,
                "end_to_end" to endToEnd(),
                "sustained_ms" to sustained,
                "model_bench" to modelBench(),
                "memory" to
                    linkedMapOf(
                        "start_bytes" to memory[0],
                        "loaded_bytes" to memory[1],
                        "peak_bytes" to memory[2],
                    ),
            )

        private fun endToEnd(): Map<String, Any?> =
            if (whole.isEmpty()) {
                val reason =
                    if (subject.endToEnd == null)
                        "its ${subject.artifact.view} part begins with no picture."
                    else "it was not measured."
                linkedMapOf("ms" to emptyList<Double>(), "reason" to reason)
            } else {
                linkedMapOf(
                    "ms" to whole.map { it.decode + it.resize + it.forward + it.after },
                    "decode_ms" to whole.map { it.decode },
                    "resize_ms" to whole.map { it.resize },
                    "forward_ms" to whole.map { it.forward },
                    "after_ms" to whole.map { it.after },
                    "picture" to subject.picture,
                    "reason" to null,
                )
            }

        private fun modelBench(): Map<String, Any?>? {
            val found = rounds ?: Statistics.rounds(steadyMs)
            val mean = Statistics.modelBench(found) ?: return null
            return linkedMapOf<String, Any?>("mean_ms" to mean, "reloaded" to (rounds != null))
                .apply { rounds?.let { put("rounds_ms", it) } }
        }
    }

    /** What is written to a file. */
    fun json(): String =
        Json.write(
            linkedMapOf(
                "schema" to 2,
                "date" to date,
                "device" to device.facts(),
                "protocol" to
                    linkedMapOf(
                        "order" to if (sides.size == 1) "A" else "ABBA",
                        "runs" to plan.runs,
                        "seconds" to plan.seconds,
                        "warmup_runs" to plan.warmupRuns,
                        "warmup_s" to plan.warmupSeconds,
                        "threads" to plan.threads.takeIf { it > 0 },
                        "affinity" to device.affinity(),
                        "process" to "app",
                        "fixed_performance" to device.fixedPerformance(),
                        "sustained_s" to plan.sustainedSeconds,
                    ),
                "thermal" to thermal,
                "sides" to sides.map { it.json() },
                "state" to state,
                "problem" to problem,
            ),
            indent = 1,
        ) + "\n"
}
