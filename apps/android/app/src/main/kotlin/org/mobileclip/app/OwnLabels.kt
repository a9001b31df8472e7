package org.mobileclip.app

import android.content.Context

/**
 * The labels that the camera's picture is compared with: the model's until the user wrote others.
 */
class OwnLabels(context: Context) {
    private val kept = context.getSharedPreferences("labels", Context.MODE_PRIVATE)

    fun read(model: List<String>): List<String> =
        kept.getString(KEY, null)?.let(::lines)?.takeIf { it.isNotEmpty() } ?: model

    fun write(text: String) = kept.edit().putString(KEY, text).apply()

    fun reset() = kept.edit().remove(KEY).apply()

    companion object {
        private const val KEY = "labels"

        /** Most labels, and most characters of one: more is neither read nor typed. */
        const val MOST = 200
        const val LONGEST = 1000

        /** One label a line, without empty ones and doubles. */
        fun lines(text: String): List<String> =
            text
                .lines()
                .map { it.trim().take(LONGEST) }
                .filter { it.isNotEmpty() }
                .distinct()
                .take(MOST)
    }
}
