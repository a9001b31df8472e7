package org.mobileclip.app

import org.mobileclip.kit.Bundle

/** A bundle under the name that it is installed under, and which of its artifacts are used. */
class Form(
    val name: String,
    val bundle: Bundle,
    /** Whether of two artifacts of a view the smaller one is used. */
    val small: Boolean = false,
) {
    /** Twice the artifacts' bytes: weights as the runtime packs them, and activations. */
    val need: Long =
        2 *
            bundle.manifest.artifacts
                .filter { it.target == Engine.TARGET }
                .groupBy { it.view }
                .values
                .sumOf { all -> if (small) all.minOf { it.bytes } else all.first().bytes }
}

/** Which form of a model is used where memory is short. */
object MemoryChoice {
    /** Whether `left` bytes are enough, and the system does not say that memory is low. */
    fun isEnough(chosen: Form, left: Long, low: Boolean): Boolean = !low && left >= chosen.need

    /** The smallest form of the same model that needs less: in another bundle, or in its own. */
    fun smaller(chosen: Form, others: List<Form>): Form? {
        val model = chosen.bundle.manifest.model
        val forms = others.filter { it.bundle.manifest.model == model }
        return (forms + forms.map { Form(it.name, it.bundle, small = true) })
            .filter { it.need in 1 until chosen.need }
            .minByOrNull { it.need }
    }
}
