package org.mobileclip.app

import android.content.Context
import android.graphics.Bitmap
import android.graphics.ColorSpace
import android.graphics.ImageDecoder
import android.net.Uri
import java.io.ByteArrayOutputStream
import java.io.FileNotFoundException
import java.io.IOException
import java.nio.ByteBuffer
import org.mobileclip.kit.Exif
import org.mobileclip.kit.Picture
import org.mobileclip.kit.PictureException

/**
 * Files to pictures in bounded memory: upright by their EXIF whatever the format, alpha dropped and
 * not blended, colours in sRGB, 16 bits as 8.
 */
class Pictures(private val context: Context) {
    /**
     * A picture of the device.
     *
     * @param least a larger picture is decoded to a half, a quarter, ..., its shorter side at least
     *   this.
     * @param most longest side.
     * @throws PictureException it cannot be read, with a sentence for the user.
     */
    fun read(uri: Uri, least: Int = LEAST, most: Int = MOST): Picture =
        read(content(uri), least, most)

    /** The same of an encoded picture in memory, whose orientation is taken out. */
    fun read(content: ByteArray, least: Int = LEAST, most: Int = MOST): Picture {
        val orientation = Exif.takeOut(content)
        try {
            val bitmap =
                ImageDecoder.decodeBitmap(ImageDecoder.createSource(ByteBuffer.wrap(content))) {
                    decoder,
                    info,
                    _ ->
                    Picture.check(info.size.width, info.size.height)
                    decoder.allocator = ImageDecoder.ALLOCATOR_SOFTWARE
                    decoder.isUnpremultipliedRequired = true
                    decoder.setTargetColorSpace(ColorSpace.get(ColorSpace.Named.SRGB))
                    decoder.setTargetSampleSize(
                        sampling(info.size.width, info.size.height, least, most)
                    )
                }
            return picture(bitmap).turned(orientation)
        } catch (error: IOException) {
            throw unreadable(error)
        } catch (error: OutOfMemoryError) {
            throw PictureException(context.getString(R.string.picture_memory), error)
        }
    }

    private fun content(uri: Uri): ByteArray =
        try {
            val input =
                context.contentResolver.openInputStream(uri)
                    ?: throw FileNotFoundException("it is gone")
            input.use { stream ->
                val out = ByteArrayOutputStream()
                val buffer = ByteArray(1 shl 16)
                while (true) {
                    val count = stream.read(buffer)
                    if (count < 0) break
                    out.write(buffer, 0, count)
                    if (out.size() > MAX_BYTES)
                        throw IOException("it is larger than ${MAX_BYTES shr 20} MB")
                }
                out.toByteArray()
            }
        } catch (error: IOException) {
            throw unreadable(error)
        } catch (error: SecurityException) { // the permission went, or the photo is another app's
            throw unreadable(error)
        } catch (error: OutOfMemoryError) {
            throw PictureException(context.getString(R.string.picture_memory), error)
        }

    private fun unreadable(error: Exception) =
        PictureException(
            context.getString(R.string.picture_unreadable, error.message.orEmpty()),
            error,
        )

    companion object {
        private const val MAX_BYTES = 128 shl 20

        /**
         * Shorter side that sampling keeps: four times what a tower sees, so that the antialias has
         * enough.
         */
        const val LEAST = 1024

        /** Longest side of a decoded picture. */
        const val MOST = 8192

        /**
         * By how much both sides are divided: a power of two that keeps `least`, more where a side
         * is above `most`.
         */
        fun sampling(width: Int, height: Int, least: Int, most: Int): Int {
            var by = 1
            while (
                minOf(width, height) / (by * 2) >= least || maxOf(width, height) / by > most
            ) by *= 2
            return by
        }

        /** A software bitmap's pixels. */
        fun picture(bitmap: Bitmap): Picture {
            val pixels = IntArray(bitmap.width * bitmap.height)
            bitmap.getPixels(pixels, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
            return Picture.ofArgb(bitmap.width, bitmap.height, pixels)
        }

        /** A picture as a bitmap. */
        fun bitmap(picture: Picture): Bitmap = bitmap(picture.argb(), picture.width, picture.height)

        fun bitmap(argb: IntArray, width: Int, height: Int): Bitmap =
            Bitmap.createBitmap(argb, width, height, Bitmap.Config.ARGB_8888)
    }
}
