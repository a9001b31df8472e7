package org.mobileclip.kit

import java.io.File
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull
import kotlin.test.assertTrue
import org.junit.jupiter.api.Test

/**
 * The network of the golden bundle's image artifact, which is small enough to be written down:
 * channel means times a matrix.
 */
private class GoldenRunner(override val threads: Int?, private val error: Float = 0f) : Runner {
    override val runtime = "kotlin"
    override val version = null
    override val provider = "cpu"
    var closed = false

    override fun run(inputs: List<Tensor>): List<Tensor> {
        val values = (inputs.single() as FloatTensor).values
        val means =
            FloatArray(3) { channel ->
                (channel * 64 until channel * 64 + 64).sumOf { values[it].toDouble() }.toFloat() /
                    64
            }
        val rows = listOf(listOf(2, -1, 0, 1), listOf(0, 3, -2, 1), listOf(-1, 0, 2, 1))
        return listOf(
            FloatTensor(
                intArrayOf(1, 4),
                FloatArray(4) { i -> (0..2).map { means[it] * rows[it][i] }.sum() + error },
            )
        )
    }

    override fun close() {
        closed = true
    }
}

private class HostReader(private val statuses: MutableList<String> = mutableListOf()) :
    DeviceReader {
    override fun facts() =
        linkedMapOf(
            "kind" to "android",
            "name" to "test",
            "model" to null,
            "soc" to null,
            "os" to System.getProperty("os.name"),
            "cores" to Runtime.getRuntime().availableProcessors(),
            "memory_bytes" to null,
        )

    override fun thermal() =
        mapOf(
            "status" to (statuses.removeFirstOrNull() ?: "nominal"),
            "headroom" to null,
            "celsius" to 31.5,
        )

    override fun memory() = Runtime.getRuntime().let { it.totalMemory() - it.freeMemory() }

    override fun fixedPerformance() = false

    override fun affinity() = null

    override fun date() = "2026-11-30T12:00:00+00:00"
}

class ProtocolTest {
    private val bundle = Bundle.open(File(Golden.folder, "bundles/good"), Golden.tokenizer.sha256)
    private val artifact = bundle.artifact("image", "onnx")
    private val small = Plan(runs = 30, seconds = 0.01, warmupRuns = 2, warmupSeconds = 0.0)

    private fun subject(endToEnd: Boolean = true): Subject {
        val texts = ZeroShot(List(3) { i -> FloatArray(4) { if (it == i) 1f else 0f } }, 100.0)
        val picture = Picture(40, 30, ByteArray(3600) { it.toByte() })
        val whole = { runner: Runner ->
            val input =
                Preprocessing.tensor(
                    Preprocessing.square(picture, 8, artifact.inputs.single().resampling)
                )
            texts.rank((runner.run(listOf(input)).single() as FloatTensor).values)
            Parts(0.5, 0.25, 0.125, 0.0625)
        }
        return Subject(
            "golden image onnx fp32",
            artifact,
            bundle.file(artifact.file).path,
            bundle.knownAnswer(artifact),
            if (endToEnd) whole else null,
            listOf(40, 30),
        )
    }

    @Test
    fun `a whole run keeps every sample and writes the form of all devices`() {
        val loaded = ArrayList<GoldenRunner>()
        val loader = Loader { _, _, threads -> GoldenRunner(threads).also(loaded::add) }
        val plan = small.copy(threads = 2, sustainedSeconds = 0.05, modelBench = true)
        val progress = ArrayList<Double>()
        val result =
            Protocol(loader, HostReader(), plan, progress = progress::add)
                .measure(listOf(subject(), subject(endToEnd = false)))
        assertEquals("complete" to null, result.state to result.problem)
        assertEquals(1.0, progress.last())
        assertTrue(loaded.all { it.closed } && loaded.size == 2 + 2 * Statistics.ROUNDS)
        val written = Json.parse(result.json()) as Map<*, *>
        assertEquals(
            setOf("schema", "date", "device", "protocol", "thermal", "sides", "state", "problem"),
            written.keys,
        )
        val (one, other) = (written["sides"] as List<*>).map { it as Map<*, *> }
        assertTrue((one["steady_ms"] as List<*>).size >= 30)
        assertEquals(10, ((one["end_to_end"] as Map<*, *>)["ms"] as List<*>).size)
        assertEquals(
            "its image part begins with no picture.",
            (other["end_to_end"] as Map<*, *>)["reason"],
        )
        assertEquals(true, (one["known_answer"] as Map<*, *>)["right"])
        assertEquals(20, ((one["model_bench"] as Map<*, *>)["rounds_ms"] as List<*>).size)
        assertEquals(
            listOf("before", "after"),
            (written["thermal"] as List<*>).map { (it as Map<*, *>)["when"] },
        )
        System.getProperty("resultFile")?.let {
            File(it).apply { parentFile.mkdirs() }.writeText(result.json())
        }
    }

