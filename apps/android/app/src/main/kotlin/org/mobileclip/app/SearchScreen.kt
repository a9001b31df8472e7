package org.mobileclip.app

import android.content.Intent
import android.graphics.Bitmap
import android.text.InputFilter
import android.text.InputType
import android.util.LruCache
import android.util.Size
import android.view.View
import android.view.ViewGroup
import android.view.inputmethod.EditorInfo
import android.widget.AbsListView
import android.widget.BaseAdapter
import android.widget.EditText
import android.widget.FrameLayout
import android.widget.GridView
import android.widget.ImageView
import android.widget.LinearLayout
import android.widget.ProgressBar
import java.io.IOException
import java.util.concurrent.Executors
import org.mobileclip.kit.IndexingProgress
import org.mobileclip.kit.KitException
import org.mobileclip.kit.PhotoKey

/** Finds photos by a description. */
class SearchScreen(private val activity: MainActivity) : Screen {
    private val app
        get() = activity.application as App

    private val library
        get() = app.library

    private val views = Views(activity)
    private val thumbnails = Executors.newFixedThreadPool(2)
    private var engine: Engine? = null
    private var asked = false
    private val field =
        EditText(activity).apply {
            setHint(R.string.search_hint)
            inputType = InputType.TYPE_CLASS_TEXT
            imeOptions = EditorInfo.IME_ACTION_SEARCH
            filters = arrayOf(InputFilter.LengthFilter(10_000))
            minHeight = views.dp(48)
            setOnEditorActionListener { _, _, _ ->
                search()
                true
            }
        }
    private val status =
        views.text(size = 14f).apply {
            accessibilityLiveRegion = View.ACCESSIBILITY_LIVE_REGION_POLITE
        }
    private val bar =
        ProgressBar(activity, null, android.R.attr.progressBarStyleHorizontal).apply {
            importantForAccessibility =
                View.IMPORTANT_FOR_ACCESSIBILITY_NO // the text beside says it
        }
    private val found = Found()
    private val grid =
        GridView(activity).apply {
            numColumns = GridView.AUTO_FIT
            columnWidth = views.dp(CELL)
            horizontalSpacing = views.dp(2)
            verticalSpacing = views.dp(2)
            adapter = found
            setOnItemClickListener { _, _, place, _ -> open(found.photos[place]) }
        }
    private val ready =
        LinearLayout(activity).apply {
            orientation = LinearLayout.VERTICAL
            addView(field)
            addView(status)
            addView(bar)
            addView(grid, LinearLayout.LayoutParams(Views.MATCH, 0, 1f))
        }
    override val view = FrameLayout(activity)

    override fun show(engine: Engine) {
        this.engine = engine
        when {
            !engine.hasTowers -> view.only(views.empty(engine.missing()))
            library.isAllowed -> begin()
            asked ->
                view.only(
                    views.empty(
                        activity.getString(R.string.photos_denied),
                        R.string.open_settings,
                        activity::openSettings,
                    )
                )
            else ->
                view.only(
                    views.empty(
                        activity.getString(R.string.photos_permission),
                        R.string.photos_allow,
                    ) {
                        activity.requestPermissions(library.permissions, 2)
                    }
                )
        }
    }

    override fun hide() {
        library.onProgress = {}
        engine = null
    }

    override fun onPermission(granted: Boolean) {
        asked = true
        engine?.let(::show)
    }

    private fun begin() {
        view.only(ready)
        library.progress?.let(::told)
        library.onProgress = { progress -> activity.runOnUiThread { told(progress) } }
        IndexService.begin(activity)
    }

    private fun told(progress: IndexingProgress) {
        bar.max = maxOf(progress.total, 1)
        bar.progress = progress.done + progress.unreadable
        bar.visibility =
            if (progress.done + progress.unreadable < progress.total) View.VISIBLE else View.GONE
        status.text =
            when {
                progress.total == 0 -> activity.getString(R.string.photos_none)
                progress.unreadable > 0 ->
                    activity.getString(
                        R.string.indexing_unreadable,
                        progress.done,
                        progress.total,
                        progress.unreadable,
                    )
                else -> activity.getString(R.string.indexing, progress.done, progress.total)
            }
    }

    private fun search() {
        val engine = engine ?: return
        val text = field.text.toString().trim()
        if (text.isEmpty()) return
        app.worker.execute {
            val (photos, problem) =
                try {
                    library.search(engine, text, MOST).map { it.first } to null
                } catch (error: KitException) {
                    emptyList<PhotoKey>() to error.message
                } catch (error: SecurityException) {
                    emptyList<PhotoKey>() to error.message
                }
            activity.runOnUiThread {
                found.set(text, photos)
                if (problem != null) status.text = problem
                if (problem == null && photos.isEmpty()) status.setText(R.string.search_none)
            }
        }
    }

    private fun open(photo: PhotoKey) {
        val intent =
            Intent(Intent.ACTION_VIEW)
                .setDataAndType(library.uri(photo.id), "image/*")
                .addFlags(Intent.FLAG_GRANT_READ_URI_PERMISSION)
        if (intent.resolveActivity(activity.packageManager) != null) activity.startActivity(intent)
    }

    /**
     * Thumbnails are made off the main thread; a cell that shows another photo by then is left
     * alone.
     */
    private inner class Found : BaseAdapter() {
        private var text = ""
        var photos: List<PhotoKey> = emptyList()
            private set

        private val small = LruCache<Long, Bitmap>(200)

        fun set(text: String, photos: List<PhotoKey>) {
            this.text = text
            this.photos = photos
            notifyDataSetChanged()
        }

        override fun getCount() = photos.size

        override fun getItem(place: Int) = photos[place]

        override fun getItemId(place: Int) = photos[place].id

        override fun getView(place: Int, old: View?, parent: ViewGroup): View {
            val cell =
                old as? ImageView
                    ?: ImageView(activity).apply {
                        scaleType = ImageView.ScaleType.CENTER_CROP
                        layoutParams = AbsListView.LayoutParams(Views.MATCH, views.dp(CELL))
                    }
            val photo = photos[place]
            cell.contentDescription =
                activity.getString(R.string.photo_found, text, place + 1, photos.size)
            cell.tag = photo.id
            cell.setImageBitmap(small.get(photo.id))
            if (small.get(photo.id) == null) thumbnails.execute { load(photo.id, cell) }
            return cell
        }

        private fun load(id: Long, cell: ImageView) {
            val bitmap =
                try {
                    activity.contentResolver.loadThumbnail(
                        library.uri(id),
                        Size(2 * CELL, 2 * CELL),
                        null,
                    )
                } catch (_: IOException) {
                    return // deleted in the meantime: the cell stays empty
                }
            activity.runOnUiThread {
                small.put(id, bitmap)
                if (cell.tag == id) cell.setImageBitmap(bitmap)
            }
        }
    }

    private companion object {
        const val MOST = 60
        const val CELL = 110
    }
}
