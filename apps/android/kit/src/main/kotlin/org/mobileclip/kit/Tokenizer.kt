package org.mobileclip.kit

import java.io.InputStream
import java.security.MessageDigest

/**
 * Text to token ids: CLIP's byte-pair encoding of text in lower case, the same ids as open_clip's
 * tokenizer.
 *
 *     val ids = Tokenizer.load().row("a photo of a cat")          // 77 ids, padded with 0
 *
 * The 48,894 merges and the cleaning's tables lie in the kit's resources. Safe for several threads.
 *
 * Source: Sennrich et al. (2016), section 3.2; openai/CLIP clip/simple_tokenizer.py.
 */
class Tokenizer
private constructor(
    merges: String,
    tables: Map<*, *>,
    /** SHA-256 of the merges. */
    val sha256: String,
) {
    private val cleaning = Cleaning(tables)
    private val ids = HashMap<String, Int>(VOCABULARY * 2)
    private val merged = PairTable(MERGES)
    private val cache =
        object : LinkedHashMap<String, IntArray>(16, 0.75f, true) {
            override fun removeEldestEntry(eldest: MutableMap.MutableEntry<String, IntArray>) =
                size > CACHED
        }

    init {
        for (byte in 0..255) {
            val symbol = SYMBOLS[ORDER[byte]].toString()
            ids[symbol] = byte
            ids[symbol + END_OF_WORD] = 256 + byte
        }
        var next = 512
        var start = 0
        while (start < merges.length) {
            val end = merges.indexOf('\n', start).let { if (it < 0) merges.length else it }
            val space = merges.indexOf(' ', start)
            val left = merges.substring(start, space)
            val right = merges.substring(space + 1, end)
            merged.put(ids.getValue(left), ids.getValue(right), next)
            ids[left + right] = next++
            start = end + 1
        }
        check(next == START) { "the merges make $next ids" }
    }

    /**
     * START, tokens, END, zeros: what a text artifact takes. A text that is too long is cut, its
     * last id is END.
     */
    fun row(text: String, context: Int = CONTEXT): IntArray {
        require(context >= 2) { "a context of $context has no room for START and END" }
        val out = IntArray(context)
        val found = encode(text, context - 2)
        out[0] = START
        found.copyInto(out, 1)
        out[found.size + 1] = END
        return out
    }

    /** Ids of a text without START and END, `most` of them at most. */
    fun encode(text: String, most: Int = Int.MAX_VALUE): IntArray {
        val out = Ids()
        for (chunk in cleaning.chunks(text)) {
            if (out.size >= most) break
            out.add(chunk(chunk))
        }
        return out.first(most)
    }

    private fun chunk(chunk: String): IntArray {
        synchronized(cache) { cache[chunk] }
            ?.let {
                return it
            }
        val out = Ids()
        words(Characters.lower(chunk)) { out.add(word(it)) }
        return out.first(Int.MAX_VALUE).also {
            if (chunk.length <= CACHED_LENGTH) synchronized(cache) { cache[chunk] = it }
        }
    }

    /**
     * Specials, contractions, runs of letters, single numbers, runs of anything else; in this
     * order.
     */
    private fun words(text: String, found: (String) -> Unit) {
        var at = 0
        while (at < text.length) {
            val code = text.codePointAt(at)
            var end = at + Character.charCount(code)
            val fixed = if (code == '<'.code || code == '\''.code) fixed(text, at) else 0
            when {
                fixed > 0 -> end = at + fixed
                Characters.isLetter(code) -> end = run(text, end) { Characters.isLetter(it) }
                Characters.isNumber(code) -> Unit
                code == YPOGEGRAMMENI -> Unit
                else ->
                    end =
                        run(text, end) {
                            !Characters.isLetter(it) &&
                                !Characters.isNumber(it) &&
                                it != YPOGEGRAMMENI
                        }
            }
            // a mark whose upper case is a letter: ignoring case, the reference's pattern matches
            // it with nothing
            if (code != YPOGEGRAMMENI) found(text.substring(at, end))
            at = end
        }
    }

    /**
     * Length of the special or contraction at `at`, 0 where there is none. A long s counts as an s.
     */
    private fun fixed(text: String, at: Int): Int =
        FIXED.firstOrNull { word ->
                at + word.length <= text.length &&
                    word.indices.all {
                        text[at + it] == word[it] || text[at + it] == LONG_S && word[it] == 's'
                    }
            }
            ?.length ?: 0

    private inline fun run(text: String, from: Int, more: (Int) -> Boolean): Int {
        var end = from
        while (end < text.length) {
            val code = text.codePointAt(end)
            if (!more(code)) break
            end += Character.charCount(code)
        }
        return end
    }

    private fun word(word: String): IntArray {
        if (word == FIXED[0]) return intArrayOf(START)
        if (word == FIXED[1]) return intArrayOf(END)
        val bytes = word.toByteArray(Charsets.UTF_8)
        val symbols = CharArray(bytes.size) { SYMBOLS[bytes[it].toInt() and 255] }
        // every merge that ends a word is what the word it spells comes to
        ids[String(symbols) + END_OF_WORD]?.let {
            return intArrayOf(it)
        }
        val start = IntArray(bytes.size) { BYTE_IDS[bytes[it].toInt() and 255] }
        start[start.size - 1] += 256
        return merge(start)
    }

    /**
     * Lowest rank first, leftmost first within a rank. A merge makes an id that only it makes, and
     * ids are in order of rank, so one queue of (made id, place) gives the order.
     */
    private fun merge(symbols: IntArray): IntArray {
        val size = symbols.size
        val after = IntArray(size) { it + 1 }
        val before = IntArray(size) { it - 1 }
        val queue = LongHeap(size + 1)
        fun offer(left: Int) {
            val right = after[left]
            if (right >= size) return
            val id = merged.get(symbols[left], symbols[right])
            if (id >= 0) queue.add(id.toLong() shl 32 or left.toLong())
        }
        for (place in 0 until size - 1) offer(place)
        while (queue.size > 0) {
            val top = queue.poll()
            val place = (top and 0xffffffffL).toInt()
            val id = (top ushr 32).toInt()
            val right = after[place]
            if (
                right >= size ||
                    symbols[place] < 0 ||
                    merged.get(symbols[place], symbols[right]) != id
            )
                continue
            symbols[place] = id
            symbols[right] = -1
            after[place] = after[right]
            if (after[place] < size) before[after[place]] = place
            offer(place)
            if (before[place] >= 0) offer(before[place])
        }
        return symbols.filter { it >= 0 }.toIntArray()
    }

    companion object {
        /** Tokens a row, START and END included. */
        const val CONTEXT = 77
        /** 256 bytes, 256 bytes that end a word, 48,894 merges, START and END. */
        const val VOCABULARY = 49408
        const val START = 49406
        const val END = 49407
        /** Fills a row behind END. Not END: towers without a causal mask see the padding. */
        const val PAD = 0
        private const val MERGES = 48_894
        private const val END_OF_WORD = "</w>"
        private const val YPOGEGRAMMENI = 0x345
        private const val LONG_S = '\u017f'
        private const val CACHED = 20_000
        private const val CACHED_LENGTH = 64
        private val FIXED =
            listOf("<start_of_text>", "<end_of_text>", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
        private val PRINTABLE = ('!'.code..'~'.code) + (0xa1..0xac) + (0xae..0xff)
        /** Id of a byte without an end of word -> the byte. */
        private val ORDER = (PRINTABLE + (0..255).filter { it !in PRINTABLE }).toIntArray()
        private val BYTE_IDS =
            IntArray(256).also { ORDER.forEachIndexed { id, byte -> it[byte] = id } }
        /** Byte -> the printable character that stands for it in the merges. */
        private val SYMBOLS =
            CharArray(256).also { symbols ->
                PRINTABLE.forEach { symbols[it] = it.toChar() }
                ORDER.drop(PRINTABLE.size).forEachIndexed { index, byte ->
                    symbols[byte] = (256 + index).toChar()
                }
            }

        /** The tokenizer of the kit's own resources; takes some ten milliseconds. */
        fun load(): Tokenizer = of(resource("merges.txt"), resource("cleaning.json"))

        /** A tokenizer of given merges (a line each, `left right`) and cleaning tables. */
        fun of(merges: InputStream, tables: InputStream): Tokenizer {
            val bytes = merges.use { it.readBytes() }
            val digest = MessageDigest.getInstance("SHA-256").digest(bytes)
            val parsed =
                Json.parse(tables.use { it.readBytes() }.toString(Charsets.UTF_8)) as Map<*, *>
            return Tokenizer(
                bytes.toString(Charsets.UTF_8),
                parsed,
                digest.joinToString("") { "%02x".format(it) },
            )
        }

        private fun resource(name: String): InputStream =
            checkNotNull(Tokenizer::class.java.getResourceAsStream(name)) {
                "the kit's resource $name is missing"
            }
    }
}

/** A growing list of ids. */
private class Ids {
    private var items = IntArray(16)
    var size = 0
        private set

    fun add(more: IntArray) {
        if (size + more.size > items.size)
            items = items.copyOf(maxOf(items.size * 2, size + more.size))
        more.copyInto(items, size)
        size += more.size
    }

    fun first(most: Int): IntArray = items.copyOf(minOf(size, most))
}

/** (left id, right id) -> the id that their merge makes; open addressing, without boxes. */
private class PairTable(entries: Int) {
    private val mask = Integer.highestOneBit(entries * 4) - 1
    private val keys = LongArray(mask + 1) { -1 }
    private val values = IntArray(mask + 1)

    fun put(left: Int, right: Int, made: Int) {
        val slot = slot(left.toLong() shl 20 or right.toLong())
        keys[slot] = left.toLong() shl 20 or right.toLong()
        values[slot] = made
    }

    fun get(left: Int, right: Int): Int {
        val key = left.toLong() shl 20 or right.toLong()
        val slot = slot(key)
        return if (keys[slot] == key) values[slot] else -1
    }

    private fun slot(key: Long): Int {
        var slot = (key * -0x61c8864680b583ebL ushr 40).toInt() and mask
        while (keys[slot] >= 0 && keys[slot] != key) slot = slot + 1 and mask
        return slot
    }
}

/** Smallest first, without boxes. */
private class LongHeap(room: Int) {
    private var items = LongArray(room)
    var size = 0
        private set

    fun add(item: Long) {
        if (size == items.size) items = items.copyOf(size * 2 + 1)
        var at = size++
        while (at > 0 && items[(at - 1) / 2] > item) {
            items[at] = items[(at - 1) / 2]
            at = (at - 1) / 2
        }
        items[at] = item
    }

    fun poll(): Long {
        val top = items[0]
        val last = items[--size]
        var at = 0
        while (2 * at + 1 < size) {
            var child = 2 * at + 1
            if (child + 1 < size && items[child + 1] < items[child]) child++
            if (items[child] >= last) break
            items[at] = items[child]
            at = child
        }
        items[at] = last
        return top
    }
}
