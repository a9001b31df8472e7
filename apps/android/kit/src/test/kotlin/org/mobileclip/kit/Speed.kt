package org.mobileclip.kit

import java.lang.management.ManagementFactory
import java.util.Locale
import kotlin.random.Random

/**
 * How fast the kit is on one core of this machine: `sh tests/kotlin.sh speed`. Best and median of
 * several runs, as processor time of the one thread; the cold figures are the first of the process.
 */
object Speed {
    /** Milliseconds, in order. */
    class Times(val all: List<Double>) {
        val best = all.min()
        val median = all.sorted()[all.size / 2]

        override fun toString() =
            "best %.1f ms, median %.1f ms, first %.1f ms"
                .format(Locale.ROOT, best, median, all.first())
    }

    /** 1,000 captions of the golden texts' own words. */
    fun captions(): List<String> {
        val random = Random(1)
        val words =
            Golden.Vectors("tokenization.json")
                .cases
                .map { it.text("text") }
                .filter { it.length in 3..60 && it.all { c -> c in ' '..'~' } }
        return List(1000) {
            "a photo of ${words[random.nextInt(words.size)]} and ${words[random.nextInt(words.size)]} number $it"
        }
    }

    /** Tokenising them, each time by a tokenizer whose cache is empty. */
    fun tokenising(runs: Int): Times {
        val texts = captions()
        val all =
            List(runs) {
                val tokenizer = Tokenizer.load()
                timed { texts.forEach { tokenizer.row(it) } }
            }
        return Times(all)
    }

    /** Loading the merges and tables. */
    fun loading(runs: Int) = Times(List(runs) { timed { Tokenizer.load() } })

    /** An index of unit vectors. */
    fun index(
        rows: Int,
        width: Int,
        kind: EmbeddingIndex.Kind = EmbeddingIndex.Kind.INT8,
    ): EmbeddingIndex {
        val random = java.util.Random(2)
        val vector = FloatArray(width)
        return EmbeddingIndex(width, kind).apply {
            repeat(rows) {
                for (i in 0 until width) vector[i] = random.nextFloat() - 0.5f
                add(vector)
            }
        }
    }

    fun searching(
        index: EmbeddingIndex,
        runs: Int,
        search: (FloatArray) -> List<Hit> = { index.search(it, 20) },
    ): Times {
        val random = Random(3)
        val questions = List(runs) { FloatArray(index.width) { random.nextFloat() - 0.5f } }
        return Times(questions.map { timed { search(it) } })
    }

    /**
     * Milliseconds that this thread had a core for: on a machine that others use too, the clock
     * says less.
     */
    fun timed(run: () -> Unit): Double {
        val threads = ManagementFactory.getThreadMXBean()
        val start = threads.currentThreadCpuTime
        run()
        return (threads.currentThreadCpuTime - start) / 1e6
    }
}

fun main() {
    println("loading the tokenizer, cold: ${Speed.loading(1)}")
    println("1,000 captions, cold: ${Speed.tokenising(1)}")
    println("1,000 captions: ${Speed.tokenising(30)}")
    val index = Speed.index(100_000, 512)
    println("search of 100,000 int8 x 512, exact: ${Speed.searching(index, 60)}")
    println(
        "search of 100,000 int8 x 512, signs first, 200 candidates: ${Speed.searching(index, 60) { index.searchCoded(it, 20, 200) }}"
    )
    println(
        "search of 20,000 fp16 x 512, exact: ${Speed.index(20_000, 512, EmbeddingIndex.Kind.FP16).let { Speed.searching(it, 20) }}"
    )
    val picture = Picture(4000, 3000, ByteArray(36_000_000) { (it * 31).toByte() })
    println(
        "12 megapixels to 256: ${Speed.Times(List(5) { Speed.timed { Preprocessing.square(picture, 256, Resampling.BILINEAR) } })}"
    )
}
