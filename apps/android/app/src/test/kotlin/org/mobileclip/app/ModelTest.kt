package org.mobileclip.app

import android.app.ActivityManager
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertIs
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.mobileclip.kit.Picture
import org.mobileclip.kit.RunnerException
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config

/** From an installed bundle to a model that screens use, or the sentence that says why not. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35])
class ModelTest {
    private val app = Installation.app

    init {
        app.loader = GoldenLoader()
        memory(4L shl 30)
    }

    private fun memory(left: Long, low: Boolean = false) =
        shadowOf(app.service<ActivityManager>())
            .setMemoryInfo(
                ActivityManager.MemoryInfo().apply {
                    availMem = left
                    lowMemory = low
                    totalMem = 8L shl 30
                }
            )

    private fun load(): ModelState {
        app.load()
        Installation.settle()
        return app.state
    }

    @Test
    fun `without a bundle it is said how one is installed`() {
        val sentence = assertIs<ModelState.Problem>(load()).sentence
        assertEquals(Installation.string(R.string.no_bundle, app.store.folder.path), sentence)
    }

    @Test
    fun `a good bundle is tested once, and used`() {
        Installation.install()
        val engine = assertIs<ModelState.Ready>(load()).engine
        assertTrue(engine.hasTowers)
        val loader = app.loader as GoldenLoader
        assertEquals(
            2 to 2,
            loader.loaded to loader.closed,
        ) // both artifacts, for the known answers
        assertIs<ModelState.Ready>(load())
        assertEquals(2, loader.loaded)
        val picture = Picture(40, 30, ByteArray(3600) { if (it % 3 == 1) 90 else 10 })
        val found = engine.zeroShot(listOf("cat", "dog", "tree")).rank(engine.embed(picture))
        assertEquals(1.0, found.sumOf { it.probability }, 1e-9)
        assertEquals(engine.embed("cat").toList(), engine.embed("cat").toList())
        assertEquals(emptyList(), engine.tasks)
    }

    @Test
    fun `a wrong known answer stops the app with a sentence`() {
        Installation.install()
        app.loader = GoldenLoader(error = 0.5f)
        assertTrue(
            "gives a wrong answer on this device" in assertIs<ModelState.Problem>(load()).sentence
        )
    }

    @Test
    fun `a runtime that fails while it runs is a sentence, not a crash`() {
        Installation.install()
        val engine = assertIs<ModelState.Ready>(load()).engine
        val failing =
            Engine(
                engine.bundle,
                app.tokenizer,
                { _, _, _ -> throw IllegalStateException("Error 0x1") },
            )
        assertEquals(
            "image.onnx does not run on this device (Error 0x1). Export it again.",
            assertFailsWith<RunnerException> { failing.embed(Picture(1, 1, ByteArray(3))) }.message,
        )
        assertEquals(
            "text.onnx does not run on this device (Error 0x1). Export it again.",
            assertFailsWith<RunnerException> { failing.zeroShot(listOf("cat")) }.message,
        )
    }

    @Test
    fun `without ExecuTorch's native code that is said`() {
        Installation.install()
        app.loader = ExecuTorchLoader() // its signatures alone: nothing can run
        assertTrue(
            "image.onnx does not run on this device (" in
                assertIs<ModelState.Problem>(load()).sentence
        )
    }

    @Test
    fun `broken bundles are refused in the words of all apps`() {
        for ((from, sentence) in
            listOf(
                "changed" to
                    "The model is damaged: image.onnx is not the file that was exported. Install the bundle again.",
                "missing" to
                    "The model is incomplete: text.onnx is missing. Install the bundle again.",
                "newer" to
                    "This model was made for a newer app (manifest version 2, this app reads 1). Update the app, or export the model again.",
                "escape" to
                    "The model's manifest names a file outside of its folder (../good/image.onnx). Do not use this bundle.",
                "no-manifest" to
                    "There is no model here: manifest.json is missing. Install a bundle that `mobileclip export` made.",
            )) {
            Installation.install(from)
            assertEquals(sentence, assertIs<ModelState.Problem>(load(), from).sentence)
        }
    }

    @Test
    fun `a bundle for another runtime is refused with what it holds`() {
        File(Installation.golden, "bundles/good").copyRecursively(File(app.store.folder, "golden"))
        assertEquals(
            "This model has no image part for executorch-xnnpack (it has coreml, onnx). Export it with --to executorch-xnnpack.",
            assertIs<ModelState.Problem>(load()).sentence,
        )
    }

    @Test
    fun `where memory is short the smaller form is offered`() {
        Installation.install(bytes = 70_000_000, small = 20_000_000)
        memory(100_000_000)
        val state = assertIs<ModelState.LowMemory>(load())
        val smaller = assertNotNull(state.smaller)
        assertEquals(280_000_000L to 80_000_000L, state.chosen.need to smaller.need)
        app.load(smaller)
        Installation.settle()
        assertIs<ModelState.Ready>(app.state)
        memory(1L shl 30, low = true)
        assertNotNull(assertIs<ModelState.LowMemory>(load()).smaller)
        memory(1L shl 30)
        assertIs<ModelState.Ready>(load())
    }

    @Test
    fun `a second bundle with fewer bits is offered, unless it is broken`() {
        Installation.install(name = "s2", bytes = 70_000_000)
        Installation.install(name = "s2-small", bytes = 20_000_000)
        memory(100_000_000)
        val state = assertIs<ModelState.LowMemory>(load())
        assertEquals("s2" to "s2-small", state.chosen.name to state.smaller?.name)
        app.load(state.smaller)
        Installation.settle()
        val engine = assertIs<ModelState.Ready>(app.state).engine
        assertEquals("s2-small", engine.bundle.folder.name)
        Installation.install(from = "missing", name = "s2-small", bytes = 20_000_000)
        assertNull(assertIs<ModelState.LowMemory>(load()).smaller)
    }

    @Test
    fun `where there is no smaller form that is said`() {
        Installation.install(bytes = 140_000_000)
        memory(100_000_000)
        assertNull(assertIs<ModelState.LowMemory>(load()).smaller)
    }
}
