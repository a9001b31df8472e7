// ExecuTorch programs of a bundle. Compiled where the package was resolved with MOBILECLIP_EXECUTORCH=1.
#if canImport(ExecuTorch)
    import ExecuTorch
    import Foundation

    public final class ExecuTorchRunner: Runner {
        public let runtime: RuntimeName
        private let artifact: Manifest.Artifact
        private let module: Module

        public init(_ bundle: ModelBundle, _ artifact: Manifest.Artifact) throws {
            self.artifact = artifact
            module = Module(filePath: try bundle.file(artifact.file).path, loadMode: .mmap)
            try module.load("forward")
            runtime = RuntimeName(
                name: "executorch", version: "1.5.1", provider: String(artifact.target.dropFirst("executorch-".count)))
        }

        public func run(_ feed: Feed) throws -> [Tensor] {
            guard let input = artifact.inputs.first else {
                throw KitError(.incomplete, "The model says of no input. Export it again.")
            }
            let value: Value
            switch feed {
            case .picture(let picture):
                let values = picture.tensor(scale: Float(input.scale ?? 1 / 255))
                value = Value(ExecuTorch.Tensor<Float>(values, shape: input.shape))
            case .ids(let ids) where input.dtype == "int64":
                value = Value(ExecuTorch.Tensor<Int64>(ids.map(Int64.init), shape: input.shape))
            case .ids(let ids): value = Value(ExecuTorch.Tensor<Int32>(ids, shape: input.shape))
            case .tensor(let tensor): value = Value(ExecuTorch.Tensor<Float>(tensor.values, shape: tensor.shape))
            }
            let found: [Value] = try module.forward([value])
            return try zip(found, artifact.outputs).map { value, output in
                if let floats: ExecuTorch.Tensor<Float> = value.tensor() {
                    return try Tensor(shape: output.shape, values: floats.scalars())
                }
                if let labels: ExecuTorch.Tensor<UInt8> = value.tensor() {
                    return try Tensor(shape: output.shape, values: labels.scalars().map(Float.init))
                }
                if let labels: ExecuTorch.Tensor<Int64> = value.tensor() {
                    return try Tensor(shape: output.shape, values: labels.scalars().map { Float($0) })
                }
                if let labels: ExecuTorch.Tensor<Int32> = value.tensor() {
                    return try Tensor(shape: output.shape, values: labels.scalars().map { Float($0) })
                }
                throw KitError(.runner, "The model gives an output \(output.name) of a kind that this app does not know.")
            }
        }
    }
#endif
