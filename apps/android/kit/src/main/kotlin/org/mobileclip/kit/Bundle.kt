package org.mobileclip.kit

import java.io.File
import java.io.IOException
import java.security.MessageDigest

/**
 * A folder of artifacts and its manifest, checked: what `mobileclip export` wrote, nothing missing
 * or changed.
 *
 *     val bundle = Bundle.open(folder, tokenizer.sha256)
 *     val artifact = bundle.artifact("image", "executorch-xnnpack")
 */
class Bundle private constructor(val folder: File, val manifest: Manifest) {
    /** Names of the classes, prompts' template, colours. */
    val labels: Labels = Labels.read(read(manifest.labels))

    /**
     * The artifact of a view for a target.
     *
     * @param least the smallest file of several, for phones with little memory.
     * @throws BundleException there is none.
     */
    fun artifact(view: String, target: String, least: Boolean = false): Artifact {
        val ofView = manifest.artifacts.filter { it.view == view }
        val found = ofView.filter { it.target == target }
        return (if (least) found.minByOrNull { it.bytes } else found.firstOrNull())
            ?: throw BundleException(
                "This model has no $view part for $target " +
                    "(it has ${ofView.map { it.target }.distinct().sorted().joinToString(", ").ifEmpty { "none" }}). " +
                    "Export it with --to $target.",
                "target",
            )
    }

    /**
     * The known input and outputs of an artifact; of what is quantised the outputs of its own
     * integers.
     */
    fun knownAnswer(artifact: Artifact): KnownAnswer {
        val files =
            manifest.knownAnswers[artifact.view]
                ?: throw BundleException(
                    "This model has no known answer for its ${artifact.view} part, so nothing proves it right. Export it again.",
                    "incomplete",
                )
        return KnownAnswer(tensor(files.input), (artifact.ownAnswer ?: files.outputs).map(::tensor))
    }

    /** A file of the bundle, which must lie inside of it. */
    fun file(name: String): File = inside(folder, name)

    /** Content of one of the bundle's small files. */
    fun read(name: String): ByteArray =
        file(name).let { file ->
            if (file.length() > MAX_READ) throw incomplete()
            file.readBytes()
        }

    private fun tensor(entry: ArrayFile): Tensor =
        tensorOf(read(entry.file), entry.dtype, entry.shape) ?: throw incomplete()

