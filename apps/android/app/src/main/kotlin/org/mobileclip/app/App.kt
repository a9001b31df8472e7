package org.mobileclip.app

import android.app.ActivityManager
import android.app.Application
import android.os.Build
import android.os.Handler
import android.os.Looper
import java.io.File
import java.util.concurrent.ExecutorService
import java.util.concurrent.Executors
import org.mobileclip.kit.BundleException
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

    /** Memory is short: `smaller` is offered, where there is one. */
    data class LowMemory(val chosen: Form, val smaller: Form?, val left: Long) : ModelState
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

    /** Reads the first bundle and looks at the memory; or what the user chose. */
    fun load(chosen: Form? = null) {
        (state as? ModelState.Ready)?.engine?.let { old -> worker.execute { old.close() } }
        set(ModelState.Loading(testing = false))
        worker.execute { post(read(chosen)) }
    }

    private fun read(chosen: Form?): ModelState =
        try {
            val names = store.names()
            val form = chosen ?: names.firstOrNull()?.let(::form) ?: throw none()
            val memory = memory()
            if (chosen != null || MemoryChoice.isEnough(form, memory.availMem, memory.lowMemory)) {
                tested(form)
            } else {
                val others = names.mapNotNull(::usable)
                ModelState.LowMemory(form, MemoryChoice.smaller(form, others), memory.availMem)
            }
        } catch (error: KitException) {
            ModelState.Problem(error.message.orEmpty())
        }

    private fun form(name: String) = Form(name, store.open(name, tokenizer.sha256))

    /** null of a bundle that is broken: it is not offered. */
    private fun usable(name: String): Form? =
        try {
            form(name)
        } catch (_: BundleException) {
            null
        }

    private fun none() =
        BundleException(getString(R.string.no_bundle, store.folder.path), "no_manifest")

    /** The known answers are compared once for each model, version of the app and system. */
    private fun tested(form: Form): ModelState {
        val bundle = form.bundle
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
        val engine = Engine(bundle, tokenizer, loader, form.small)
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
