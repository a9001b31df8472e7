package org.mobileclip.app

import android.Manifest
import android.os.SystemClock
import android.text.InputFilter
import android.text.InputType
import android.view.TextureView
import android.view.View
import android.widget.EditText
import android.widget.FrameLayout
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.TextView
import java.util.concurrent.RejectedExecutionException
import java.util.concurrent.atomic.AtomicBoolean
import org.mobileclip.kit.KitException
import org.mobileclip.kit.Picture
import org.mobileclip.kit.Ranked
import org.mobileclip.kit.ZeroShot

/** What is in front of the camera, among labels that the user writes. */
class LiveScreen(private val activity: MainActivity) : Screen {
    private val app
        get() = activity.application as App

    private val views = Views(activity)
    private val own = OwnLabels(activity)
    private val preview =
        TextureView(activity).apply {
            contentDescription = activity.getString(R.string.camera_preview)
        }
    private val results = List(SHOWN) { Result() }
    private val time = views.text(size = 14f)
    private val camera =
        CameraSource(activity, preview, ::onFrame) { reason ->
            activity.runOnUiThread { message(activity.getString(R.string.camera_broken, reason)) }
        }
    private val busy = AtomicBoolean()
    private var engine: Engine? = null
    @Volatile private var labels: List<String> = emptyList()
    @Volatile private var ranking: ZeroShot? = null
    private var asked = false
    private var spoken = 0L
    override val view = FrameLayout(activity)
    private val live =
        LinearLayout(activity).apply {
            orientation = LinearLayout.VERTICAL
            addView(preview, LinearLayout.LayoutParams(Views.MATCH, 0, 1f))
            results.forEach { addView(it.view) }
            addView(time)
            addView(views.button(R.string.labels_edit, ::edit))
        }

    override fun show(engine: Engine) {
        this.engine = engine
        when {
            !engine.hasTowers -> message(engine.missing())
            !camera.exists -> message(activity.getString(R.string.camera_none))
            camera.isAllowed -> begin(engine)
            asked ->
                view.only(
                    views.empty(
                        activity.getString(R.string.camera_settings),
                        R.string.open_settings,
                        activity::openSettings,
                    )
                )
            else ->
                view.only(
                    views.empty(
                        activity.getString(R.string.camera_permission),
                        R.string.camera_allow,
                    ) {
                        activity.requestPermissions(arrayOf(Manifest.permission.CAMERA), 1)
                    }
                )
        }
    }

    override fun hide() {
        camera.stop()
        engine = null
    }

    override fun onPermission(granted: Boolean) {
        asked = true
        engine?.let(::show)
    }

    private fun message(sentence: String) = view.only(views.empty(sentence))

    private fun begin(engine: Engine) {
        view.only(live)
        compare(engine, own.read(engine.bundle.labels.names))
        camera.start()
    }

    private fun compare(engine: Engine, with: List<String>) {
        ranking = null
        app.worker.execute {
            try {
                val next = engine.zeroShot(with)
                labels = with
                ranking = next
            } catch (error: KitException) {
                activity.runOnUiThread { message(error.message.orEmpty()) }
            }
        }
    }

    /** On the camera's thread: nothing is done while the frame before is worked on. */
    private fun onFrame(picture: Picture) {
        val engine = engine ?: return
        val ranking = ranking ?: return
        if (!busy.compareAndSet(false, true)) return
        try {
            app.worker.execute { rank(engine, ranking, labels, picture) }
        } catch (_: RejectedExecutionException) {
            busy.set(false)
        }
    }

    private fun rank(engine: Engine, ranking: ZeroShot, names: List<String>, picture: Picture) {
        try {
            val start = SystemClock.elapsedRealtimeNanos()
            val found = ranking.rank(engine.embed(picture), SHOWN)
            val took = (SystemClock.elapsedRealtimeNanos() - start) / 1e6
            activity.runOnUiThread { told(names, found, took) }
        } catch (error: KitException) {
            activity.runOnUiThread { message(error.message.orEmpty()) }
        } finally {
            busy.set(false)
        }
    }

    private fun told(names: List<String>, found: List<Ranked>, took: Double) {
        results.forEachIndexed { place, result ->
            result.set(found.getOrNull(place)?.let { names.getOrNull(it.place) to it.probability })
        }
        time.text = activity.getString(R.string.frame_time, took)
        val now = SystemClock.elapsedRealtime()
        if (now - spoken > SPEAK_MS) { // TalkBack would otherwise never stop
            spoken = now
            results.first().announce()
        }
    }

    private fun edit() {
        val engine = engine ?: return
        val field =
            EditText(activity).apply {
                setHint(R.string.labels_hint)
                inputType = InputType.TYPE_CLASS_TEXT or InputType.TYPE_TEXT_FLAG_MULTI_LINE
                filters = arrayOf(InputFilter.LengthFilter(OwnLabels.MOST * 50))
                setText(own.read(engine.bundle.labels.names).joinToString("\n"))
            }
        fun use(labels: List<String>) =
            if (labels.isEmpty()) message(activity.getString(R.string.labels_empty))
            else compare(engine, labels)
        activity.ask {
            setTitle(R.string.labels_edit)
            setView(field)
            setPositiveButton(R.string.save) { _, _ ->
                own.write(field.text.toString())
                use(own.read(engine.bundle.labels.names))
            }
            setNeutralButton(R.string.labels_reset) { _, _ ->
                own.reset()
                use(engine.bundle.labels.names)
            }
            setNegativeButton(R.string.cancel, null)
        }
    }

    /** A label, its bar, and both as one thing for TalkBack. */
    private inner class Result {
        private val name: TextView = views.text()
        private val bar =
            ProgressBar(activity, null, android.R.attr.progressBarStyleHorizontal).apply {
                max = 1000
                importantForAccessibility = View.IMPORTANT_FOR_ACCESSIBILITY_NO
            }
        val view = views.row(name, bar).apply { setPadding(0, 0, views.dp(16), 0) }

        fun set(result: Pair<String?, Double>?) {
            val (label, probability) = result ?: (null to 0.0)
            val percent = Math.round(100 * probability).toInt()
            name.text = label?.let { "$it  $percent %" }.orEmpty()
            bar.progress = Math.round(1000 * probability).toInt()
            view.contentDescription =
                label?.let { activity.getString(R.string.ranked, it, percent) }
        }

        fun announce() = view.contentDescription?.let { view.stateDescription = it }
    }

    private companion object {
        const val SHOWN = 5
        const val SPEAK_MS = 3000L
    }
}

/** The sentence that says which tower is missing. */
fun Engine.missing(): String =
    try {
        (if (embedsPictures) listOf("text") else listOf("image", "text")).forEach {
            bundle.artifact(it, Engine.TARGET)
        }
        ""
    } catch (error: KitException) {
        error.message.orEmpty()
    }
