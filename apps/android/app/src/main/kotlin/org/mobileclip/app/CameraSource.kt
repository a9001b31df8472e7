package org.mobileclip.app

import android.Manifest
import android.annotation.SuppressLint
import android.content.Context
import android.content.pm.PackageManager
import android.graphics.ImageFormat
import android.graphics.Matrix
import android.graphics.SurfaceTexture
import android.hardware.camera2.CameraAccessException
import android.hardware.camera2.CameraCaptureSession
import android.hardware.camera2.CameraCharacteristics
import android.hardware.camera2.CameraDevice
import android.hardware.camera2.CameraManager
import android.hardware.camera2.CaptureRequest
import android.hardware.camera2.params.OutputConfiguration
import android.hardware.camera2.params.SessionConfiguration
import android.media.Image
import android.media.ImageReader
import android.os.Handler
import android.os.HandlerThread
import android.util.Size
import android.view.Surface
import android.view.TextureView
import java.nio.ByteBuffer
import org.mobileclip.kit.Picture

/**
 * The back camera: a preview, and the newest frame as an upright picture whenever the one before is
 * done with. Frames in between are dropped.
 */
class CameraSource(
    private val context: Context,
    private val preview: TextureView,
    private val frame: (Picture) -> Unit,
    private val broken: (String) -> Unit,
) : TextureView.SurfaceTextureListener {
    private val manager = context.service<CameraManager>()
    private var thread: HandlerThread? = null
    private var device: CameraDevice? = null
    private var reader: ImageReader? = null
    private var size = Size(1280, 720)
    private var turned = 90
    private var open = false

    /** Whether the device has a camera at all. */
    val exists: Boolean
        get() = id() != null

    val isAllowed: Boolean
        get() =
            context.checkSelfPermission(Manifest.permission.CAMERA) ==
                PackageManager.PERMISSION_GRANTED

    fun start() {
        open = true
        preview.surfaceTextureListener = this
        preview.surfaceTexture?.let { onSurfaceTextureAvailable(it, preview.width, preview.height) }
    }

    fun stop() {
        open = false
        preview.surfaceTextureListener = null
        device?.close()
        device = null
        reader?.close()
        reader = null
        thread?.quitSafely()
        thread = null
    }

    @SuppressLint("MissingPermission") // asked for by the screen, and looked at here
    override fun onSurfaceTextureAvailable(texture: SurfaceTexture, width: Int, height: Int) {
        val id = id()
        if (!open || device != null || id == null || !isAllowed) return
        try {
            val about = manager.getCameraCharacteristics(id)
            turned = about.get(CameraCharacteristics.SENSOR_ORIENTATION) ?: 90
            size =
                chosen(
                    about
                        .get(CameraCharacteristics.SCALER_STREAM_CONFIGURATION_MAP)
                        ?.getOutputSizes(ImageFormat.YUV_420_888)
                        .orEmpty()
                        .toList()
                )
            texture.setDefaultBufferSize(size.width, size.height)
            fit(width, height)
            val handler =
                Handler(
                    HandlerThread("camera")
                        .also {
                            thread = it
                            it.start()
                        }
                        .looper
                )
            manager.openCamera(id, Opened(texture, handler), handler)
        } catch (error: CameraAccessException) {
            broken(error.message.orEmpty())
        }
    }

    private inner class Opened(private val texture: SurfaceTexture, private val handler: Handler) :
        CameraDevice.StateCallback() {
        override fun onOpened(camera: CameraDevice) {
            if (!open) return camera.close()
            device = camera
            val surface = Surface(texture)
            val frames =
                ImageReader.newInstance(size.width, size.height, ImageFormat.YUV_420_888, 2)
            reader = frames
            frames.setOnImageAvailableListener(::onImage, handler)
            val outputs = listOf(surface, frames.surface).map(::OutputConfiguration)
            val session =
                SessionConfiguration(
                    SessionConfiguration.SESSION_REGULAR,
                    outputs,
                    { handler.post(it) },
                    Session(camera, surface, frames.surface, handler),
                )
            try {
                camera.createCaptureSession(session)
            } catch (error: CameraAccessException) {
                broken(error.message.orEmpty())
            }
        }

        override fun onDisconnected(camera: CameraDevice) = camera.close()

        override fun onError(camera: CameraDevice, error: Int) {
            camera.close()
            broken("error $error")
        }
    }

    private fun onImage(source: ImageReader) {
        try {
            source.acquireLatestImage()?.use { frame(upright(it)) }
        } catch (_: IllegalStateException) {
            // the camera was stopped in the meantime, and the frame is gone
        }
    }

    private inner class Session(
        private val camera: CameraDevice,
        private val surface: Surface,
        private val frames: Surface,
        private val handler: Handler,
    ) : CameraCaptureSession.StateCallback() {
        override fun onConfigured(session: CameraCaptureSession) {
            if (!open) return
            try {
                val request = camera.createCaptureRequest(CameraDevice.TEMPLATE_PREVIEW)
                request.addTarget(surface)
                request.addTarget(frames)
                request.set(
                    CaptureRequest.CONTROL_AF_MODE,
                    CaptureRequest.CONTROL_AF_MODE_CONTINUOUS_PICTURE,
                )
                session.setRepeatingRequest(request.build(), null, handler)
            } catch (error: CameraAccessException) {
                broken(error.message.orEmpty())
            }
        }

        override fun onConfigureFailed(session: CameraCaptureSession) =
            broken("it cannot show and give pictures at once")
    }

    private fun upright(image: Image): Picture {
        val planes =
            image.planes.map { Picture.Plane(bytes(it.buffer), it.rowStride, it.pixelStride) }
        val step = maxOf(minOf(image.width, image.height) / SHORT, 1)
        return Picture.ofYuv(image.width, image.height, planes, step)
            .turned(orientation(turned, rotation()))
    }

    private fun bytes(buffer: ByteBuffer) = ByteArray(buffer.remaining()).also { buffer.get(it) }

    private fun rotation(): Int = 90 * (preview.display?.rotation ?: Surface.ROTATION_0)

    private fun id(): String? =
        try {
            val ids = manager.cameraIdList
            ids.firstOrNull {
                manager.getCameraCharacteristics(it).get(CameraCharacteristics.LENS_FACING) ==
                    CameraCharacteristics.LENS_FACING_BACK
            } ?: ids.firstOrNull()
        } catch (_: CameraAccessException) {
            null
        }

    /** Fills the view with the preview, whatever way the device is held. */
    private fun fit(width: Int, height: Int) {
        if (width == 0 || height == 0) return
        val rotation = rotation()
        val swapped = (turned - rotation + 360) % 180 == 90
        val wide = (if (swapped) size.height else size.width).toFloat()
        val high = (if (swapped) size.width else size.height).toFloat()
        val scale = maxOf(width / wide, height / high)
        val matrix = Matrix()
        val (x, y) = width / 2f to height / 2f
        if (rotation % 180 == 0) {
            matrix.setScale(wide * scale / width, high * scale / height, x, y)
        } else { // the texture is laid out for the upright device
            matrix.setScale(high * scale / width, wide * scale / height, x, y)
        }
        matrix.postRotate(-rotation.toFloat(), x, y)
        preview.setTransform(matrix)
    }

    override fun onSurfaceTextureSizeChanged(texture: SurfaceTexture, width: Int, height: Int) =
        fit(width, height)

    override fun onSurfaceTextureDestroyed(texture: SurfaceTexture): Boolean = true

    override fun onSurfaceTextureUpdated(texture: SurfaceTexture) = Unit

    companion object {
        /** Shorter side of the pictures that frames become, at least. */
        const val SHORT = 480

        /** The smallest size that has a shorter side of 480, else the largest. */
        fun chosen(sizes: List<Size>): Size =
            sizes
                .filter { minOf(it.width, it.height) >= SHORT }
                .minByOrNull { it.width * it.height }
                ?: sizes.maxByOrNull { it.width * it.height }
                ?: Size(640, 480)

        /**
         * EXIF's orientation of a frame of a back camera whose sensor lies `sensor` degrees in a
         * device turned by `device`.
         */
        fun orientation(sensor: Int, device: Int): Int =
            when ((sensor - device + 360) % 360) {
                90 -> 6
                180 -> 3
                270 -> 8
                else -> 1
            }
    }
}
