package org.mobileclip.kit

/**
 * JSON in and out, as the manifests and results need it: objects are maps in their order, numbers
 * are Long where they are whole and fit, else Double. Foreign text is bounded in depth; a repeated
 * name keeps its last value, as in Python. Source: RFC 8259.
 */
object Json {
    /** Deepest nesting that is read. */
    const val MAX_DEPTH = 100

    /**
     * Text -> Map, List, String, Long, Double, Boolean or null.
     *
     * @throws JsonException with the place where it is not JSON.
     */
    fun parse(text: String): Any? = Parser(text).whole()

    /**
     * A value as `parse` gives it (any Number, any Map or Collection, float and double arrays) ->
     * JSON text.
     */
    fun write(value: Any?, indent: Int = 0): String =
        StringBuilder().also { Writer(it, indent).put(value, 0) }.toString()

    private class Parser(private val text: String) {
        private var at = 0

        fun whole(): Any? {
            val value = value(0)
            space()
            if (at < text.length) fail("something follows the value")
            return value
        }

        private fun value(depth: Int): Any? {
            if (depth > MAX_DEPTH) fail("it is nested deeper than $MAX_DEPTH")
            space()
            if (at >= text.length) fail("it ends too early")
            return when (val char = text[at]) {
                '{' -> members(depth)
                '[' -> elements(depth)
                '"' -> string()
                't' -> word("true", true)
                'f' -> word("false", false)
                'n' -> word("null", null)
                else ->
                    if (char == '-' || char in '0'..'9') number()
                    else fail("'$char' begins no value")
            }
        }

        private fun members(depth: Int): Map<String, Any?> {
            val out = LinkedHashMap<String, Any?>()
            at++
            space()
            if (take('}')) return out
            while (true) {
                space()
                if (at >= text.length || text[at] != '"') fail("a name in quotes is missing")
                val name = string()
                space()
                if (!take(':')) fail("':' is missing")
                out[name] = value(depth + 1)
                space()
                if (take('}')) return out
                if (!take(',')) fail("',' or '}' is missing")
            }
        }

        private fun elements(depth: Int): List<Any?> {
            val out = ArrayList<Any?>()
            at++
            space()
            if (take(']')) return out
            while (true) {
                out.add(value(depth + 1))
                space()
                if (take(']')) return out
                if (!take(',')) fail("',' or ']' is missing")
            }
        }

        private fun string(): String {
            val start = ++at
            var plain = at
            while (
                plain < text.length &&
                    text[plain] != '"' &&
                    text[plain] != '\\' &&
                    text[plain] >= ' '
            ) plain++
            if (plain < text.length && text[plain] == '"') {
                at = plain + 1
                return text.substring(start, plain)
            }
            val out = StringBuilder(text.substring(start, plain))
            at = plain
            while (at < text.length) {
                val char = text[at++]
                when {
                    char == '"' -> return out.toString()
                    char < ' ' -> fail("a control character is in a string")
                    char == '\\' -> out.append(escaped())
                    else -> out.append(char)
                }
            }
            fail("a string has no end")
        }

        private fun escaped(): Char {
            if (at >= text.length) fail("a string has no end")
            return when (val char = text[at++]) {
                '"',
                '\\',
                '/' -> char
                'b' -> '\b'
                'f' -> '\u000c'
                'n' -> '\n'
                'r' -> '\r'
                't' -> '\t'
                'u' -> {
                    val code = if (at + 4 <= text.length) hex(text.substring(at, at + 4)) else null
                    at += 4
                    code?.toChar() ?: fail("\\u needs four hexadecimal digits")
                }
                else -> fail("'\\$char' is no escape")
            }
        }

        private fun hex(digits: String): Int? =
            if (digits.all { it in '0'..'9' || it in 'a'..'f' || it in 'A'..'F' }) digits.toInt(16)
            else null

        private fun number(): Any {
            val start = at
            take('-')
            if (!take('0') && !digits()) fail("a number has no digits")
            var whole = true
            if (take('.')) {
                whole = false
                if (!digits()) fail("a number has no digits behind the point")
            }
            if (take('e') || take('E')) {
                whole = false
                if (!take('+')) take('-')
                if (!digits()) fail("a number has no digits in its exponent")
            }
            val token = text.substring(start, at)
            return (if (whole) token.toLongOrNull() else null) ?: token.toDouble()
        }

        private fun digits(): Boolean {
            val start = at
            while (at < text.length && text[at] in '0'..'9') at++
            return at > start
        }

        private fun <T> word(word: String, value: T): T {
            if (!text.startsWith(word, at)) fail("'${text[at]}' begins no value")
            at += word.length
            return value
        }

        private fun space() {
            while (
                at < text.length &&
                    (text[at] == ' ' || text[at] == '\n' || text[at] == '\r' || text[at] == '\t')
            ) at++
        }

        private fun take(char: Char): Boolean =
            (at < text.length && text[at] == char).also { if (it) at++ }

        private fun fail(what: String): Nothing =
            throw JsonException("This is not JSON: $what (at character $at).")
    }

    private class Writer(private val out: StringBuilder, private val indent: Int) {
        fun put(value: Any?, depth: Int) {
            when (value) {
                null -> out.append("null")
                is String -> quote(value)
                is Boolean -> out.append(value)
                is Float -> put(value.toString().toDouble(), depth)
                is Double -> {
                    require(value.isFinite()) { "JSON has no $value" }
                    out.append(
                        if (value == Math.rint(value) && Math.abs(value) < 1e15)
                            value.toLong().toString()
                        else value
                    )
                }
                is Number -> out.append(value)
                is Map<*, *> ->
                    row('{', '}', value.entries, depth) { (name, item) ->
                        quote(name as String)
                        out.append(": ")
                        put(item, depth + 1)
                    }
                is Collection<*> -> row('[', ']', value, depth) { put(it, depth + 1) }
                is DoubleArray -> put(value.asList(), depth)
                is FloatArray -> put(value.asList(), depth)
                is LongArray -> put(value.asList(), depth)
                is IntArray -> put(value.asList(), depth)
                else -> throw IllegalArgumentException("JSON has no ${value.javaClass.simpleName}")
            }
        }

        private fun <T> row(
            open: Char,
            close: Char,
            items: Collection<T>,
            depth: Int,
            item: (T) -> Unit,
        ) {
            val broken =
                indent > 0 &&
                    items.any { it is Map<*, *> || it is Collection<*> || it is Map.Entry<*, *> }
            out.append(open)
            items.forEachIndexed { index, each ->
                if (index > 0) out.append(if (broken) "," else ", ")
                if (broken) line(depth + 1)
                item(each)
            }
            if (broken) line(depth)
            out.append(close)
        }

        private fun line(depth: Int) {
            out.append('\n')
            repeat(indent * depth) { out.append(' ') }
        }

        private fun quote(text: String) {
            out.append('"')
            for (char in text) {
                when {
                    char == '"' || char == '\\' -> out.append('\\').append(char)
                    char == '\n' -> out.append("\\n")
                    char < ' ' ||
                        char in '\u007f'..'\u009f' ||
                        char.isSurrogate() ||
                        char == '\u2028' ||
                        char == '\u2029' ->
                        out.append("\\u").append(char.code.toString(16).padStart(4, '0'))
                    else -> out.append(char)
                }
            }
            out.append('"')
        }
    }
}
