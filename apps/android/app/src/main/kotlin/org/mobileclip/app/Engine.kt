package org.mobileclip.app

import java.io.Closeable
import org.mobileclip.kit.Artifact
import org.mobileclip.kit.Bundle
import org.mobileclip.kit.BundleException
import org.mobileclip.kit.DenseRules
import org.mobileclip.kit.Depth
import org.mobileclip.kit.DepthMap
import org.mobileclip.kit.DetectedObject
import org.mobileclip.kit.Detection
import org.mobileclip.kit.EmbeddingException
import org.mobileclip.kit.FloatTensor
import org.mobileclip.kit.HeadRule
import org.mobileclip.kit.IntTensor
import org.mobileclip.kit.LabelMap
import org.mobileclip.kit.Loader
import org.mobileclip.kit.Picture
import org.mobileclip.kit.Preprocessing
import org.mobileclip.kit.Runner
import org.mobileclip.kit.RunnerException
import org.mobileclip.kit.Segmentation
import org.mobileclip.kit.SelfTest
import org.mobileclip.kit.Size
import org.mobileclip.kit.Tensor
import org.mobileclip.kit.Tokenizer
import org.mobileclip.kit.ZeroShot

/**
 * A bundle at work: pictures and texts in, what screens show out. Artifacts are loaded when they
 * are first needed. Methods may be called from any thread, and run one after another.
 */
