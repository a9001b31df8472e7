package org.mobileclip.kit

/** Where photos come from and what makes embeddings of them. */
interface PhotoSource {
    /** All photos, the newest first. */
    fun list(): List<PhotoKey>

    /**
     * The embedding of a photo.
     *
     * @throws PictureException it cannot be read; it is left out and counted.
     */
    fun embed(key: PhotoKey): FloatArray
}

/** How far indexing is. */
data class IndexingProgress(val done: Int, val total: Int, val unreadable: Int)

/**
 * Brings an index up to date with a library: new and changed photos are embedded, newest first,
 * each written at once, so that it may be stopped after any photo and goes on there. Photos that
 * cannot be read are counted and tried again next time.
 */
class PhotoIndexing(private val source: PhotoSource) {
    /** What embeddings are written to: an `IndexFile`, or one behind a lock. */
    interface Store {
        /** Whether the photo is in it as it is now. */
        fun holds(key: PhotoKey): Boolean

        /** Written when it returns. */
        fun add(key: PhotoKey, embedding: FloatArray)
    }

    /** Embeds what is missing until `stopped`; returns where it is then. */
    fun run(
        file: Store,
        stopped: () -> Boolean,
        progress: (IndexingProgress) -> Unit,
    ): IndexingProgress {
        val photos = source.list()
        val missing = photos.filterNot(file::holds)
        var state = IndexingProgress(photos.size - missing.size, photos.size, 0)
        progress(state)
        for (photo in missing) {
            if (stopped()) break
            state =
                try {
                    file.add(photo, source.embed(photo))
                    state.copy(done = state.done + 1)
                } catch (_: PictureException) {
                    state.copy(unreadable = state.unreadable + 1)
                }
            progress(state)
        }
        return state
    }
}
