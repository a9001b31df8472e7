// What runs an artifact. Core ML and ExecuTorch are behind it; the kit's tests have one in plain Swift.
import Foundation

/// Values of one input or output; ids are exact as floats.
public struct Tensor: Equatable, Sendable {
    public let shape: [Int]
    public let values: [Float]

    public init(shape: [Int], values: [Float]) throws {
        guard shape.allSatisfy({ $0 > 0 }), shape.reduce(1, *) == values.count else {
            throw KitError(.runner, "The model gives an output of another shape than its manifest says. Export it again.")
        }
        self.shape = shape
        self.values = values
    }
}

public enum Feed: Sendable {
    /// 8-bit pixels of the artifact's size.
    case picture(Picture)
    /// Token ids, [1, 77].
    case ids([Int32])
    /// As the artifact takes it: the known input.
    case tensor(Tensor)
}

/// A loaded artifact. One run at a time.
public protocol Runner: AnyObject {
    /// `executorch`, `coreml`, ...; its version; what really runs it.
    var runtime: RuntimeName { get }
    /// The outputs, in the order of the manifest.
    func run(_ feed: Feed) throws -> [Tensor]
}

public struct RuntimeName: Codable, Equatable, Sendable {
    public let name: String
    public let version: String?
    public let provider: String
    public let threads: Int?

    public init(name: String, version: String?, provider: String, threads: Int? = nil) {
        self.name = name
        self.version = version
        self.provider = provider
        self.threads = threads
    }

    private enum CodingKeys: String, CodingKey { case name, version, provider, threads }

    public func encode(to encoder: Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(name, forKey: .name)
        try values.encode(version, forKey: .version)
        try values.encode(provider, forKey: .provider)
        try values.encode(threads, forKey: .threads)
    }
}

/// How close outputs are to the known ones.
public struct KnownAnswerResult: Codable, Equatable, Sendable {
    /// nil: nothing to hold it against.
    public let right: Bool?
    public var db: Double?
    public var cosine: Double?
    public var maxError: Double?
    public var equal: Double?

    private enum CodingKeys: String, CodingKey {
        case right, db, cosine, equal
        case maxError = "max_error"
    }

    public func encode(to encoder: Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(right, forKey: .right)
        try values.encodeIfPresent(db, forKey: .db)
        try values.encodeIfPresent(cosine, forKey: .cosine)
        try values.encodeIfPresent(maxError, forKey: .maxError)
        try values.encodeIfPresent(equal, forKey: .equal)
    }
}

/// An artifact with what proves it right.
public struct KnownAnswer: Sendable {
    /// Of integer activations: runtimes round sums in their own ways (export/targets.py, `MADE`).
    private static let made = Manifest.Gate(db: 20, cosine: 0.995, equal: 0.97)
    private static let largest = 400.0

    public let artifact: Manifest.Artifact
    public let feed: Feed
    public let expected: [[Float]]
    private let gate: Manifest.Gate

    public init(_ bundle: ModelBundle, _ artifact: Manifest.Artifact) throws {
        guard let answer = bundle.manifest.knownAnswer[artifact.view] else {
            throw KitError(.incomplete, "The model has no known answer for its \(artifact.view) part. Export it again.")
        }
        self.artifact = artifact
        let input = try Tensor(shape: answer.input.shape, values: bundle.values(answer.input))
        switch artifact.inputs.first?.dtype {
        case "image": feed = try .picture(Self.picture(input))
        case "int32", "int64": feed = .ids(input.values.map { Int32($0) })
        default: feed = .tensor(input)
        }
        let quantised = artifact.quantisation
        let stored = quantised.map { [$0.knownAnswer.output] + ($0.knownAnswer.others ?? []) } ?? answer.outputs
        expected = try stored.map(bundle.values)
        let precisions = [artifact.precision] + (quantised?.blocks.map { Array($0.values) } ?? [])
        gate = quantised != nil && precisions.contains("w8a8") ? Self.made : artifact.gate
    }

    /// Known pixels are whole numbers of 1/255: 0..1 [1, 3, H, W] -> a picture.
    private static func picture(_ tensor: Tensor) throws -> Picture {
        let (rows, columns) = (tensor.shape[2], tensor.shape[3])
        let count = rows * columns
        var pixels = [UInt8](repeating: 0, count: 3 * count)
        for place in 0..<count {
            for channel in 0..<3 {
                let value = (tensor.values[channel * count + place] * 255).rounded()
                pixels[3 * place + channel] = UInt8(min(max(value, 0), 255))
            }
        }
        return try Picture(width: columns, height: rows, pixels: pixels)
    }

    /// The worst output. Objects, whose rows come in no certain order, are not judged here.
    public func judge(_ outputs: [Tensor]) -> KnownAnswerResult {
        guard outputs.count == expected.count, zip(outputs, expected).allSatisfy({ $0.values.count == $1.count }) else {
            return KnownAnswerResult(right: false, db: -Self.largest, cosine: 0, maxError: 0)
        }
        if artifact.outputs.contains(where: { $0.compare == "matched" }) { return KnownAnswerResult(right: nil) }
        let found = outputs.indices.map { place in
            let isLabels = place < artifact.outputs.count && artifact.outputs[place].compare == "equal"
            return compared(outputs[place].values, expected[place], isLabels)
        }
        let worst = found.min { ($0.right == true ? 1 : 0, $0.db ?? 0) < ($1.right == true ? 1 : 0, $1.db ?? 0) }
        return worst ?? KnownAnswerResult(right: nil)
    }

    private func compared(_ output: [Float], _ reference: [Float], _ isLabels: Bool) -> KnownAnswerResult {
        guard output.allSatisfy(\.isFinite) else {
            return KnownAnswerResult(right: false, db: -Self.largest, cosine: 0, maxError: Double(Float.greatestFiniteMagnitude))
        }
        var (error, signal, length, product, most, wrong) = (0.0, 0.0, 0.0, 0.0, 0.0, 0)
        for (a, b) in zip(output, reference) {
            let (a, b) = (Double(a), Double(b))
            error += (a - b) * (a - b)
            signal += b * b
            length += a * a
            product += a * b
            most = max(most, abs(a - b))
            wrong += a == b ? 0 : 1
        }
        if isLabels {
            let share = 1 - Double(wrong) / Double(max(output.count, 1))
            let db = wrong == 0 ? Self.largest : 10 * log10(Double(output.count) / Double(wrong))
            return KnownAnswerResult(
                right: share >= gate.equal ?? 1, db: db, cosine: share, maxError: most, equal: share)
        }
        let db = error == 0 ? Self.largest : signal == 0 ? -Self.largest : min(10 * log10(signal / error), Self.largest)
        let lengths = (length * signal).squareRoot()
        let cosine = lengths == 0 ? (error == 0 ? 1 : 0) : min(product / lengths, 1)
        return KnownAnswerResult(right: db >= gate.db && cosine >= gate.cosine, db: db, cosine: cosine, maxError: most)
    }
}

/// The self-test of an app: run the known input, hold the output against the known one.
public func selfTest(_ bundle: ModelBundle, _ artifact: Manifest.Artifact, _ runner: Runner) throws -> KnownAnswerResult {
    let answer = try KnownAnswer(bundle, artifact)
    let result = answer.judge(try runner.run(answer.feed))
    if result.right == false {
        let figure = result.db.map { " (\(Int($0.rounded())) dB)" } ?? ""
        throw KitError(
            .runner,
            "The model's \(artifact.view) part gives a wrong answer on this device\(figure). Use another bundle or system version.")
    }
    return result
}
