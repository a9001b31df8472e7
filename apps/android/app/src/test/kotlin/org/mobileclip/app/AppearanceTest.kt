package org.mobileclip.app

import android.app.ActivityManager
import android.graphics.Bitmap
import android.graphics.Canvas
import android.view.View
import android.view.ViewGroup
import android.widget.Button
import android.widget.TextView
import java.io.File
import kotlin.test.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/**
 * Screens drawn by Android's own code, by day and night and with large fonts; the pictures lie in
 * target/screens.
 */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class AppearanceTest {
    private val app = Installation.app

    private fun draw(name: String, qualifiers: String, font: Float, tab: Int): Bitmap {
        RuntimeEnvironment.setQualifiers(qualifiers)
        RuntimeEnvironment.setFontScale(font)
        app.loader = GoldenLoader()
        shadowOf(app.service<ActivityManager>())
            .setMemoryInfo(ActivityManager.MemoryInfo().apply { availMem = 4L shl 30 })
        Installation.install()
        val activity = Robolectric.buildActivity(MainActivity::class.java).setup().get()
        Installation.settle()
        val view = activity.window.decorView
        all(view)
            .filterIsInstance<Button>()
            .first { it.text == activity.getString(tab) }
            .performClick()
        val (width, height) = 411 to 731
        view.measure(
            View.MeasureSpec.makeMeasureSpec(width, View.MeasureSpec.EXACTLY),
            View.MeasureSpec.makeMeasureSpec(height, View.MeasureSpec.EXACTLY),
        )
        view.layout(0, 0, width, height)
        val bitmap = Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888)
        view.draw(Canvas(bitmap))
        File("target/screens").mkdirs()
        File("target/screens/$name.png").outputStream().use {
            bitmap.compress(Bitmap.CompressFormat.PNG, 100, it)
        }
        for (text in
            all(view).filterIsInstance<TextView>().filter {
                it.isShown && it.text.isNotEmpty() && it.layout != null
            }) {
            assertTrue(text.layout.height <= text.height + 1, "${text.text} is cut off in $name")
        }
        return bitmap
    }

    private fun all(view: View): List<View> =
        listOf(view) +
            if (view is ViewGroup) (0 until view.childCount).flatMap { all(view.getChildAt(it)) }
            else emptyList()

    private fun brightness(bitmap: Bitmap) =
        bitmap.getPixel(200, 500).let { (it shr 16 and 255) + (it shr 8 and 255) + (it and 255) }

    @Test
    fun `it is light by day and dark by night`() {
        val day = draw("benchmark-day", "w411dp-h731dp-notnight-mdpi", 1f, R.string.tab_benchmark)
        val night = draw("benchmark-night", "w411dp-h731dp-night-mdpi", 1f, R.string.tab_benchmark)
        assertTrue(
            brightness(day) > 600 && brightness(night) < 200,
            "${brightness(day)} ${brightness(night)}",
        )
    }

    @Test
    fun `large fonts are not cut off`() {
        draw("search-large", "w411dp-h731dp-notnight-mdpi", 2f, R.string.tab_search)
        draw("benchmark-large", "w411dp-h731dp-notnight-mdpi", 2f, R.string.tab_benchmark)
        draw("scene-large", "w411dp-h731dp-night-mdpi", 2f, R.string.tab_dense)
    }
}
