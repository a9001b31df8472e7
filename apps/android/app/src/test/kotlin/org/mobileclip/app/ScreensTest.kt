package org.mobileclip.app

import android.Manifest
import android.app.ActivityManager
import android.util.Size
import android.view.View
import android.view.ViewGroup
import android.widget.Button
import android.widget.TextView
import java.io.File
import java.io.FileNotFoundException
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.mobileclip.kit.Json
import org.mobileclip.kit.Plan
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config

/** The screens as a user meets them: sentences, buttons, what TalkBack says. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35])
class ScreensTest {
    private val app = Installation.app

    init {
        app.loader = GoldenLoader()
        shadowOf(app.service<ActivityManager>())
            .setMemoryInfo(ActivityManager.MemoryInfo().apply { availMem = 4L shl 30 })
    }

    private fun start(): MainActivity {
        val activity = Robolectric.buildActivity(MainActivity::class.java).setup().get()
        Installation.settle()
        return activity
    }

    private fun all(view: View): List<View> =
        listOf(view) +
            if (view is ViewGroup) (0 until view.childCount).flatMap { all(view.getChildAt(it)) }
            else emptyList()

    private fun MainActivity.views() = all(window.decorView)

    private fun MainActivity.texts() =
        views().filterIsInstance<TextView>().map { it.text.toString() }

    private fun MainActivity.press(label: Int) =
        views().filterIsInstance<Button>().first { it.text == getString(label) }.performClick()

    @Test
    fun `without a model the sentence stands in every screen's place`() {
        val activity = start()
        assertTrue(activity.getString(R.string.problem_title) in activity.texts())
        assertTrue(
            activity
                .views()
                .filterIsInstance<Button>()
                .filter { it.text == activity.getString(R.string.tab_live) }
                .none { it.isEnabled }
        )
        Installation.install()
        activity.press(R.string.retry)
        Installation.settle()
        assertTrue(
            activity.getString(R.string.camera_none) in activity.texts()
        ) // Robolectric's device has none
    }

    @Test
    fun `permissions are explained before they are asked for, and a refusal has a way on`() {
        Installation.install()
        val activity = start()
        activity.press(R.string.tab_search)
        assertTrue(activity.getString(R.string.photos_permission) in activity.texts())
        activity.press(R.string.photos_allow)
        assertEquals(
            Manifest.permission.READ_MEDIA_IMAGES,
            shadowOf(activity).lastRequestedPermission.requestedPermissions.first(),
        )
        activity.onRequestPermissionsResult(
            2,
            arrayOf(Manifest.permission.READ_MEDIA_IMAGES),
            intArrayOf(-1),
        )
        assertTrue(activity.getString(R.string.photos_denied) in activity.texts())
        activity.press(R.string.open_settings)
        assertEquals(
            "android.settings.APPLICATION_DETAILS_SETTINGS",
            shadowOf(activity).nextStartedActivity.action,
        )
        shadowOf(app).grantPermissions(Manifest.permission.READ_MEDIA_IMAGES)
        activity.onRequestPermissionsResult(
            2,
            arrayOf(Manifest.permission.READ_MEDIA_IMAGES),
            intArrayOf(0),
        )
        assertTrue(
            activity.views().any {
                (it as? TextView)?.hint == activity.getString(R.string.search_hint)
            }
        )
    }

    @Test
    fun `a model without dense heads says so`() {
        Installation.install()
        val activity = start()
        activity.press(R.string.tab_dense)
        assertTrue(activity.getString(R.string.dense_none) in activity.texts())
    }

    @Test
    fun `buttons are large enough and everything that is drawn has words`() {
        Installation.install()
        shadowOf(app).grantPermissions(Manifest.permission.READ_MEDIA_IMAGES)
        val activity = start()
        for (tab in
            listOf(
                R.string.tab_live,
                R.string.tab_search,
                R.string.tab_dense,
                R.string.tab_benchmark,
            )) {
            activity.press(tab)
            for (button in activity.views().filterIsInstance<Button>()) {
                assertTrue(button.minHeight >= 48 && button.text.isNotEmpty(), "${button.text}")
            }
        }
    }

    @Test
    fun `where memory is short the user chooses`() {
        shadowOf(app.service<ActivityManager>())
            .setMemoryInfo(ActivityManager.MemoryInfo().apply { availMem = 100_000_000 })
        Installation.install(bytes = 70_000_000, small = 20_000_000)
        val activity = start()
        assertTrue(activity.texts().any { "smaller form (8 bits)" in it }, "${activity.texts()}")
        activity.press(R.string.use_smaller)
        Installation.settle()
        assertTrue(app.state is ModelState.Ready)
    }

    @Test
    fun `labels are one a line, bounded, and kept`() {
        assertEquals(listOf("a cat", "dog"), OwnLabels.lines(" a cat \n\n dog\na cat"))
        assertEquals(200, OwnLabels.lines((0..500).joinToString("\n")).size)
        assertEquals(1000, OwnLabels.lines("x".repeat(10_000)).single().length)
        val own = OwnLabels(app)
        assertEquals(listOf("model"), own.read(listOf("model")))
        own.write("one\ntwo")
        assertEquals(listOf("one", "two"), OwnLabels(app).read(listOf("model")))
        own.write(" \n")
        assertEquals(listOf("model"), own.read(listOf("model")))
    }

    @Test
    fun `the benchmark writes a result that is shared, and nothing else can be read`() {
        Installation.install()
        start()
        val engine = (app.state as ModelState.Ready).engine
        val plan =
            Plan(runs = 12, seconds = 0.0, warmupRuns = 1, warmupSeconds = 0.0, endToEnd = false)
        val results = Benchmark(app, engine, app.loader).run(engine.artifacts, plan, { false }, {})
        assertEquals(listOf("complete", "complete"), results.map { it.first.state })
        val file = results.first().second
        val result = Json.parse(file.readText()) as Map<*, *>
        assertEquals("android", (result["device"] as Map<*, *>)["kind"])
        assertTrue(
            (((result["sides"] as List<*>).first() as Map<*, *>)["steady_ms"] as List<*>).size >= 12
        )
        File(System.getProperty("user.dir"), "target/app-result.json").writeText(file.readText())
        val provider = Robolectric.setupContentProvider(ResultProvider::class.java)
        provider.openFile(ResultProvider.uri(file), "r").use {
            assertEquals(file.length(), it.statSize)
        }
        assertFailsWith<FileNotFoundException> { provider.openFile(ResultProvider.uri(file), "w") }
        for (name in listOf("../tested", "..", "", "x.json", "a/b.json")) {
            assertFailsWith<FileNotFoundException>(name) {
                provider.openFile(ResultProvider.uri(File("r")).buildUpon().path(name).build(), "r")
            }
        }
    }

    @Test
    fun `camera frames are turned by the sensor and the device`() {
        assertEquals(
            listOf(6, 1, 8, 3),
            listOf(0, 90, 180, 270).map { CameraSource.orientation(90, it) },
        )
        assertEquals(8, CameraSource.orientation(270, 0))
        assertEquals(
            Size(640, 480),
            CameraSource.chosen(listOf(Size(4000, 3000), Size(640, 480), Size(320, 240))),
        )
        assertEquals(Size(320, 240), CameraSource.chosen(listOf(Size(176, 144), Size(320, 240))))
        assertEquals(Size(640, 480), CameraSource.chosen(emptyList()))
    }

    @Test
    fun `large pictures are decoded smaller`() {
        assertEquals(1, Pictures.sampling(800, 600, 1024, 8192))
        assertEquals(2, Pictures.sampling(4000, 3000, 1024, 8192))
        assertEquals(8, Pictures.sampling(12_000, 9_000, 1024, 8192))
        assertEquals(2, Pictures.sampling(12_000, 100, 1024, 8192))
    }
}
