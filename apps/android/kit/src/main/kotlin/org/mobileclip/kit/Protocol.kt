package org.mobileclip.kit

/** How much is measured; the defaults are the protocol. */
data class Plan(
    /** Timed runs of each side, at least. */
    val runs: Int = 200,
    /** Time of each side's timed runs, at least. */
    val seconds: Double = 10.0,
    val warmupRuns: Int = 10,
    val warmupSeconds: Double = 1.0,
    /** Of the runtime; 0 is the device's own choice. */
    val threads: Int = 0,
    val endToEnd: Boolean = true,
    /** How long to run on without pause; the last tenth is the sustained figure. */
    val sustainedSeconds: Double = 0.0,
    /** Whether ModelBench's own rounds, with a new load each, are run as well. */
    val modelBench: Boolean = false,
    /** Longest wait for a warm device to cool. */
    val coolSeconds: Double = 120.0,
) {
    init {
        if (runs < 2)
            throw ProtocolException(
                "$runs runs cannot give a median and an interval: take at least 2."
            )
        if (threads < 0)
            throw ProtocolException(
                "$threads threads cannot be: take 1 or more, or 0 for the device's choice."
            )
    }
}

/** An artifact to be timed, with what proves it right. */
class Subject(
    val name: String,
    val artifact: Artifact,
    val path: String,
    val answer: KnownAnswer,
    /** The parts of one end-to-end run with a runner; null where a view has none (text). */
    val endToEnd: ((Runner) -> Parts)? = null,
    /** Width and height of the picture that it begins with. */
    val picture: List<Int>? = null,
)

/** Milliseconds of one end-to-end run. */
class Parts(val decode: Double, val resize: Double, val forward: Double, val after: Double)

/** What a device tells while it measures. */
interface DeviceReader {
    /** As `device` of a result. */
    fun facts(): Map<String, Any?>

    /**
     * Status and what else is known (headroom, celsius, mhz), as `thermal` of a result; null: it
     * tells nothing.
     */
    fun thermal(): Map<String, Any?>?

    /** Resident memory of the process in bytes; null where it cannot be told. */
    fun memory(): Long?

    /** Whether the system holds its clocks; null: not told. */
    fun fixedPerformance(): Boolean?

    /** Cores that the process may use. */
    fun affinity(): List<Int>?

    /** ISO 8601 with zone. */
    fun date(): String
}

/**
 * The latency protocol: load, first run, known answer, warm-up, then the sides in turns A B B A;
 * every sample is kept. A wrong known answer ends it without samples. `cancelled` is asked after
 * each run: what was measured so far is kept.
 */
