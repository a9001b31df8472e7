package org.mobileclip.kit

import kotlin.test.assertEquals
import kotlin.test.assertNull
import org.junit.jupiter.api.Test

class StatisticsTest {
    @Test
    fun `percentiles and ModelBench's mean are the reference's`() {
        for (case in Golden.Vectors("latency.json").cases) {
            val samples = case.numbers("ms")
            val found = Statistics.percentiles(samples)
            val expected = case.map("percentiles")
            assertEquals(expected.keys, found.keys.toSet(), case.name)
            for ((key, value) in expected) assertEquals(
                (value as Number).toDouble(),
                found.getValue(key as String),
                case.number("tolerance"),
                case.name,
            )
            val mean = Statistics.modelBench(Statistics.rounds(samples))
            if (case.has("model_bench"))
                assertEquals(case.number("model_bench"), mean!!, case.number("tolerance"))
            else assertNull(mean)
        }
    }
}