    companion object {
        /** Version of manifests that is read. */
        const val SCHEMA_VERSION = 1L
        private const val MAX_MANIFEST = 8L shl 20
        private const val MAX_READ = 512L shl 20

        /**
         * Read and check a bundle.
         *
         * @param tokenizer SHA-256 of the merges that texts will be read with.
         * @param hashes whether every file is compared with its SHA-256, which takes about a second
         *   for 100 MB on a phone.
         * @throws BundleException one sentence that says what is wrong and what to do.
         */
        fun open(folder: File, tokenizer: String, hashes: Boolean = true): Bundle =
            try {
                val manifest = manifest(folder)
                val listed =
                    manifest.artifacts.map { it.file to it.sha256 } +
                        manifest.files.toSortedMap().toList()
                for ((name, expected) in listed) {
                    val file = inside(folder, name)
                    if (!file.exists()) {
                        throw BundleException(
                            "The model is incomplete: $name is missing. Install the bundle again.",
                            "missing",
                        )
                    }
                    if (hashes && sha256(file) != expected) {
                        throw BundleException(
                            "The model is damaged: $name is not the file that was exported. Install the bundle again.",
                            "changed",
                        )
                    }
                }
                if (manifest.tokenizer != null && manifest.tokenizer != tokenizer) {
                    throw BundleException(
                        "This model was made for another tokenizer: its texts would be misread. Export it again with this version.",
                        "tokenizer",
                    )
                }
                Bundle(folder, manifest)
            } catch (error: IOException) {
                throw BundleException(
                    "The model cannot be read (${error.message}). Install the bundle again.",
                    "unreadable",
                    error,
                )
            }

        private fun manifest(folder: File): Manifest {
            val file = File(folder, "manifest.json")
            if (!file.isFile) {
                throw BundleException(
                    "There is no model here: manifest.json is missing. Install a bundle that `mobileclip export` made.",
                    "no_manifest",
                )
            }
            val whole =
                try {
                    (if (file.length() > MAX_MANIFEST) null else Json.parse(file.readText()))
                        as? Map<*, *>
                } catch (_: JsonException) {
                    null
                }
            val version =
                whole?.get("schema") as? Long
                    ?: throw BundleException(
                        "The model's manifest.json cannot be read: it is not JSON. Install the bundle again.",
                        "not_json",
                    )
            if (version != SCHEMA_VERSION) throw otherVersion(version)
            return Manifest(Fields(whole))
        }

        private fun otherVersion(version: Long): BundleException {
            return if (version > SCHEMA_VERSION) {
                BundleException(
                    "This model was made for a newer app (manifest version $version, this app reads $SCHEMA_VERSION). " +
                        "Update the app, or export the model again.",
                    "newer",
                )
            } else {
                BundleException(
                    "This model's manifest is of version $version, this app reads $SCHEMA_VERSION. Export the model again.",
                    "older",
                )
            }
        }

        private fun inside(folder: File, name: String): File {
            val file = File(folder, name)
            val escapes =
                name.isEmpty() ||
                    name.startsWith("/") ||
                    '\u0000' in name ||
                    ".." in name.split('/', '\\')
            if (escapes || !file.canonicalFile.startsWith(folder.canonicalFile)) {
                throw BundleException(
                    "The model's manifest names a file outside of its folder ($name). Do not use this bundle.",
                    "outside",
                )
            }
            return file
        }

        private fun incomplete() = Fields(emptyMap<String, Any?>()).incomplete()

        /**
         * Of a file; or of a folder: of its sorted relative paths and their files' hashes, as the
         * exporter has it.
         */
        fun sha256(file: File): String {
            val digest = MessageDigest.getInstance("SHA-256")
            if (file.isDirectory) {
                val parts =
                    file
                        .walkTopDown()
                        .filter { it.isFile }
                        .map { it.relativeTo(file).invariantSeparatorsPath to it }
                for ((name, part) in
                    parts.sortedWith { a, b ->
                        compareParts(a.first.split('/'), b.first.split('/'))
                    }) {
                    digest.update("$name\u0000${sha256(part)}\n".toByteArray())
                }
            } else {
                file.inputStream().use { input ->
                    val buffer = ByteArray(1 shl 16)
                    while (true) {
                        val count = input.read(buffer)
                        if (count < 0) break
                        digest.update(buffer, 0, count)
                    }
                }
            }
            return digest.digest().joinToString("") { "%02x".format(it) }
        }

        /** Python's order of paths: by folder names, one after another. */
        private fun compareParts(a: List<String>, b: List<String>): Int {
            for (i in 0 until minOf(a.size, b.size)) a[i].compareTo(b[i]).let {
                if (it != 0) return it
            }
            return a.size - b.size
        }
    }
}

/** A known input and the outputs that belong to it. */
class KnownAnswer(val input: Tensor, val outputs: List<Tensor>)

/** labels.json: names, the template of their prompts, and colours of a dense bundle's classes. */
class Labels(val names: List<String>, val template: String, val palette: List<Int>?) {
    internal companion object {
        const val TEMPLATE = "a photo of a {}"

        fun read(bytes: ByteArray): Labels {
            val whole =
                try {
                    Json.parse(bytes.toString(Charsets.UTF_8))
                } catch (_: JsonException) {
                    null
                }
            val names = (if (whole is Map<*, *>) whole["labels"] else whole) as? List<*>
            val about = whole as? Map<*, *> ?: emptyMap<String, Any?>()
            if (names == null || names.any { it !is String })
                throw Fields(emptyMap<String, Any?>()).incomplete()
            val palette =
                (about["palette"] as? List<*>)?.map { colour ->
                    val (r, g, b) = (colour as List<*>).map { (it as Long).toInt() }
                    -0x1000000 or (r shl 16) or (g shl 8) or b
                }
            return Labels(
                names.map { it as String },
                about["template"] as? String ?: TEMPLATE,
                palette,
            )
        }
    }
}
