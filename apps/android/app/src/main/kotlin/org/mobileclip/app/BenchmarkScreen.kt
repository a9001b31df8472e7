package org.mobileclip.app

import android.content.Intent
import android.net.Uri
import android.view.View
import android.view.WindowManager
import android.widget.FrameLayout
import android.widget.ProgressBar
import android.widget.RadioButton
import android.widget.RadioGroup
import android.widget.ScrollView
import java.io.File
import java.util.concurrent.atomic.AtomicBoolean
import org.mobileclip.kit.KitException
import org.mobileclip.kit.LatencyResult
import org.mobileclip.kit.Plan
import org.mobileclip.kit.Statistics

/** Runs the latency protocol and shares what it measured. */
class BenchmarkScreen(private val activity: MainActivity) : Screen {
    private val app
        get() = activity.application as App

    private val views = Views(activity)
    private val cancelled = AtomicBoolean()
    private var running = false
    private var files: List<File> = emptyList()
    private val plans =
        RadioGroup(activity).apply {
            PLANS.keys.forEachIndexed { place, label ->
                addView(
                    RadioButton(activity).apply {
                        id = place + 1
                        setText(label)
                        textSize = 16f
                        minHeight = views.dp(48)
                    }
                )
            }
            check(2)
        }
    private val start = views.button(R.string.benchmark_start, ::startOrStop)
    private val share = views.button(R.string.benchmark_share, ::send).apply { isEnabled = false }
    private val bar =
        ProgressBar(activity, null, android.R.attr.progressBarStyleHorizontal).apply {
            max = 1000
            contentDescription = activity.getString(R.string.benchmark_progress)
        }
    private val told =
        views.text().apply {
            accessibilityLiveRegion = View.ACCESSIBILITY_LIVE_REGION_POLITE
            setTextIsSelectable(true)
        }
    private val ready =
        ScrollView(activity).apply {
            addView(
                views.column(
                    views.text(activity.getString(R.string.benchmark_about)),
                    plans,
                    start,
                    bar,
                    told,
                    share,
                )
            )
        }
    override val view = FrameLayout(activity)

    override fun show(engine: Engine) =
        view.only(
            if (engine.artifacts.isEmpty())
                views.empty(activity.getString(R.string.benchmark_nothing))
            else ready
        )

    override fun hide() = cancelled.set(true) // a screen that is not in front is not measured

    private fun startOrStop() {
        if (running) return cancelled.set(true)
        val engine = (app.state as? ModelState.Ready)?.engine ?: return
        val plan = PLANS.values.elementAt(plans.checkedRadioButtonId - 1)
        cancelled.set(false)
        set(running = true)
        val benchmark = Benchmark(activity, engine, app.loader)
        app.worker.execute {
            val (results, problem) =
                try {
                    benchmark.run(engine.artifacts, plan, cancelled::get) { done ->
                        activity.runOnUiThread { bar.progress = (1000 * done).toInt() }
                    } to null
                } catch (error: KitException) {
                    emptyList<Pair<LatencyResult, File>>() to error.message
                }
            activity.runOnUiThread { done(results, problem) }
        }
    }

    private fun set(running: Boolean) {
        this.running = running
        start.setText(if (running) R.string.benchmark_stop else R.string.benchmark_start)
        share.isEnabled = !running && files.isNotEmpty()
        val flag = WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON
        if (running) activity.window.addFlags(flag) else activity.window.clearFlags(flag)
    }

    private fun done(results: List<Pair<LatencyResult, File>>, problem: String?) {
        files = results.map { it.second }
        told.text = (listOfNotNull(problem) + results.map { line(it.first) }).joinToString("\n\n")
        set(running = false)
    }

    private fun line(result: LatencyResult): String {
        val side = result.sides.single()
        val figures = Statistics.percentiles(side.steadyMs)
        val shown =
            if (figures.isEmpty()) {
                side.subject.name
            } else {
                activity.getString(
                    R.string.benchmark_line,
                    side.subject.name,
                    figures.getValue("p50"),
                    figures.getValue("p90"),
                    side.steadyMs.size,
                )
            }
        return listOfNotNull(shown, result.problem).joinToString("\n")
    }

    private fun send() {
        val uris = ArrayList<Uri>(files.map(ResultProvider::uri))
        val intent =
            Intent(Intent.ACTION_SEND_MULTIPLE)
                .setType("application/json")
                .putParcelableArrayListExtra(Intent.EXTRA_STREAM, uris)
                .addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION)
        activity.startActivity(
            Intent.createChooser(intent, activity.getString(R.string.benchmark_share))
        )
    }

    private companion object {
        val PLANS =
            linkedMapOf(
                R.string.benchmark_quick to Plan(runs = 20, seconds = 1.0, coolSeconds = 0.0),
                R.string.benchmark_whole to Plan(),
                R.string.benchmark_sustained to Plan(sustainedSeconds = 300.0),
            )
    }
}
