package org.mobileclip.app

import android.content.Intent
import android.graphics.Bitmap
import android.graphics.Canvas
import android.graphics.Paint
import android.net.Uri
import android.view.View
import android.widget.Button
import android.widget.FrameLayout
import android.widget.ImageView
import android.widget.ScrollView
import android.widget.SeekBar
import java.util.Locale
import org.mobileclip.kit.Colours
import org.mobileclip.kit.Depth
import org.mobileclip.kit.KitException
import org.mobileclip.kit.Segmentation

/** A photo's parts, distances and objects, laid over it. */
class DenseScreen(private val activity: MainActivity) : Screen {
    private val app
        get() = activity.application as App

    private val views = Views(activity)
    private val image = ImageView(activity).apply { adjustViewBounds = true }
    private val legend =
        views.text(size = 14f).apply {
            accessibilityLiveRegion = View.ACCESSIBILITY_LIVE_REGION_POLITE
        }
    private val modes: Map<String, Button> =
        MODES.mapValues { (task, label) -> views.tab(label) { show(task) } }
    private val opacity =
        SeekBar(activity).apply {
            max = 255
            progress = 150
            minimumHeight = views.dp(48)
            contentDescription = activity.getString(R.string.dense_opacity)
            setOnSeekBarChangeListener(
                object : SeekBar.OnSeekBarChangeListener {
                    override fun onProgressChanged(bar: SeekBar, value: Int, fromUser: Boolean) =
                        draw()

                    override fun onStartTrackingTouch(bar: SeekBar) = Unit

                    override fun onStopTrackingTouch(bar: SeekBar) = Unit
                }
            )
        }
    private val ready =
        ScrollView(activity).apply {
            addView(
                views.column(
                    views.button(R.string.dense_choose, ::choose),
                    image,
                    views.row(*modes.values.toTypedArray()),
                    opacity,
                    legend,
                )
            )
        }
    private var engine: Engine? = null
    private var photo: Bitmap? = null
    private var scene: Engine.Scene? = null
    private var mode = PHOTO
    override val view = FrameLayout(activity)

    override fun show(engine: Engine) {
        this.engine = engine
        if (engine.tasks.isEmpty())
            return view.only(views.empty(activity.getString(R.string.dense_none)))
        if (photo == null) legend.setText(R.string.dense_empty)
        modes.forEach { (task, button) ->
            button.visibility =
                if (task == PHOTO || task in engine.tasks) View.VISIBLE else View.GONE
        }
        view.only(ready)
    }

    override fun hide() {
        engine = null
    }

    /** The system's own picker, which needs no permission. */
    private fun choose() {
        val intent =
            Intent(Intent.ACTION_OPEN_DOCUMENT)
                .addCategory(Intent.CATEGORY_OPENABLE)
                .setType("image/*")
        @Suppress("DEPRECATION") // the other way is AndroidX's
        activity.startActivityForResult(intent, 3)
    }

    override fun onChosen(uri: Uri) {
        val engine = (app.state as? ModelState.Ready)?.engine ?: return
        legend.setText(R.string.dense_working)
        app.worker.execute {
            try {
                val picture = Pictures(activity).read(uri, least = LEAST, most = LONGEST)
                val found = engine.scene(picture)
                val bitmap = Pictures.bitmap(picture)
                activity.runOnUiThread { shown(bitmap, found, engine) }
            } catch (error: KitException) {
                activity.runOnUiThread { legend.text = error.message }
            } catch (_: OutOfMemoryError) {
                activity.runOnUiThread { legend.setText(R.string.picture_memory) }
            }
        }
    }

    private fun shown(bitmap: Bitmap, found: Engine.Scene, engine: Engine) {
        photo = bitmap
        scene = found
        show(engine.tasks.first())
    }

    private fun show(task: String) {
        mode = task
        modes.forEach { (name, button) -> views.mark(button, name == task) }
        draw()
        legend.text = told()
        val label = MODES[task]?.let(activity::getString).orEmpty()
        image.contentDescription = activity.getString(R.string.dense_picture, label, legend.text)
    }

    private fun draw() {
        val photo = photo ?: return
        val over = overlay(photo.width, photo.height)
        if (over == null && mode != "detection") return image.setImageBitmap(photo)
        val out = photo.copy(Bitmap.Config.ARGB_8888, true)
        val canvas = Canvas(out)
        over?.let { canvas.drawBitmap(it, 0f, 0f, Paint().apply { alpha = opacity.progress }) }
        if (mode == "detection") boxes(canvas)
        image.setImageBitmap(out)
    }

    private fun overlay(width: Int, height: Int): Bitmap? {
        val labels = scene?.labels
        val depth = scene?.depth
        return when {
            mode == "segmentation" && labels != null -> {
                val colours = colours()
                Pictures.bitmap(
                    IntArray(labels.labels.size) {
                        colours[(labels.labels[it].toInt() and 255) % colours.size]
                    },
                    width,
                    height,
                )
            }
            mode == "depth" && depth != null -> {
                val (low, high) = Depth.ends(depth.metres)
                Pictures.bitmap(Depth.colours(depth.metres, low, high), width, height)
            }
            else -> null
        }
    }

    private fun boxes(canvas: Canvas) {
        val colours = colours()
        val line =
            Paint().apply {
                style = Paint.Style.STROKE
                strokeWidth = canvas.width / 200f
            }
        val name = Paint().apply { textSize = canvas.width / 30f }
        for (found in scene?.objects.orEmpty()) {
            line.color = colours[found.label % colours.size]
            name.color = line.color
            canvas.drawRect(found.box.left, found.box.top, found.box.right, found.box.bottom, line)
            canvas.drawText(
                nameOf(found.label),
                found.box.left,
                maxOf(found.box.top - name.textSize / 4, name.textSize),
                name,
            )
        }
    }

    private fun told(): String {
        val labels = scene?.labels
        val depth = scene?.depth
        val objects = scene?.objects
        return when {
            mode == "segmentation" && labels != null ->
                Segmentation.shares(labels).take(SHOWN).joinToString("\n") { (label, share) ->
                    activity.getString(
                        R.string.dense_share,
                        nameOf(label),
                        Math.round(100 * share).toInt(),
                    )
                }
            mode == "depth" && depth != null ->
                Depth.ends(depth.metres).let { (low, high) ->
                    activity.getString(R.string.dense_range, low, high)
                }
            mode == "detection" && objects != null ->
                (listOf(activity.getString(R.string.dense_objects, objects.size)) +
                        objects.take(SHOWN).map {
                            "${nameOf(it.label)} ${"%.0f".format(Locale.getDefault(), 100 * it.score)} %"
                        })
                    .joinToString("\n")
            else -> ""
        }
    }

    private fun nameOf(label: Int): String =
        engine?.bundle?.labels?.names?.getOrNull(label) ?: "$label"

    private fun colours(): IntArray {
        val labels = engine?.bundle?.labels ?: return Colours.palette(1)
        return labels.palette?.toIntArray()?.takeIf { it.isNotEmpty() }
            ?: Colours.palette(maxOf(labels.names.size, 1))
    }

    private companion object {
        const val PHOTO = "photo"
        const val SHOWN = 8
        const val LEAST = 512
        const val LONGEST = 2048
        val MODES =
            linkedMapOf(
                PHOTO to R.string.dense_photo,
                "segmentation" to R.string.dense_segmentation,
                "depth" to R.string.dense_depth,
                "detection" to R.string.dense_detection,
            )
    }
}
