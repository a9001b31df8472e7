package org.mobileclip.app

import android.app.Activity
import android.app.Instrumentation
import android.os.Bundle
import org.mobileclip.kit.KitException
import org.mobileclip.kit.Plan
import org.mobileclip.kit.SelfTest
import org.mobileclip.kit.Tokenizer

/**
 * The latency protocol without hands, in the app's own process:
 *
 *     adb shell am instrument -w -e runs 200 org.mobileclip.app.test/org.mobileclip.app.BenchmarkInstrumentation
 *
 * `runs`, `seconds`, `threads` and `sustained` change the plan. Results lie in the app's files
 * (`results/`), and their names are told; known answers come first, and a wrong one fails. It
 * reports in the form of Android's own test runner, so that `gradle connectedAndroidTest`
 * understands it.
 */
class BenchmarkInstrumentation : Instrumentation() {
    private var arguments = Bundle()

    override fun onCreate(arguments: Bundle) {
        super.onCreate(arguments)
        this.arguments = arguments
        start()
    }

    override fun onStart() {
        super.onStart()
        report("knownAnswersAndLatency", STARTED)
        val problem =
            try {
                run()
            } catch (error: KitException) {
                error.message
            }
        report("knownAnswersAndLatency", if (problem == null) OK else FAILED, problem)
        finish(
            Activity.RESULT_OK,
            Bundle().apply { putString(REPORT_KEY_STREAMRESULT, problem ?: "\nOK (1 test)\n") },
        )
    }

    /** null, or the sentence that says what went wrong. */
    private fun run(): String? {
        val loader = ExecuTorchLoader()
        val tokenizer = Tokenizer.load()
        val store = BundleStore(targetContext)
        val name =
            arguments.getString("bundle")
                ?: store.names().firstOrNull()
                ?: return targetContext.getString(R.string.no_bundle, store.folder.path)
        val bundle = store.open(name, tokenizer.sha256)
        SelfTest(bundle, loader)
            .run(Engine.TARGET)
            .mapNotNull { it.problem }
            .firstOrNull()
            ?.let {
                return it
            }
        val engine = Engine(bundle, tokenizer, loader)
        if (engine.artifacts.isEmpty()) return targetContext.getString(R.string.benchmark_nothing)
        val results =
            Benchmark(targetContext, engine, loader).run(engine.artifacts, plan(), { false }, {})
        results.forEach { (_, file) ->
            sendStatus(0, Bundle().apply { putString("result", file.path) })
        }
        return results.firstNotNullOfOrNull { it.first.problem }
    }

    private fun plan(): Plan {
        val whole = Plan()
        return whole.copy(
            runs = arguments.getString("runs")?.toIntOrNull() ?: whole.runs,
            seconds = arguments.getString("seconds")?.toDoubleOrNull() ?: whole.seconds,
            threads = arguments.getString("threads")?.toIntOrNull() ?: whole.threads,
            sustainedSeconds =
                arguments.getString("sustained")?.toDoubleOrNull() ?: whole.sustainedSeconds,
        )
    }

    private fun report(test: String, code: Int, problem: String? = null) =
        sendStatus(
            code,
            Bundle().apply {
                putString("id", "BenchmarkInstrumentation")
                putString("class", BenchmarkInstrumentation::class.java.name)
                putString("test", test)
                putInt("numtests", 1)
                putInt("current", 1)
                problem?.let { putString("stack", it) }
            },
        )

    private companion object {
        const val STARTED = 1
        const val OK = 0
        const val FAILED = -2
    }
}
