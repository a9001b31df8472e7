// The camera's newest frame, upright; frames that come while one is looked at are dropped.
@preconcurrency import AVFoundation
import MobileCLIPKit

final class Camera: NSObject, AVCaptureVideoDataOutputSampleBufferDelegate, @unchecked Sendable {
    let session = AVCaptureSession()
    private let queue = DispatchQueue(label: "camera")
    private let output = AVCaptureVideoDataOutput()
    private var take: (@Sendable (Picture) async -> Void)?  // on `queue`
    private var isBusy = false  // on `queue`
    private var isConfigured = false  // on `queue`

    enum Access { case allowed, denied, absent }

    static func access() async -> Access {
        guard AVCaptureDevice.default(for: .video) != nil else { return .absent }
        switch AVCaptureDevice.authorizationStatus(for: .video) {
        case .authorized: return .allowed
        case .notDetermined: return await AVCaptureDevice.requestAccess(for: .video) ? .allowed : .denied
        default: return .denied
        }
    }

    func start(_ take: @escaping @Sendable (Picture) async -> Void) {
        queue.async {
            self.take = take
            if !self.isConfigured { self.configure() }
            if !self.session.isRunning { self.session.startRunning() }
        }
    }

    func stop() {
        queue.async {
            self.take = nil
            if self.session.isRunning { self.session.stopRunning() }
        }
    }

    private func configure() {
        session.beginConfiguration()
        defer { session.commitConfiguration() }
        session.sessionPreset = .vga640x480
        guard let device = AVCaptureDevice.default(.builtInWideAngleCamera, for: .video, position: .back),
            let input = try? AVCaptureDeviceInput(device: device), session.canAddInput(input), session.canAddOutput(output)
        else { return }
        session.addInput(input)
        output.videoSettings = [kCVPixelBufferPixelFormatTypeKey as String: kCVPixelFormatType_32BGRA]
        output.alwaysDiscardsLateVideoFrames = true
        output.setSampleBufferDelegate(self, queue: queue)
        session.addOutput(output)
        if let connection = output.connection(with: .video), connection.isVideoRotationAngleSupported(90) {
            connection.videoRotationAngle = 90  // the phone is held upright: frames are turned before they come
        }
        isConfigured = true
    }

    func captureOutput(_: AVCaptureOutput, didOutput sample: CMSampleBuffer, from _: AVCaptureConnection) {
        guard !isBusy, let take, let buffer = sample.imageBuffer, let picture = try? Picture(buffer) else { return }
        isBusy = true
        Task {
            await take(picture)
            queue.async { self.isBusy = false }
        }
    }
}
