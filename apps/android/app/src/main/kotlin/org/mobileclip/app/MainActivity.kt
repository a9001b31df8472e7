package org.mobileclip.app

import android.app.Activity
import android.app.AlertDialog
import android.content.Intent
import android.content.pm.PackageManager
import android.os.Bundle
import android.text.format.Formatter
import android.view.View
import android.view.WindowInsets
import android.widget.Button
import android.widget.FrameLayout
import android.widget.LinearLayout

/** The four screens behind four tabs, or what stands in their way. */
class MainActivity : Activity() {
    private val app
        get() = application as App

    private val views by lazy { Views(this) }
    private lateinit var frame: FrameLayout
    private lateinit var tabs: List<Button>
    private val screens by lazy {
        listOf(LiveScreen(this), SearchScreen(this), DenseScreen(this), BenchmarkScreen(this))
    }
    private val listener: (ModelState) -> Unit = ::onModel
    private var chosen = 0
    private var front: Screen? = null
    private var visible = false

    override fun onCreate(saved: Bundle?) {
        super.onCreate(saved)
        chosen = saved?.getInt(CHOSEN) ?: 0
        frame = FrameLayout(this)
        tabs = TABS.mapIndexed { place, label -> views.tab(label) { choose(place) } }
        val root =
            LinearLayout(this).apply {
                orientation = LinearLayout.VERTICAL
                addView(frame, LinearLayout.LayoutParams(Views.MATCH, 0, 1f))
                addView(
                    views.row(*tabs.toTypedArray()),
                    LinearLayout.LayoutParams(Views.MATCH, Views.WRAP),
                )
                setBackgroundColor(getColor(R.color.background))
                setOnApplyWindowInsetsListener { view, insets ->
                    val bars =
                        insets.getInsets(
                            WindowInsets.Type.systemBars() or
                                WindowInsets.Type.displayCutout() or
                                WindowInsets.Type.ime()
                        )
                    view.setPadding(bars.left, bars.top, bars.right, bars.bottom)
                    WindowInsets.CONSUMED
                }
            }
        setContentView(root)
        app.listen(listener)
        if (app.state !is ModelState.Ready) app.load()
    }

    override fun onSaveInstanceState(out: Bundle) {
        super.onSaveInstanceState(out)
        out.putInt(CHOSEN, chosen)
    }

    override fun onStart() {
        super.onStart()
        visible = true
        onModel(app.state)
    }

    override fun onStop() {
        visible = false
        leave()
        super.onStop()
    }

    override fun onDestroy() {
        app.forget(listener)
        super.onDestroy()
    }

    private fun choose(place: Int) {
        chosen = place
        onModel(app.state)
    }

    private fun onModel(state: ModelState) {
        tabs.forEachIndexed { place, tab ->
            views.mark(tab, place == chosen)
            tab.isEnabled = state is ModelState.Ready
        }
        leave()
        when (state) {
            is ModelState.Loading ->
                frame.only(
                    views.empty(
                        getString(if (state.testing) R.string.testing else R.string.loading)
                    )
                )
            is ModelState.Problem -> frame.only(problem(state.sentence))
            is ModelState.LowMemory -> frame.only(lowMemory(state))
            is ModelState.Ready -> if (visible) enter(screens[chosen], state.engine)
        }
    }

    private fun enter(screen: Screen, engine: Engine) {
        frame.only(screen.view)
        front = screen
        screen.show(engine)
    }

    private fun leave() {
        front?.hide()
        front = null
    }

    private fun problem(sentence: String): View =
        views.column(
            views.text(getString(R.string.problem_title), 22f),
            views.text(sentence),
            views.button(R.string.retry) { app.load() },
        )

    private fun lowMemory(state: ModelState.LowMemory): View {
        fun size(bytes: Long) = Formatter.formatShortFileSize(this, bytes)
        val left = size(state.left)
        val need = size(state.chosen.need)
        val smaller = state.smaller
        val sentence =
            if (smaller != null) {
                getString(R.string.low_memory_offer, left, need, size(smaller.need))
            } else {
                getString(R.string.low_memory_none, left, need)
            }
        val offered = smaller?.let { views.button(R.string.use_smaller) { app.load(it) } }
        val anyway = views.button(R.string.use_anyway) { app.load(state.chosen) }
        val title = views.text(getString(R.string.low_memory_title), 22f)
        val shown = listOfNotNull(title, views.text(sentence), offered, anyway)
        return views.column(*shown.toTypedArray())
    }

    override fun onRequestPermissionsResult(
        code: Int,
        permissions: Array<String>,
        results: IntArray,
    ) {
        front?.onPermission(results.any { it == PackageManager.PERMISSION_GRANTED })
    }

    @Deprecated("the platform's own way; the other one is AndroidX's")
    override fun onActivityResult(code: Int, result: Int, data: Intent?) {
        val uri = data?.data
        if (result == RESULT_OK && uri != null) screens[chosen].onChosen(uri)
    }

    /** A dialogue that goes with the activity. */
    fun ask(build: AlertDialog.Builder.() -> Unit): AlertDialog =
        AlertDialog.Builder(this).apply(build).show()

    private companion object {
        const val CHOSEN = "chosen"
        val TABS =
            listOf(
                R.string.tab_live,
                R.string.tab_search,
                R.string.tab_dense,
                R.string.tab_benchmark,
            )
    }
}