class Engine(
    val bundle: Bundle,
    private val tokenizer: Tokenizer,
    private val loader: Loader,
    /** Whether the artifacts of fewer bits are used, where there are two forms. */
    private val small: Boolean = false,
) : Closeable {
    private val runners = HashMap<String, Runner>()
    private val texts =
        object : LinkedHashMap<String, FloatArray>(16, 0.75f, true) {
            override fun removeEldestEntry(eldest: MutableMap.MutableEntry<String, FloatArray>) =
                size > CACHED
        }

    /** What embeds pictures: an image tower, or an artifact of several tasks that does that too. */
    private val embedding: Artifact? =
        if (artifactOf("image") != null) artifact("image")
        else artifacts().firstOrNull { it.embeddingPlace >= 0 }

    val embedsPictures: Boolean = embedding != null

    /** Whether it embeds pictures and texts. */
    val hasTowers: Boolean =
        bundle.manifest.logitScale != null && embedsPictures && artifactOf("text") != null

    /** Width of embeddings. */
    val width: Int
        get() = bundle.manifest.embedDim ?: 0

    /** What an index of photos belongs to. */
    val imageHash: String
        get() = (embedding ?: artifact("image")).sha256

    /** Tasks of the dense heads. */
    val tasks: List<String> =
        if (denseArtifact() == null) emptyList()
        else bundle.manifest.dense?.heads.orEmpty().map { it.task }

    /** What can be timed. */
    val artifacts: List<Artifact> = bundle.manifest.artifacts.filter { it.target == TARGET }

    /** The embedding of an upright picture. */
    @Synchronized
    fun embed(picture: Picture): FloatArray {
        val artifact = embedding ?: artifact("image")
        val rules = bundle.manifest.dense
        val input =
            if (artifact.view == "image" || rules == null) imageInput(artifact, picture)
            else denseInput(artifact, rules, picture)
        return floats(run(artifact, input)[maxOf(artifact.embeddingPlace, 0)])
    }

    /** The embedding of a text; those of the last texts are kept. */
    @Synchronized
    fun embed(text: String): FloatArray =
        texts.getOrPut(text) {
            val row =
                IntTensor(
                    intArrayOf(1, bundle.manifest.context),
                    tokenizer.row(text, bundle.manifest.context),
                )
            floats(run(artifact("text"), row).first())
        }

    /** Ranks pictures among labels, by the bundle's template. */
    fun zeroShot(labels: List<String>): ZeroShot {
        val scale =
            bundle.manifest.logitScale
                ?: throw EmbeddingException(
                    "This model has no scale for probabilities. Export it again."
                )
        return ZeroShot(labels.map { embed(ZeroShot.prompt(bundle.labels.template, it)) }, scale)
    }

    /** What the dense heads say about a picture, by task. */
    class Scene(val labels: LabelMap?, val depth: DepthMap?, val objects: List<DetectedObject>?)

    /** Runs the dense artifact once and finishes each of its heads. */
    @Synchronized
    fun scene(picture: Picture): Scene {
        val artifact =
            denseArtifact()
                ?: throw BundleException(
                    "This model has no dense part for $TARGET. Export one with dense heads.",
                    "target",
                )
        val rules = bundle.manifest.dense!!
        val outputs = run(artifact, denseInput(artifact, rules, picture))
        return finished(artifact, rules, outputs, Size(picture.height, picture.width))
    }

    /** A picture as the image tower takes it. */
    fun imageInput(artifact: Artifact, picture: Picture): FloatTensor {
        val input = artifact.inputs.single()
        return Preprocessing.tensor(
            Preprocessing.square(picture, input.shape.last(), input.resampling),
            input.scale.toFloat(),
        )
    }

    /** A picture as a dense artifact takes it. */
    fun denseInput(artifact: Artifact, rules: DenseRules, picture: Picture): FloatTensor {
        val (rows, columns) = rules.size
        val fitted =
            if (rules.letterbox) Preprocessing.letterbox(picture, rows, columns, rules.pad).picture
            else Preprocessing.stretch(picture, rows, columns)
        return Preprocessing.tensor(fitted, artifact.inputs.single().scale.toFloat())
    }

    /** Outputs of a dense artifact -> what is shown of a picture of `size`. */
    fun finished(artifact: Artifact, rules: DenseRules, outputs: List<Tensor>, size: Size): Scene {
        var labels: LabelMap? = null
        var depth: DepthMap? = null
        var objects: List<DetectedObject>? = null
        for (head in rules.heads) {
            val own = own(artifact, head, outputs) ?: continue
            when (head.task) {
                "segmentation" -> labels = Segmentation.labels(own.first(), size)
                "depth" -> depth = Depth.metres(own.first() as FloatTensor, size)
                else -> objects = Detection.objects(own, size, rules, head, threshold = SHOWN)
            }
        }
        return Scene(labels, depth, objects)
    }

    private fun own(artifact: Artifact, head: HeadRule, outputs: List<Tensor>): List<Tensor>? {
        val names = artifact.outputs.map { it.name }
        if (!names.containsAll(head.outputs) || outputs.size != names.size) return null
        return head.outputs.map {
            outputs[names.indexOf(it)].shaped(artifact.outputs[names.indexOf(it)].shape)
        }
    }

    /** Half of the memory is weights: the artifacts are loaded again when they are needed. */
    @Synchronized
    fun release() {
        runners.values.forEach(Runner::close)
        runners.clear()
    }

    override fun close() = release()

    fun denseArtifact(): Artifact? =
        if (bundle.manifest.dense == null) null
        else artifacts().firstOrNull { it.view !in TOWERS }?.let { artifact(it.view) }

    /** Which output is the embedding of a picture; -1 where none says so. */
    private val Artifact.embeddingPlace: Int
        get() = outputs.indexOfFirst { it.meaning.startsWith("image embedding") }

    private fun artifacts() = bundle.manifest.artifacts.filter { it.target == TARGET }

    private fun artifactOf(view: String) = artifacts().firstOrNull { it.view == view }

    private fun artifact(view: String) = bundle.artifact(view, TARGET, least = small)

    /** What a runtime throws becomes a sentence: a screen shows it, and the app goes on. */
    private fun run(artifact: Artifact, input: Tensor): List<Tensor> =
        try {
            runners
                .getOrPut(artifact.file) {
                    loader.load(artifact, bundle.file(artifact.file).path, 0)
                }
                .run(listOf(input))
        } catch (error: RuntimeException) {
            throw RunnerException(SelfTest.broken(artifact, error), error)
        }

    private fun floats(output: Tensor): FloatArray =
        (output as? FloatTensor)?.values
            ?: throw EmbeddingException("The model gave no embedding. Export it again.")

    private fun Tensor.shaped(shape: IntArray): Tensor =
        when (this) {
            is FloatTensor -> FloatTensor(shape, values)
            is IntTensor -> IntTensor(shape, values)
        }

    companion object {
        /** What this app runs. */
        const val TARGET = "executorch-xnnpack"

        /** Least score of an object that is shown. */
        const val SHOWN = 0.4
        private const val CACHED = 2000
        private val TOWERS = listOf("image", "text")
    }
}
