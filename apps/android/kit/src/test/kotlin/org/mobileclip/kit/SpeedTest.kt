package org.mobileclip.kit

import kotlin.test.assertEquals
import kotlin.test.assertTrue
import org.junit.jupiter.api.Test

/** The best of several runs, since other processes share the machine. */
class SpeedTest {
    @Test
    fun `1,000 captions are tokenised in 50 ms`() {
        val times = Speed.tokenising(20)
        println("1,000 captions: $times")
        assertTrue(times.best < 50, "$times")
    }

    @Test
    fun `100,000 embeddings of 512 in 8 bits are searched in 20 ms`() {
        val index = Speed.index(100_000, 512)
        val times = Speed.searching(index, 40)
        println("100,000 int8 x 512: $times")
        assertTrue(times.best < 20, "$times")
        val question = FloatArray(512) { if (it % 3 == 0) 1f else -0.5f }
        val exact = index.search(question, 10).map { it.place }
        assertEquals(exact, index.searchCoded(question, 10, 100_000).map { it.place })
    }
}
