package org.mobileclip.app

import android.app.Activity
import android.content.Context
import android.content.Intent
import android.content.res.ColorStateList
import android.graphics.Typeface
import android.net.Uri
import android.provider.Settings
import android.util.TypedValue
import android.view.Gravity
import android.view.View
import android.view.ViewGroup
import android.widget.Button
import android.widget.LinearLayout
import android.widget.TextView

/** One of the four screens; its view is made once. */
interface Screen {
    val view: View

    /** It is in front, and the model is ready. */
    fun show(engine: Engine)

    /** It is no longer. */
    fun hide() {}

    /** What the user answered to a request for a permission. */
    fun onPermission(granted: Boolean) {}

    /** What another app gave back. */
    fun onChosen(uri: Uri) {}
}

/**
 * Views that several screens use. Text sizes are in sp and heights at least 48 dp, so that both
 * grow with the font.
 */
class Views(private val context: Context) {
    /** The theme's colour of text that is read. */
    private val primary: ColorStateList =
        context.obtainStyledAttributes(intArrayOf(android.R.attr.textColorPrimary)).run {
            getColorStateList(0)!!.also { recycle() }
        }

    fun dp(value: Int): Int = (value * context.resources.displayMetrics.density + 0.5f).toInt()

    fun column(vararg children: View): LinearLayout =
        LinearLayout(context).apply {
            orientation = LinearLayout.VERTICAL
            children.forEach { addView(it, LinearLayout.LayoutParams(MATCH, WRAP)) }
        }

    fun row(vararg children: View): LinearLayout =
        LinearLayout(context).apply {
            orientation = LinearLayout.HORIZONTAL
            gravity = Gravity.CENTER_VERTICAL
            children.forEach { addView(it, LinearLayout.LayoutParams(0, WRAP, 1f)) }
        }

    fun text(value: CharSequence = "", size: Float = 16f): TextView =
        TextView(context).apply {
            text = value
            textSize = size
            setTextColor(primary)
            setPadding(dp(16), dp(8), dp(16), dp(8))
        }

    fun button(label: Int, click: () -> Unit): Button =
        Button(context).apply {
            setText(label)
            isAllCaps = false
            minHeight = dp(48)
            setOnClickListener { click() }
        }

    /** A button of the row below: its one line shrinks where the font is large. */
    fun tab(label: Int, click: () -> Unit): Button =
        button(label, click).apply {
            maxLines = 1
            setPadding(dp(2), dp(8), dp(2), dp(8))
            setAutoSizeTextTypeUniformWithConfiguration(8, 20, 1, TypedValue.COMPLEX_UNIT_SP)
        }

    /** Which tab is in front, for eyes and for TalkBack. */
    fun mark(tab: Button, front: Boolean) {
        tab.isSelected = front
        tab.typeface = if (front) Typeface.DEFAULT_BOLD else Typeface.DEFAULT
        if (front) tab.setTextColor(context.getColor(R.color.accent)) else tab.setTextColor(primary)
    }

    /** A sentence in the middle, and what may be done about it. */
    fun empty(sentence: CharSequence, label: Int? = null, click: () -> Unit = {}): View =
        column(
                *listOfNotNull(
                        text(sentence, 18f).apply {
                            gravity = Gravity.CENTER
                            accessibilityLiveRegion = View.ACCESSIBILITY_LIVE_REGION_POLITE
                        },
                        label?.let { button(it, click) },
                    )
                    .toTypedArray()
            )
            .apply {
                gravity = Gravity.CENTER
                setPadding(dp(24), dp(24), dp(24), dp(24))
            }

    companion object {
        const val MATCH = ViewGroup.LayoutParams.MATCH_PARENT
        const val WRAP = ViewGroup.LayoutParams.WRAP_CONTENT
    }
}

/** Puts `child` alone into a frame. */
fun ViewGroup.only(child: View) {
    removeAllViews()
    addView(child, ViewGroup.LayoutParams(Views.MATCH, Views.MATCH))
}

/** The system's page where the app's permissions are changed. */
fun Activity.openSettings() =
    startActivity(
        Intent(
            Settings.ACTION_APPLICATION_DETAILS_SETTINGS,
            Uri.fromParts("package", packageName, null),
        )
    )

/** A service that every Android has. */
inline fun <reified T : Any> Context.service(): T =
    checkNotNull(getSystemService(T::class.java)) { "${T::class.java.name} is missing" }
