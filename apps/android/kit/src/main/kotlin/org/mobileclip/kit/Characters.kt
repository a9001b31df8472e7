package org.mobileclip.kit

/**
 * Unicode as the reference (Python and its `regex` package) sees it, from `Character`'s tables
 * alone: `java.util.regex` is ICU on a phone and something else on a JVM. Characters younger than
 * the platform's Unicode are no letters here; that is 13 on Java 17 and Android 11.
 */
internal object Characters {
    fun isLetter(code: Int): Boolean =
        when (Character.getType(code).toByte()) {
            Character.UPPERCASE_LETTER,
            Character.LOWERCASE_LETTER,
            Character.TITLECASE_LETTER,
            Character.MODIFIER_LETTER,
            Character.OTHER_LETTER -> true
            else -> false
        }

    fun isNumber(code: Int): Boolean =
        when (Character.getType(code).toByte()) {
            Character.DECIMAL_DIGIT_NUMBER,
            Character.LETTER_NUMBER,
            Character.OTHER_NUMBER -> true
            else -> false
        }

    /** Python's `str.lower`: full mappings, a final sigma by its neighbours, no language. */
    fun lower(text: String): String {
        if (text.all { it < '\u0080' && it !in 'A'..'Z' }) return text
        val out = StringBuilder(text.length + 2)
        var at = 0
        while (at < text.length) {
            val code = text.codePointAt(at)
            when (code) {
                SIGMA -> out.append(if (isFinal(text, at)) '\u03c2' else '\u03c3')
                DOTTED_I -> out.append("i\u0307")
                else -> out.appendCodePoint(Character.toLowerCase(code))
            }
            at += Character.charCount(code)
        }
        return out.toString()
    }

    /**
     * Whether the sigma at `at` ends a word: a cased letter is before it and none behind, over what
     * is ignored.
     */
    private fun isFinal(text: String, at: Int): Boolean {
        var before = at
        while (before > 0) {
            val code = text.codePointBefore(before)
            if (!isIgnored(code)) break
            before -= Character.charCount(code)
        }
        if (before == 0 || !isCased(text.codePointBefore(before))) return false
        var behind = at + 1
        while (behind < text.length) {
            val code = text.codePointAt(behind)
            if (!isIgnored(code)) return !isCased(code)
            behind += Character.charCount(code)
        }
        return true
    }

    private fun isCased(code: Int) =
        Character.isLowerCase(code) || Character.isUpperCase(code) || Character.isTitleCase(code)

    /** Case_Ignorable: The Unicode Standard, section 3.13, D136. */
    private fun isIgnored(code: Int): Boolean =
        when (Character.getType(code).toByte()) {
            Character.NON_SPACING_MARK,
            Character.ENCLOSING_MARK,
            Character.FORMAT,
            Character.MODIFIER_LETTER,
            Character.MODIFIER_SYMBOL -> true
            else -> code < 0x10000 && code.toChar() in INSIDE_WORDS
        }

    private const val SIGMA = 0x3a3
    private const val DOTTED_I = 0x130
    // Word_Break=MidLetter, MidNumLet and Single_Quote
    private const val INSIDE_WORDS =
        "'.:\u00b7\u0387\u055f\u05f4\u2018\u2019\u2024\u2027\ufe13\ufe52\ufe55\uff07\uff0e\uff1a"
}
