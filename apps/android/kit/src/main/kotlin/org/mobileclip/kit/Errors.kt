package org.mobileclip.kit

/**
 * What a user can cause or meet: `message` is one sentence that a screen shows as it is. What only
 * the kit itself can cause is a `check` or a `require`.
 */
sealed class KitException(message: String, cause: Throwable? = null) : Exception(message, cause)

/**
 * A bundle that cannot be used. `code` is one of no_manifest, not_json, newer, older, incomplete,
 * missing, changed, outside, tokenizer, target, unreadable.
 */
class BundleException(message: String, val code: String, cause: Throwable? = null) :
    KitException(message, cause)

/** A picture that cannot be used: no pixels, too many of them, or not a picture at all. */
class PictureException(message: String, cause: Throwable? = null) : KitException(message, cause)

/** Text that is not JSON. */
class JsonException(message: String) : KitException(message)

/** Embeddings that cannot be compared: not finite, or of another width. */
class EmbeddingException(message: String) : KitException(message)

/** An index file of another model, another version, or damaged. */
class IndexException(message: String, cause: Throwable? = null) : KitException(message, cause)

/** A measurement that cannot be made. */
class ProtocolException(message: String, cause: Throwable? = null) : KitException(message, cause)

/** An artifact that the runtime cannot load or run here. */
class RunnerException(message: String, cause: Throwable? = null) : KitException(message, cause)
