package org.mobileclip.kit

/** What a bundle's manifest.json says, as far as an app needs it. Reading it is `Bundle.open`'s. */
class Manifest internal constructor(root: Fields) {
    /** Name of the model. */
    val model: String = root.child("model").text("name")

    /** Of the checkpoint, where it is known; an index made with another one is useless. */
    val checkpoint: String? = root.child("model").child("checkpoint").optionalText("sha256")

    /** Whether the weights may only be used for research. */
    val researchOnly: Boolean = root.child("model").child("checkpoint").flag("research_only")

    /** Width of embeddings; null of a bundle that has none. */
    val embedDim: Int? = root.child("model").optionalNumber("embed_dim")?.toInt()

    /** Factor on cosines before the softmax. */
    val logitScale: Double? = root.child("model").optionalNumber("logit_scale")

    /** SHA-256 of the merges; null of a bundle without texts. */
    val tokenizer: String? = root.optionalChild("tokenizer")?.text("sha256")

    /** Tokens a row. */
    val context: Int = root.optionalChild("tokenizer")?.whole("context") ?: Tokenizer.CONTEXT

    /** File with the labels. */
    val labels: String = root.text("labels")

    /** What there is to run. */
    val artifacts: List<Artifact> =
        root.children("artifacts").map(::Artifact).ifEmpty { throw root.incomplete() }

    /** Every other file and its SHA-256. */
    val files: Map<String, String> =
        root.child("files").let { files -> files.names().associateWith(files::hash) }

    /** View -> its known input and outputs. */
    val knownAnswers: Map<String, KnownAnswerFiles> =
        root.child("known_answer").let { all ->
            all.names().associateWith { KnownAnswerFiles(all.child(it)) }
        }

    /** How a picture enters dense artifacts, and their heads; null where there are none. */
    val dense: DenseRules? = root.optionalChild("dense")?.let(::DenseRules)

    init {
        listOf("created", "preset").forEach(root::text)
        listOf("generator", "recipe").forEach(root::child)
    }
}

/** A file that a runtime runs. */
class Artifact internal constructor(fields: Fields) {
    val file: String = fields.text("file")
    val sha256: String = fields.hash("sha256")
    val bytes: Long = fields.number("bytes").toLong()

    /** image, text, segmentation, depth, detection, multitask or dense. */
    val view: String = fields.text("view")

    /** As `mobileclip export --to` calls it: executorch-xnnpack, onnx, ... */
    val target: String = fields.text("target")
    val precision: String = fields.text("precision")
    val inputs: List<InputRule> =
        fields.children("inputs").map(::InputRule).ifEmpty { throw fields.incomplete() }
    val outputs: List<OutputRule> =
        fields.children("outputs").map(::OutputRule).ifEmpty { throw fields.incomplete() }

    /** What its outputs must reach against the known answer. */
    val gate: Gate =
        fields.child("gate").let {
            Gate(
                it.number("db"),
                it.number("cosine"),
                it.optionalNumber("equal") ?: 1.0,
                it.optionalNumber("found") ?: 1.0,
            )
        }

    /**
     * Known outputs of what is quantised, which are others than the model's in floats; null of
     * floats.
     */
    internal val ownAnswer: List<ArrayFile>? =
        fields.optionalChild("quantisation")?.child("known_answer")?.let(::outputsOf)
}

/** What an artifact takes. */
class InputRule internal constructor(fields: Fields) {
    val name: String = fields.text("name")
    val shape: IntArray = fields.shape("shape")

    /** float32, int32, int64 or image. */
    val dtype: String = fields.text("dtype")

    /** Factor on 0..255 of pixels. */
    val scale: Double = fields.optionalNumber("scale") ?: (1 / 255.0)

    /** The filter that the picture is resized with. */
    val resampling: Resampling =
        if ("bicubic" in fields.optionalText("resize").orEmpty()) Resampling.BICUBIC
        else Resampling.BILINEAR
}

/** What an artifact gives. */
class OutputRule internal constructor(fields: Fields) {
    val name: String = fields.text("name")
    val shape: IntArray = fields.shape("shape")

    /** In words; of an embedding of pictures it begins with `image embedding`. */
    val meaning: String = fields.text("meaning")

