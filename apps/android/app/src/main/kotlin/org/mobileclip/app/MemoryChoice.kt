package org.mobileclip.app

import org.mobileclip.kit.Bundle

/**
 * Which form of a model is used where memory is short: a bundle may hold a second one with fewer
 * bits.
 */
enum class MemoryChoice {
    /** There is enough. */
    ENOUGH,

    /** The smaller form is offered. */
    OFFER,

    /** There is none. */
    NONE;

    companion object {
        /** Twice the artifacts' bytes: weights as the runtime packs them, and activations. */
        fun need(bundle: Bundle, small: Boolean): Long =
            2 *
                bundle.manifest.artifacts
                    .filter { it.target == Engine.TARGET }
                    .groupBy { it.view }
                    .values
                    .sumOf { forms -> if (small) forms.minOf { it.bytes } else forms.first().bytes }

        /** `left` bytes, and whether the system says that memory is low. */
        fun of(bundle: Bundle, left: Long, low: Boolean): MemoryChoice =
            when {
                !low && left >= need(bundle, small = false) -> ENOUGH
                need(bundle, small = true) < need(bundle, small = false) -> OFFER
                else -> NONE
            }
    }
}
