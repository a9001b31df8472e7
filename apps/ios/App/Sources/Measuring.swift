// The bundle's parts as subjects of the kit's protocol, and this device as it says of itself.
import Foundation
import MobileCLIPKit
import UIKit
import os

struct Measuring {
    private static let cancelled = OSAllocatedUnfairLock(initialState: false)
    private let engine: Engine

    init(_ engine: Engine) { self.engine = engine }

    static func cancel() { cancelled.withLock { $0 = true } }

    func run(isLong: Bool, plan given: Plan? = nil, progress: @escaping (Double, String) -> Void) throws -> BenchmarkResult {
        Self.cancelled.withLock { $0 = false }
        var plan = given ?? Plan()
        if isLong { plan.sustainedSeconds = 300 }
        let surroundings = Surroundings(
            device: Self.device(), thermal: Self.thermal, memory: Self.footprint,
            isCancelled: { Self.cancelled.withLock { $0 } }, progress: progress)
        return try measureLatency(subjects(), plan: plan, in: surroundings)
    }

    private func subjects() throws -> [MobileCLIPKit.Subject] {
        let parts = [engine.image, engine.text, engine.dense].compactMap { $0 }
        let (bundle, name) = (engine.bundle, engine.bundle.manifest.model.name)
        return try parts.map { artifact in
            let shown = "\(name) \(artifact.view) \(artifact.target) \(artifact.precision)"
            let answer = try KnownAnswer(bundle, artifact)
            guard artifact.view == "image", let input = artifact.inputs.first else {
                return MobileCLIPKit.Subject(name: shown, answer: answer, load: { try Engine.load(bundle, artifact) })
            }
            let fit = try Fit(input, dense: bundle.manifest.dense)
            let (photo, size) = try Self.photo()
            let scale = bundle.manifest.model.logitScale ?? 100
            let texts = Self.vectors(engine.words.labels.count, bundle.manifest.model.embedDim ?? 512)
            return MobileCLIPKit.Subject(
                name: shown, answer: answer, load: { try Engine.load(bundle, artifact) },
                wholeRun: { runner in
                    var (picture, outputs) = (Picture?.none, [Tensor]())
                    let decode = try milliseconds { picture = try Picture(decoding: photo) }
                    let resize = try milliseconds { picture = try picture?.fitted(fit) }
                    guard let fitted = picture else { throw KitError(.picture, "The test picture is empty. Install the app again.") }
                    let forward = try milliseconds { outputs = try runner.run(.picture(fitted)) }
                    let after = try milliseconds {
                        _ = ranked(try probabilities(image: outputs[0].values, texts: texts, logitScale: scale))
                    }
                    return WholeRun(decode: decode, resize: resize, forward: forward, after: after)
                }, picture: size)
        }
    }

    /// A JPEG like a camera frame, made once: 1920 x 1440 of smooth colours.
    private static func photo() throws -> (Data, PixelSize) {
        let (width, height) = (1920, 1440)
        var pixels = [UInt8](repeating: 0, count: 3 * width * height)
        for y in 0..<height {
            for x in 0..<width {
                let place = 3 * (y * width + x)
                pixels[place] = UInt8(x * 255 / width)
                pixels[place + 1] = UInt8(y * 255 / height)
                pixels[place + 2] = UInt8((x / 16 + y / 16) % 2 * 200)
            }
        }
        guard let image = try Picture(width: width, height: height, pixels: pixels).image,
            let data = UIImage(cgImage: image).jpegData(compressionQuality: 0.9)
        else { throw KitError(.picture, "The test picture cannot be made: memory is short. Close other apps.") }
        return (data, PixelSize(rows: height, columns: width))
    }

    /// Ranking takes as long whatever the texts are.
    private static func vectors(_ count: Int, _ width: Int) -> [[Float]] {
        (0..<max(count, 1)).map { row in (0..<width).map { Float(($0 * 31 + row * 17) % 101) - 50 } }
    }

    private static func thermal() -> String? {
        switch ProcessInfo.processInfo.thermalState {
        case .nominal: "nominal"
        case .fair: "fair"
        case .serious: "serious"
        case .critical: "critical"
        @unknown default: nil
        }
    }

    /// Memory that the system counts against the app, in bytes.
    private static func footprint() -> Int? {
        var info = task_vm_info_data_t()
        var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
        let status = withUnsafeMutablePointer(to: &info) { pointer in
            pointer.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
                task_info(task_self_trap(), task_flavor_t(TASK_VM_INFO), $0, &count)
            }
        }
        return status == KERN_SUCCESS ? Int(info.phys_footprint) : nil
    }

    private static func device() -> ResultDevice {
        var system = utsname()
        uname(&system)
        let model = withUnsafeBytes(of: &system.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let process = ProcessInfo.processInfo
        return ResultDevice(
            kind: "iphone", name: model, model: model, os: "iOS \(process.operatingSystemVersionString)",
            cores: process.processorCount, memoryBytes: Int(process.physicalMemory),
            details: ["low_power": String(process.isLowPowerModeEnabled)])
    }
}