    /** How it is compared: equal, matched, or null for floats. */
    val compare: String? = fields.optionalText("compare")
}

/** An array of a known answer, in a file. */
class ArrayFile internal constructor(fields: Fields) {
    val file: String = fields.text("file")
    val dtype: String = fields.text("dtype")
    val shape: IntArray = fields.shape("shape")
}

/** Where the known input and outputs of a view lie. */
class KnownAnswerFiles internal constructor(fields: Fields) {
    val input = ArrayFile(fields.child("input"))
    val outputs: List<ArrayFile> = outputsOf(fields)

    /** The known input as a picture, of views that take one. */
    val picture: String? = fields.optionalText("picture")
}

private fun outputsOf(fields: Fields): List<ArrayFile> =
    listOf(ArrayFile(fields.child("output"))) + fields.optionalChildren("others").map(::ArrayFile)

/** How pictures enter dense artifacts, and what becomes of the outputs. */
class DenseRules internal constructor(fields: Fields) {
    private val input = fields.child("input")
    val size: Size = input.shape("size").let { Size(it[0], it[1]) }
    val letterbox: Boolean = input.text("resize") == "letterbox"
    val pad: Int = input.optionalNumber("pad")?.toInt() ?: 0
    val heads: List<HeadRule> = fields.children("heads").map(::HeadRule)
}

/** One head of a dense artifact. */
class HeadRule internal constructor(fields: Fields) {
    /** segmentation, detection or depth. */
    val task: String = fields.text("task")

    /** Names of the artifact's outputs that are this head's, in order. */
    val outputs: List<String> = fields.texts("outputs")
    private val after = fields.child("postprocess")

    /** objects (a static Mask R-CNN) or points (a one-stage head); null of other tasks. */
    val kind: String? = after.optionalText("kind")
    val threshold: Double = after.optionalNumber("score_threshold") ?: Detection.THRESHOLD
    val most: Int = after.optionalNumber("top_k")?.toInt() ?: Detection.MOST
    val overlap: Double? = after.optionalNumber("nms_iou")
}

/** A JSON object of the manifest whose fields must be there. */
internal class Fields(private val values: Map<*, *>) {
    fun incomplete() =
        BundleException(
            "The model's manifest.json does not say what this app needs. Export the model again.",
            "incomplete",
        )

    fun names(): List<String> = values.keys.map { it as String }

    fun text(name: String): String = values[name] as? String ?: throw incomplete()

    fun optionalText(name: String): String? =
        values[name]?.let { it as? String ?: throw incomplete() }

    fun number(name: String): Double = (values[name] as? Number)?.toDouble() ?: throw incomplete()

    fun optionalNumber(name: String): Double? = values[name]?.let { number(name) }

    fun whole(name: String): Int =
        (values[name] as? Long)?.takeIf { it in 0..Int.MAX_VALUE }?.toInt() ?: throw incomplete()

    fun flag(name: String): Boolean = values[name] as? Boolean ?: throw incomplete()

    fun hash(name: String): String = text(name).takeIf { HASH.matches(it) } ?: throw incomplete()

    fun child(name: String): Fields = Fields(values[name] as? Map<*, *> ?: throw incomplete())

    fun optionalChild(name: String): Fields? = values[name]?.let { child(name) }

    fun children(name: String): List<Fields> =
        (values[name] as? List<*> ?: throw incomplete()).map {
            Fields(it as? Map<*, *> ?: throw incomplete())
        }

    fun optionalChildren(name: String): List<Fields> =
        if (values[name] == null) emptyList() else children(name)

    fun texts(name: String): List<String> =
        (values[name] as? List<*> ?: throw incomplete()).map { it as? String ?: throw incomplete() }

    fun shape(name: String): IntArray {
        val sides =
            (values[name] as? List<*> ?: throw incomplete()).map {
                it as? Long ?: throw incomplete()
            }
        if (
            sides.any { it !in 1..MOST_SIDE } ||
                sides.fold(1.0) { product, side -> product * side } > MOST_VALUES
        ) {
            throw incomplete()
        }
        return IntArray(sides.size) { sides[it].toInt() }
    }

    private companion object {
        val HASH = Regex("[0-9a-f]{64}")
        const val MOST_SIDE = 1L shl 24
        const val MOST_VALUES = 5e8
    }
}