class Protocol(
    private val loader: Loader,
    private val device: DeviceReader,
    private val plan: Plan,
    private val cancelled: () -> Boolean = { false },
    private val progress: (Double) -> Unit = {},
    private val nanos: () -> Long = System::nanoTime,
    private val pause: (Long) -> Unit = Thread::sleep,
) {
    private class Side(val subject: Subject) {
        var runner: Runner? = null
        var parity: Parity? = null
        var loadMs: Double? = null
        var firstMs: Double? = null
        var warmup: Int? = null
        val steady = ArrayList<Double>()
        val whole = ArrayList<Parts>()
        val sustained = ArrayList<Double>()
        var rounds: List<List<Double>>? = null
        var loadedBytes: Long? = null
        val inputs = listOf(subject.answer.input)
        val right: Boolean
            get() = parity?.passes(subject.artifact.gate) ?: false
    }

    private class Cancelled : Exception()

    private val thermal = ArrayList<Map<String, Any?>>()
    private var began = 0L
    private var readAt = 0L
    private var startBytes: Long? = null
    private var peakBytes: Long? = null

    /** Measure; the result is as `LatencyResult` writes it. */
    fun measure(subjects: List<Subject>): LatencyResult {
        require(subjects.isNotEmpty()) { "nothing to measure" }
        val date = device.date()
        began = nanos()
        startBytes = device.memory()
        val sides = subjects.map(::Side)
        var problem: String? = null
        try {
            sides.forEach(::open)
            problem =
                sides
                    .firstOrNull { !it.right }
                    ?.let { SelfTest.wrong(it.subject.artifact, it.parity!!) }
            if (problem == null) time(sides)
        } catch (_: Cancelled) {
            problem = "It was stopped before its end; what was measured is kept."
        } catch (error: RuntimeException) { // the runtime's, on a file that it cannot load or run
            problem =
                "The artifact does not run on this device (${error.message}). Export it again."
        } finally {
            sides.forEach { it.runner?.close() }
        }
        val state =
            when {
                problem == null -> "complete"
                sides.any { it.parity != null && !it.right } -> "wrong"
                else -> "partial"
            }
        return LatencyResult(date, device, plan, thermal, sides.map(::told), state, problem)
    }

    private fun open(side: Side) {
        val start = nanos()
        val runner = loader.load(side.subject.artifact, side.subject.path, plan.threads)
        side.runner = runner
        side.loadMs = since(start)
        side.loadedBytes = device.memory()
        val first = nanos()
        val outputs = runner.run(side.inputs)
        side.firstMs = since(first)
        side.parity =
            Parity.worst(
                Parity.compare(outputs, side.subject.answer.outputs, side.subject.artifact.outputs)
            )
    }

    private fun time(sides: List<Side>) {
        cool()
        read("before")
        sides.forEach(::warm)
        var turn = 0
        while (true) {
            for (side in if (turn % 2 == 0) sides else sides.reversed()) side.steady.add(one(side))
            turn++
            val done =
                sides.minOf {
                    minOf(
                        it.steady.size / plan.runs.toDouble(),
                        it.steady.sum() / 1000 / maxOf(plan.seconds, 1e-9),
                    )
                }
            progress(minOf(done, 1.0))
            if (done >= 1) break
        }
        if (plan.endToEnd) sides.forEach(::whole)
        if (plan.sustainedSeconds > 0) sides.forEach(::sustain)
        if (plan.modelBench) sides.forEach(::modelBench)
        read("after")
    }

    private fun warm(side: Side) {
        val start = nanos()
        var count = 0
        while (count < plan.warmupRuns || since(start) < 1000 * plan.warmupSeconds) {
            one(side)
            count++
        }
        side.warmup = count
    }

    private fun one(side: Side): Double {
        if (cancelled()) throw Cancelled()
        val start = nanos()
        side.runner!!.run(side.inputs)
        val took = since(start)
        if (since(readAt) > 5000) read("during")
        return took
    }

    private fun whole(side: Side) {
        val run = side.subject.endToEnd ?: return
        val runs = maxOf(plan.runs / 10, 10)
        for (turn in 0 until runs + 2) {
            if (cancelled()) throw Cancelled()
            val parts = run(side.runner!!)
            if (turn >= 2) side.whole.add(parts)
        }
    }

    private fun sustain(side: Side) {
        val start = nanos()
        while (since(start) < 1000 * plan.sustainedSeconds) {
            val took = one(side)
            if (since(start) > 900 * plan.sustainedSeconds) side.sustained.add(took)
        }
    }

    private fun modelBench(side: Side) {
        side.rounds =
            List(Statistics.ROUNDS) {
                side.runner!!.close()
                side.runner = loader.load(side.subject.artifact, side.subject.path, plan.threads)
                one(side)
                List(Statistics.ROUND) { one(side) }
            }
    }

    private fun cool() {
        val start = nanos()
        while (since(start) < 1000 * plan.coolSeconds) {
            val status = device.thermal()?.get("status")
            if (status == null || status == "nominal") return
            read("cooling")
            if (cancelled()) throw Cancelled()
            pause(2000)
        }
    }

    private fun read(moment: String) {
        readAt = nanos()
        device.memory()?.let { peakBytes = maxOf(peakBytes ?: 0, it) }
        device.thermal()?.let {
            thermal.add(
                linkedMapOf<String, Any?>("when" to moment, "at_s" to since(began) / 1000) + it
            )
        }
    }

    private fun since(start: Long): Double = (nanos() - start) / 1e6

    private fun told(side: Side) =
        LatencyResult.Side(
            side.subject,
            side.runner,
            side.parity,
            side.right,
            side.loadMs,
            side.firstMs,
            side.warmup,
            side.steady,
            side.whole,
            side.sustained,
            side.rounds,
            listOf(startBytes, side.loadedBytes, peakBytes ?: side.loadedBytes),
        )
}
