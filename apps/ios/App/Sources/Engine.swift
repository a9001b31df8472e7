// The model at work: an actor, so that one thing runs at a time and nothing waits on the main thread.
import CoreML
import Foundation
import MobileCLIPKit

actor Engine {
    private static let targets = ["coreml", "executorch-coreml", "executorch-xnnpack"]
    private static let denseViews = ["multitask", "dense", "segmentation", "depth", "detection"]

    nonisolated let bundle: ModelBundle
    nonisolated let tokenizer: Tokenizer
    nonisolated let words: Labels
    nonisolated let isSmall: Bool
    nonisolated let image: Manifest.Artifact?
    nonisolated let text: Manifest.Artifact?
    nonisolated let dense: Manifest.Artifact?
    private var runners: [String: any Runner] = [:]

    nonisolated var hasSmall: Bool { bundle.hasSmall }
    /// Whether labels and photo search work.
    nonisolated var hasBothTowers: Bool { image != nil && text != nil && bundle.manifest.model.logitScale != nil }
    /// The bundle and system that the self-test speaks of.
    nonisolated var fingerprint: String {
        [image, text, dense].compactMap { $0?.sha256 }.joined(separator: "+")
            + "@" + ProcessInfo.processInfo.operatingSystemVersionString
    }

    init(folder: URL, resources: URL, small: Bool) throws {
        tokenizer = try Tokenizer(folder: resources)
        let bundle = try ModelBundle(folder: folder, tokenizer: tokenizer.sha256)
        self.bundle = bundle
        words = try bundle.labels()
        isSmall = small
        func held(_ view: String) -> Manifest.Artifact? {
            try? bundle.artifact(view: view, targets: Self.runnable, small: small)
        }
        image = held("image")
        text = held("text")
        dense = Self.denseViews.lazy.compactMap(held).first
        if image == nil && dense == nil { _ = try bundle.artifact(view: "image", targets: Self.targets) }
    }

    /// Targets that this build can run.
    private static var runnable: [String] {
        #if canImport(ExecuTorch)
            targets
        #else
            ["coreml"]
        #endif
    }

    nonisolated static func load(_ bundle: ModelBundle, _ artifact: Manifest.Artifact) throws -> any Runner {
        if artifact.target == "coreml" {
            return try CoreMLRunner(bundle, artifact, caches: .cachesDirectory.appending(path: "models"))
        }
        #if canImport(ExecuTorch)
            return try ExecuTorchRunner(bundle, artifact)
        #else
            throw KitError(
                .target,
                "This app was built without ExecuTorch. Export the model with --to coreml, or build with "
                    + "MOBILECLIP_EXECUTORCH=1.")
        #endif
    }

    private func runner(_ artifact: Manifest.Artifact) throws -> any Runner {
        if let found = runners[artifact.file] { return found }
        let made = try Self.load(bundle, artifact)
        runners[artifact.file] = made
        return made
    }

    /// Each part's known answer, on this device.
    func test() throws {
        for artifact in [image, text, dense].compactMap({ $0 }) {
            _ = try selfTest(bundle, artifact, runner(artifact))
        }
    }

    func embed(_ picture: Picture) throws -> [Float] {
        guard let image, let input = image.inputs.first else {
            throw KitError(.target, "This model has no image part. Export one with both towers.")
        }
        let fitted = try picture.fitted(Fit(input, dense: bundle.manifest.dense))
        return try first(runner(image).run(.picture(fitted)))
    }

    func embed(_ text: String) throws -> [Float] {
        guard let artifact = self.text else {
            throw KitError(.target, "This model has no text part. Export one with both towers.")
        }
        return try first(runner(artifact).run(.ids(tokenizer.row(text))))
    }

    private func first(_ outputs: [Tensor]) throws -> [Float] {
        guard let found = outputs.first?.values else {
            throw KitError(.runner, "The model gave no answer. Export it again.")
        }
        return found
    }

    /// What the dense part says of a picture.
    func look(_ picture: Picture, _ task: String) throws -> Seen {
        guard let dense, let input = dense.inputs.first, let about = bundle.manifest.dense,
            let head = about.heads.first(where: { $0.task == task })
        else { throw KitError(.target, "This model has no \(task) part. Export a dense checkpoint, or a CLIP with heads.") }
        let fitted = try picture.fitted(Fit(input, dense: about))
        let outputs = try runner(dense).run(.picture(fitted))
        let own = head.outputs.compactMap { name in
            dense.outputs.firstIndex { $0.name == name }.map { outputs[$0] }
        }
        guard own.count == head.outputs.count else {
            throw KitError(.runner, "The model gives other outputs than its manifest says. Export it again.")
        }
        return try Seen(head, own, picture, PixelSize(rows: about.input.size[0], columns: about.input.size[1]), words)
    }

    /// Heads of the dense part, in the order of the manifest.
    nonisolated var tasks: [String] { dense == nil ? [] : bundle.manifest.dense?.heads.map(\.task) ?? [] }
}

