package org.mobileclip.kit

import kotlin.math.PI
import kotlin.math.cos
import kotlin.math.pow
import kotlin.math.sin
import kotlin.math.sqrt

/**
 * Colours of classes and of distances, opaque ARGB, chosen in Oklab, where equal steps look equal:
 * the same as the exporter's.
 *
 * Source: Ottosson (2020), A perceptual color space for image processing.
 */
object Colours {
    private val GOLDEN = (3 - sqrt(5.0)) * PI // the angle that keeps any number of hues apart
    private val LIGHTNESS = doubleArrayOf(0.70, 0.52, 0.84, 0.61, 0.77)
    private val CHROMA = doubleArrayOf(0.15, 0.13, 0.11, 0.17, 0.09)

    /** A colour a class; the first ones are the same for every count. */
    fun palette(count: Int): IntArray =
        IntArray(count) { place ->
            colour(
                LIGHTNESS[place % LIGHTNESS.size],
                CHROMA[place / 2 % CHROMA.size],
                0.5 + place * GOLDEN,
            )
        }

    /**
     * 256 colours from near to far: light yellow, red, violet, dark blue; lightness falls evenly.
     */
    val distances: IntArray by lazy {
        IntArray(256) { place ->
            val share = place / 255.0
            colour(
                0.95 - 0.73 * share,
                0.05 + 0.13 * sin(PI * share).coerceAtLeast(0.0).pow(0.8),
                PI * (0.58 - 1.1 * share),
            )
        }
    }

    /** Chroma is reduced where the screen has no such colour. */
    private fun colour(lightness: Double, chroma: Double, hue: Double): Int {
        for (step in 40 downTo 0) {
            val part = step / 40.0
            val linear = linear(lightness, chroma * part * cos(hue), chroma * part * sin(hue))
            if (linear.all { it >= -1e-6 && it <= 1 + 1e-6 }) {
                val (r, g, b) =
                    linear.map { Math.rint(encoded(it.coerceIn(0.0, 1.0)) * 255).toInt() }
                return -0x1000000 or (r shl 16) or (g shl 8) or b
            }
        }
        return -0x1000000
    }

    private fun linear(lightness: Double, a: Double, b: Double): DoubleArray {
        val l = (lightness + 0.3963377774 * a + 0.2158037573 * b).pow(3)
        val m = (lightness - 0.1055613458 * a - 0.0638541728 * b).pow(3)
        val s = (lightness - 0.0894841775 * a - 1.2914855480 * b).pow(3)
        return doubleArrayOf(
            4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
            -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
            -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s,
        )
    }

    /** IEC 61966-2-1. */
    private fun encoded(linear: Double): Double =
        if (linear <= 0.0031308) 12.92 * linear else 1.055 * linear.pow(1 / 2.4) - 0.055
}
