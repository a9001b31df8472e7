package org.mobileclip.app

import android.app.ActivityManager
import android.app.Application
import android.os.Build
import android.os.Handler
import android.os.Looper
import java.io.File
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors
import org.mobileclip.kit.Bundle
import org.mobileclip.kit.KitException
import org.mobileclip.kit.Loader
import org.mobileclip.kit.SelfTest
import org.mobileclip.kit.Tokenizer

/** What screens need to know about the model. */
sealed interface ModelState {
    /** Being read; `testing` while the known answers are compared. */
    data class Loading(val testing: Boolean) : ModelState

    data class Ready(val engine: Engine) : ModelState

    /** It cannot be used; the sentence says why. */
    data class Problem(val sentence: String) : ModelState

    /** Memory is short: the smaller form is offered, where there is one. */
    data class LowMemory(val bundle: Bundle, val offered: Boolean, val left: Long) : ModelState
}

/** Holds the model, and the one thread that it works on. */
class App : Application() {
    /** Everything slow; one thread, so that the model's memory exists once. */
    val worker: ExecutorService by lazy {
        Executors.newSingleThreadExecutor { Thread(it, "model") }
    }
    val tokenizer: Tokenizer by lazy { Tokenizer.load() }
    val store by lazy { BundleStore(this) }
    val library by lazy { PhotoLibrary(this) }

    /** Replaced by tests, which have no native code. */
    var loader: Loader = ExecuTorchLoader()

    /** Changes on the main thread only. */
    var state: ModelState = ModelState.Loading(testing = false)
        private set

    private val listeners = LinkedHashSet<(ModelState) -> Unit>()
    private val main = Handler(Looper.getMainLooper())

    fun listen(listener: (ModelState) -> Unit) {
        listeners.add(listener)
        listener(state)
    }

    fun forget(listener: (ModelState) -> Unit) {
        listeners.remove(listener)
    }

    /**
     * Reads the bundle; without a choice for its large or `small` form memory decides, and the
     * user.
     */
    fun load(small: Boolean? = null) {
        (state as? ModelState.Ready)?.engine?.let { old -> worker.execute { old.close() } }
        set(ModelState.Loading(testing = false))
        worker.execute { post(read(small)) }
    }

    private fun read(small: Boolean?): ModelState =
        try {
            val bundle = store.open(tokenizer.sha256)
            val memory = memory()
            val choice =
                if (small != null) MemoryChoice.ENOUGH
                else MemoryChoice.of(bundle, memory.availMem, memory.lowMemory)
            if (choice == MemoryChoice.ENOUGH) {
                tested(bundle, small ?: false)
            } else {
                ModelState.LowMemory(bundle, choice == MemoryChoice.OFFER, memory.availMem)
            }
        } catch (error: KitException) {
            ModelState.Problem(error.message.orEmpty())
        }

    /** The known answers are compared once for each model, version of the app and system. */
    private fun tested(bundle: Bundle, small: Boolean): ModelState {
        val stamp =
            "${Build.FINGERPRINT} ${packageManager.getPackageInfo(packageName, 0).lastUpdateTime} " +
                bundle.manifest.artifacts.joinToString(" ") { it.sha256 }
        val file = File(filesDir, "tested")
        if (!file.isFile || file.readText() != stamp) {
            post(ModelState.Loading(testing = true))
            val wrong = SelfTest(bundle, loader).run(Engine.TARGET).mapNotNull { it.problem }
            if (wrong.isNotEmpty()) return ModelState.Problem(wrong.first())
            file.writeText(stamp)
        }
        val engine = Engine(bundle, tokenizer, loader, small)
        if (engine.artifacts.isEmpty())
            bundle.artifact(
                bundle.manifest.artifacts.first().view,
                Engine.TARGET,
            ) // says what is there
        return ModelState.Ready(engine)
    }

    private fun memory() =
        ActivityManager.MemoryInfo().also { service<ActivityManager>().getMemoryInfo(it) }

    private fun post(next: ModelState) {
        main.post { set(next) }
    }

    private fun set(next: ModelState) {
        state = next
        listeners.toList().forEach { it(next) }
    }

    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        val engine = (state as? ModelState.Ready)?.engine ?: return
        if (level >= TRIM_MEMORY_BACKGROUND) worker.execute { engine.release() }
    }
}