/// What is drawn over a picture.
struct Seen: Sendable {
    let overlay: Picture
    /// Read out, and shown below.
    let summary: String
    let objects: [Detected]
    let labels: [String]

    init(_ head: Manifest.Dense.Head, _ outputs: [Tensor], _ picture: Picture, _ input: PixelSize, _ words: Labels) throws {
        labels = words.labels
        let colours = words.palette ?? palette(max(words.labels.count, 1))
        let size = picture.size
        switch head.task {
        case "depth":
            let metres = try Maps(outputs[0].values, shape: outputs[0].shape).metres(size)
            let drawn = depthColours(metres)
            overlay = try Picture(width: picture.width, height: picture.height, pixels: drawn.pixels)
            summary = String(localized: "From \(drawn.low, specifier: "%.1f") to \(drawn.high, specifier: "%.1f") metres")
            objects = []
        case "segmentation":
            let output = outputs[0]
            let found: [UInt8]
            if head.outputs[0] == "labels" {
                let small = PixelSize(rows: output.shape[output.shape.count - 2], columns: output.shape[output.shape.count - 1])
                found = nearestLabels(output.values.map { UInt8(min(max($0, 0), 255)) }, from: small, to: size)
            } else {
                found = try Maps(output.values, shape: output.shape).labels(size)
            }
            overlay = tinted(picture, labels: found, palette: colours)
            objects = []
            summary = Self.largest(found, words.labels)
        default:
            let told = head.postprocess
            let rule = DetectionRule(threshold: 0.3, most: told.most ?? 100, overlap: told.overlap)
            if told.kind == "objects" {
                objects = try RegionOutputs(
                    boxes: outputs[0].values, scores: outputs[1].values, labels: outputs[2].values.map { Int($0) },
                    masks: outputs[3].values
                ).objects(original: size, size: input, rule: rule)
            } else {
                objects = try PointOutputs(
                    boxes: outputs[0].values, scores: outputs[1].values, coeffs: outputs[2].values,
                    protos: Maps(outputs[3].values, shape: outputs[3].shape)
                ).objects(original: size, rule: rule)
            }
            overlay = Self.masked(picture, objects, colours)
            let names = objects.prefix(5).map { words.labels.indices.contains($0.label) ? words.labels[$0.label] : "?" }
            summary = names.isEmpty ? String(localized: "Nothing found") : names.formatted(.list(type: .and))
        }
    }

    private static func masked(_ picture: Picture, _ objects: [Detected], _ colours: [[UInt8]]) -> Picture {
        var labels = [UInt8](repeating: 255, count: picture.width * picture.height)
        for object in objects.reversed() {
            for (place, isInside) in object.mask.enumerated() where isInside {
                let y = object.rows.lowerBound + place / object.columns.count
                labels[y * picture.width + object.columns.lowerBound + place % object.columns.count] =
                    UInt8(object.label % min(colours.count, 255))
            }
        }
        return tinted(picture, labels: labels, palette: Array(colours.prefix(255)))
    }

    /// The classes that cover most, at least a hundredth.
    private static func largest(_ found: [UInt8], _ labels: [String]) -> String {
        var counts = [Int](repeating: 0, count: 256)
        for label in found { counts[Int(label)] += 1 }
        let named = labels.indices.filter { $0 < 256 && counts[$0] * 100 >= found.count }
            .sorted { counts[$0] > counts[$1] }.prefix(5)
            .map { "\(labels[$0]) \(counts[$0] * 100 / found.count) %" }
        return named.isEmpty ? String(localized: "No class covers a hundredth of the picture") : named.joined(separator: ", ")
    }
}
