package org.mobileclip.kit

import java.text.Normalizer

/**
 * Text as the reference cleans it before it looks for words: ftfy's `fix_text` and two passes of
 * HTML's `unescape`. Left out is the repair of mojibake, which nobody types. The tables (entities,
 * ligatures, widths, quotes, spaces) are those of `cleaning.json`.
 *
 * Source: ftfy 6.3 (`fix_and_explain`), Python's `html.unescape`.
 */
internal class Cleaning(tables: Map<*, *>) {
    private val entities = strings(tables["entities"])
    private val capitals = strings(tables["capitals"])
    private val numeric = strings(tables["numeric"]).mapKeys { it.key.toInt() }
    private val removedNumeric = integers(tables["removed_numeric"]).toHashSet()
    private val characters = arrayOfNulls<String>(0x10000)
    private val removed = integers(tables["removed"]).toHashSet()
    private val spaces = integers(tables["spaces"]).toHashSet()

    init {
        strings(tables["characters"]).forEach { (code, text) -> characters[code.toInt()] = text }
    }

    /** What is between spaces after cleaning, not yet in lower case. */
    fun chunks(text: String): List<String> {
        if (isPlain(text)) return split(text)
        val out = ArrayList<String>()
        var unescapes =
            true // ftfy goes by lines; all that one does to the next is that a '<' turns its
                 // entities off
        var start = 0
        while (start < text.length) {
            val newline = text.indexOf('\n', start)
            val end = if (newline < 0) text.length else newline + 1
            val line = text.substring(start, end)
            unescapes = unescapes && '<' !in line
            out += split(unescape(unescape(fix(line, unescapes))))
            start = end
        }
        return out
    }

    /** Spaces and printable ASCII without '&', which cleaning would not change. */
    private fun isPlain(text: String) =
        text.all {
            it in ' '..'~' && it != '&' || it == '\t' || it == '\n' || it == '\u000c' || it == '\r'
        }

    private fun split(text: String): List<String> {
        val out = ArrayList<String>()
        var start = -1
        for (at in 0..text.length) {
            val space =
                at == text.length ||
                    text[at] == ' ' ||
                    (text[at] < '!' || text[at] > '~') && text[at].code in spaces
            if (space && start >= 0) out.add(text.substring(start, at))
            start = if (space) -1 else if (start < 0) at else start
        }
        return out
    }

    /** Until nothing changes; in long lines at most so often that the time is bounded. */
    private fun fix(line: String, unescapes: Boolean): String {
        var text = line
        repeat(if (line.length <= SHORT) Int.MAX_VALUE else 8 + PASSES / line.length) {
            val before = text
            if (unescapes) text = named(text)
            text = single(text)
            text = TERMINAL.replace(surrogates(lines(text)), "")
            text = normal(text.filterNot { it.code in removed })
            if (text == before) return text
        }
        return text
    }

    /** Entities that end in a semicolon, among them those in capitals. */
    private fun named(text: String): String {
        if ('&' !in text) return text
        return ENTITY.replace(text) { match ->
            val name = match.value.substring(1)
            when {
                name.startsWith("#") ->
                    unescape(match.value).let { if (';' in it) match.value else it }
                else -> entities[name] ?: capitals[name] ?: match.value
            }
        }
    }

    /** C1 controls, ligatures, halves and full widths, curled quotes. */
    private fun single(text: String): String {
        if (text.none { characters[it.code] != null }) return text
        return buildString(text.length + 8) {
            text.forEach { append(characters[it.code] ?: it.toString()) }
        }
    }

    private fun lines(text: String) =
        text
            .replace("\r\n", "\n")
            .replace('\r', '\n')
            .replace('\u2028', '\n')
            .replace('\u2029', '\n')
            .replace('\u0085', '\n')

    private fun surrogates(text: String): String {
        if (text.none(Char::isSurrogate)) return text
        val out = StringBuilder(text)
        for (at in out.indices) {
            val paired =
                when {
                    out[at].isHighSurrogate() -> at + 1 < out.length && out[at + 1].isLowSurrogate()
                    out[at].isLowSurrogate() -> at > 0 && out[at - 1].isHighSurrogate()
                    else -> true
                }
            if (!paired) out.setCharAt(at, '\ufffd')
        }
        return out.toString()
    }

    private fun normal(text: String): String =
        if (text.all { it < '\u0300' }) text else Normalizer.normalize(text, Normalizer.Form.NFC)

    /** HTML 5's rules for references, with or without a semicolon. */
    private fun unescape(text: String): String {
        if ('&' !in text) return text
        return REFERENCE.replace(text) { match ->
            val name = match.value.substring(1)
            if (name.startsWith("#")) number(name)
            else entities[name] ?: longest(name) ?: match.value
        }
    }

    private fun longest(name: String): String? {
        for (end in name.length - 1 downTo 2) entities[name.substring(0, end)]?.let {
            return it + name.substring(end)
        }
        return null
    }

    private fun number(reference: String): String {
        val hex = reference[1] == 'x' || reference[1] == 'X'
        val digits =
            reference.substring(if (hex) 2 else 1).removeSuffix(";").trimStart('0').ifEmpty { "0" }
        val code =
            if (digits.length > 8) Int.MAX_VALUE
            else digits.toLong(if (hex) 16 else 10).coerceAtMost(1L shl 30).toInt()
        return when {
            code in numeric -> numeric.getValue(code)
            code in 0xd800..0xdfff || code > 0x10ffff -> "\ufffd"
            code in removedNumeric -> ""
            else -> String(Character.toChars(code))
        }
    }

    private companion object {
        const val SHORT = 2_000
        const val PASSES = 1_000_000
        val ENTITY = Regex("&#?[0-9A-Za-z]{1,24};")
        val REFERENCE = Regex("&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\\t\\n\\u000c <&#;]{1,32};?)")
        val TERMINAL = Regex("\u001b\\[[0-9;]*[a-zA-Z]")

        fun strings(table: Any?): Map<String, String> =
            (table as Map<*, *>).entries.associate { (key, value) ->
                key as String to value as String
            }

        fun integers(list: Any?): List<Int> = (list as List<*>).map { (it as Long).toInt() }
    }
}