    @Test
    fun `a wrong known answer has no latency`() {
        val result =
            Protocol({ _, _, threads -> GoldenRunner(threads, error = 0.1f) }, HostReader(), small)
                .measure(listOf(subject()))
        assertEquals("wrong", result.state)
        assertEquals(emptyList(), result.sides.single().steadyMs)
        assertTrue(
            Regex(
                    """image\.onnx gives a wrong answer on this device \(.* dB and a cosine of .*\)\. Do not use it; export it again\."""
                )
                .matches(result.problem!!),
            result.problem,
        )
    }

    @Test
    fun `what was measured before a stop is kept`() {
        var runs = 0
        val result =
            Protocol(
                    { _, _, threads -> GoldenRunner(threads) },
                    HostReader(),
                    small,
                    cancelled = { ++runs > 20 },
                )
                .measure(listOf(subject()))
        assertEquals(
            "partial" to "It was stopped before its end; what was measured is kept.",
            result.state to result.problem,
        )
        assertTrue(result.sides.single().steadyMs.size in 5..20)
    }

    @Test
    fun `an artifact that cannot be loaded is said`() {
        val result =
            Protocol({ _, _, _ -> throw IllegalStateException("Error 0x20") }, HostReader(), small)
                .measure(listOf(subject()))
        assertEquals(
            "partial" to "The artifact does not run on this device (Error 0x20). Export it again.",
            result.state to result.problem,
        )
    }

    @Test
    fun `a warm device is waited for`() {
        val waits = ArrayList<Long>()
        val reader = HostReader(mutableListOf("moderate", "moderate", "light", "light", "nominal"))
        val result =
            Protocol({ _, _, threads -> GoldenRunner(threads) }, reader, small, pause = waits::add)
                .measure(listOf(subject()))
        assertEquals(2, waits.size)
        val read = (Json.parse(result.json()) as Map<*, *>)["thermal"] as List<*>
        assertEquals("cooling", (read.first() as Map<*, *>)["when"])
    }

    @Test
    fun `plans that cannot be are refused`() {
        assertEquals(
            "1 runs cannot give a median and an interval: take at least 2.",
            assertFailsWith<ProtocolException> { Plan(runs = 1) }.message,
        )
        assertEquals(
            "-1 threads cannot be: take 1 or more, or 0 for the device's choice.",
            assertFailsWith<ProtocolException> { Plan(threads = -1) }.message,
        )
    }

    @Test
    fun `the self-test holds every artifact against its known answer`() {
        val right =
            SelfTest(bundle) { artifact, _, threads ->
                    GoldenRunner(threads).takeIf { artifact.view == "image" }
                        ?: error("no text here")
                }
                .run("onnx")
        assertNull(right.first { it.artifact.view == "image" }.problem)
        assertEquals(
            "text.onnx does not run on this device (no text here). Export it again.",
            right.first { it.artifact.view == "text" }.problem,
        )
        assertEquals(
            emptyList(),
            SelfTest(bundle) { _, _, threads -> GoldenRunner(threads) }.run("executorch-xnnpack"),
        )
    }

    @Test
    fun `parity is the exporter's`() {
        fun floats(vararg values: Float) = FloatTensor(intArrayOf(values.size), values)
        val near = Parity.floats(floats(1f, 2f), floats(1f, 2.1f))
        assertEquals(27.336, near.db, 1e-2)
        assertEquals(300.0, Parity.floats(floats(1f), floats(1f)).db)
        assertEquals(-300.0, Parity.floats(floats(Float.NaN), floats(1f)).db)
        val gate = Gate(20.0, 0.99, 0.9, 0.9)
        assertTrue(near.passes(gate) && !near.passes(Gate(30.0, 0.99)))
        assertTrue(
            Parity(0.0, 0.0, 1.0, equal = 0.95).passes(gate) &&
                !Parity(99.0, 1.0, 0.0, found = 0.5).passes(gate)
        )
        assertContentEquals(
            doubleArrayOf(-300.0),
            Parity.compare(listOf(floats(1f)), listOf(floats(1f, 2f)), emptyList())
                .map { it.db }
                .toDoubleArray(),
        )
        val rules =
            (Json.parse("""["boxes", "scores", "labels", "masks"]""") as List<*>).map {
                OutputRule(
                    Fields(mapOf("name" to it, "meaning" to it, "shape" to listOf(1L), "compare" to "matched"))
                )
            }
        val boxes =
            floats(0f, 0f, 4f, 4f, 10f, 10f, 20f, 20f, 0f, 0f, 0f, 0f).let {
                FloatTensor(intArrayOf(3, 4), it.values)
            }
        val turned =
            FloatTensor(
                intArrayOf(3, 4),
                floatArrayOf(10f, 10f, 20f, 20f, 0f, 0f, 4f, 4f, 0f, 0f, 0f, 0f),
            )
        val labels = IntTensor(intArrayOf(3), intArrayOf(1, 2, 0))
        val other = IntTensor(intArrayOf(3), intArrayOf(2, 1, 0))
        val found =
            Parity.compare(
                listOf(turned, floats(0.8f, 0.9f, 0f), other, floats(5f, 6f, 0f)),
                listOf(boxes, floats(0.9f, 0.8f, 0f), labels, floats(6f, 5f, 0f)),
                rules,
            )
        assertEquals(listOf(1.0, 1.0, 1.0, 1.0), found.map { it.found })
        assertEquals(300.0, found.minOf { it.db })
    }
}
