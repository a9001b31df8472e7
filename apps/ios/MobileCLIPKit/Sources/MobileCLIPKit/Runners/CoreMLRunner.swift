// Core ML packages of a bundle: compiled once on the device, kept in the caches folder by the package's hash.
#if canImport(CoreML)
    import CoreML
    import CoreVideo
    import Foundation

    public final class CoreMLRunner: Runner {
        public let runtime: RuntimeName
        private let artifact: Manifest.Artifact
        private let model: MLModel

        /// - Parameters:
        ///   - caches: where the compiled model is kept, such as the app's caches folder; it is made again if the system deletes it.
        ///   - units: where Core ML may run it.
        public init(
            _ bundle: ModelBundle, _ artifact: Manifest.Artifact, caches: URL, units: MLComputeUnits = .cpuAndNeuralEngine
        ) throws {
            self.artifact = artifact
            let compiled = caches.appendingPathComponent("\(artifact.sha256).mlmodelc")
            if !FileManager.default.fileExists(atPath: compiled.path) {
                let made = try MLModel.compileModel(at: bundle.file(artifact.file))
                try FileManager.default.createDirectory(at: caches, withIntermediateDirectories: true)
                try? FileManager.default.removeItem(at: compiled)
                try FileManager.default.moveItem(at: made, to: compiled)
            }
            let configuration = MLModelConfiguration()
            configuration.computeUnits = units
            model = try MLModel(contentsOf: compiled, configuration: configuration)
            let names: [MLComputeUnits: String] = [
                .cpuOnly: "cpuOnly", .cpuAndGPU: "cpuAndGPU", .cpuAndNeuralEngine: "cpuAndNeuralEngine", .all: "all",
            ]
            runtime = RuntimeName(
                name: "coreml", version: ProcessInfo.processInfo.operatingSystemVersionString,
                provider: names[units] ?? "all")
        }

        public func run(_ feed: Feed) throws -> [Tensor] {
            guard let input = artifact.inputs.first else {
                throw KitError(.incomplete, "The model says of no input. Export it again.")
            }
            let value: MLFeatureValue
            switch feed {
            case .picture(let picture) where input.dtype == "image":
                value = MLFeatureValue(pixelBuffer: try Self.buffer(picture))
            case .picture(let picture):
                value = try Self.array(picture.tensor(scale: Float(input.scale ?? 1 / 255)), input.shape, .float32)
            case .ids(let ids): value = try Self.array(ids.map(Float.init), input.shape, .int32)
            case .tensor(let tensor): value = try Self.array(tensor.values, tensor.shape, .float32)
            }
            let found = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: [input.name: value]))
            return try artifact.outputs.map { output in
                guard let array = found.featureValue(for: output.name)?.multiArrayValue else {
                    throw KitError(.runner, "The model gives no output \(output.name). Export it again.")
                }
                return try Tensor(shape: output.shape, values: Self.floats(array))
            }
        }

        private static func array(_ values: [Float], _ shape: [Int], _ type: MLMultiArrayDataType) throws -> MLFeatureValue {
            let array = try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: type)
            if type == .int32 {
                array.withUnsafeMutableBufferPointer(ofType: Int32.self) { out, _ in
                    for (place, value) in values.enumerated() { out[place] = Int32(value) }
                }
            } else {
                array.withUnsafeMutableBufferPointer(ofType: Float.self) { out, _ in
                    for (place, value) in values.enumerated() { out[place] = value }
                }
            }
            return MLFeatureValue(multiArray: array)
        }

        private static func floats(_ array: MLMultiArray) -> [Float] {
            array.withUnsafeBytes { bytes in
                guard let base = bytes.baseAddress else { return [] }
                switch array.dataType {
                case .float32: return gathered(array) { base.load(fromByteOffset: 4 * $0, as: Float.self) }
                case .int32: return gathered(array) { Float(base.load(fromByteOffset: 4 * $0, as: Int32.self)) }
                case .double: return gathered(array) { Float(base.load(fromByteOffset: 8 * $0, as: Double.self)) }
                default:
                    // halves: read as bits, because Swift's Float16 is not on every Mac
                    return gathered(array) { float(base.load(fromByteOffset: 2 * $0, as: UInt16.self)) }
                }
            }
        }

        /// In the order of rows, whatever the strides are: the Neural Engine pads them.
        private static func gathered(_ array: MLMultiArray, _ value: (Int) -> Float) -> [Float] {
            let shape = array.shape.map(\.intValue), strides = array.strides.map(\.intValue)
            var out: [Float] = []
            out.reserveCapacity(array.count)
            var place = [Int](repeating: 0, count: shape.count)
            for _ in 0..<array.count {
                out.append(value(zip(place, strides).reduce(0) { $0 + $1.0 * $1.1 }))
                var axis = shape.count - 1
                while axis >= 0 {
                    place[axis] += 1
                    if place[axis] < shape[axis] { break }
                    place[axis] = 0
                    axis -= 1
                }
            }
            return out
        }

        private static func buffer(_ picture: Picture) throws -> CVPixelBuffer {
            var made: CVPixelBuffer?
            let told = [kCVPixelBufferIOSurfacePropertiesKey: [:] as CFDictionary] as CFDictionary
            CVPixelBufferCreate(nil, picture.width, picture.height, kCVPixelFormatType_32BGRA, told, &made)
            guard let made else {
                throw KitError(.runner, "There is not enough memory for a picture. Close other apps and try again.")
            }
            CVPixelBufferLockBaseAddress(made, [])
            defer { CVPixelBufferUnlockBaseAddress(made, []) }
            let line = CVPixelBufferGetBytesPerRow(made)
            guard let base = CVPixelBufferGetBaseAddress(made)?.assumingMemoryBound(to: UInt8.self) else { return made }
            for y in 0..<picture.height {
                for x in 0..<picture.width {
                    let (to, from) = (y * line + 4 * x, 3 * (y * picture.width + x))
                    base[to] = picture.pixels[from + 2]
                    base[to + 1] = picture.pixels[from + 1]
                    base[to + 2] = picture.pixels[from]
                    base[to + 3] = 255
                }
            }
            return made
        }
    }
#endif
