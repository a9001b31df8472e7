// A bundle, opened and checked: nothing of it is used before every file is what was exported.
import Foundation

public struct ModelBundle: Sendable {
    public static let largestManifest = 8 << 20

    public let folder: URL
    public let manifest: Manifest

    /// Read and check a bundle.
    ///
    /// - Parameter tokenizer: SHA-256 of the merges that the app has; nil for an app without texts.
    /// - Throws: `KitError` with the sentence to show.
    public init(folder: URL, tokenizer: String?) throws {
        self.folder = folder
        manifest = try Self.read(folder)
        let others = manifest.files.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
        for (name, expected) in manifest.artifacts.map({ ($0.file, $0.sha256) }) + others {
            let url = try file(name)
            guard FileManager.default.fileExists(atPath: url.path) else {
                throw KitError(.missing, "The model is incomplete: \(name) is missing. Install the bundle again.")
            }
            guard try sha256(of: url) == expected else {
                throw KitError(
                    .changed,
                    "The model is damaged: \(name) is not the file that was exported. Install the bundle again.")
            }
        }
        if let tokenizer, let wanted = manifest.tokenizer, wanted.sha256 != tokenizer {
            throw KitError(
                .tokenizer,
                "This model was made for another tokenizer: its texts would be misread. Export it again with this version.")
        }
    }

    /// The path of a file of the bundle, which must lie inside of it.
    public func file(_ name: String) throws -> URL {
        let parts = name.split(separator: "/", omittingEmptySubsequences: false)
        let url = folder.appendingPathComponent(name)
        let root = folder.resolvingSymlinksInPath().standardizedFileURL.path + "/"
        let inside = (url.resolvingSymlinksInPath().standardizedFileURL.path + "/").hasPrefix(root)
        guard !name.isEmpty, !name.hasPrefix("/"), !name.contains("\0"), !parts.contains(".."), inside else {
            throw KitError(
                .outside,
                "The model's manifest names a file outside of its folder (\(name)). Do not use this bundle.")
        }
        return url
    }

    /// Folder of what has fewer bits, which `mobileclip apps install --small` adds for devices with little memory.
    public static let small = "small/"

    public var hasSmall: Bool { manifest.artifacts.contains { $0.file.hasPrefix(Self.small) } }

    /// The artifact of a view for the first of some targets that there is; with fewer bits if asked for and there.
    public func artifact(view: String, targets: [String], small: Bool = false) throws -> Manifest.Artifact {
        for target in targets {
            if let found = try? artifact(view: view, target: target, small: small) { return found }
        }
        return try artifact(view: view, target: targets[0])
    }

    /// The artifact of a view for a target.
    public func artifact(view: String, target: String, small: Bool = false) throws -> Manifest.Artifact {
        let held = manifest.artifacts.filter { $0.view == view }
        let fitting = held.filter { $0.target == target }
        if let found = fitting.first(where: { $0.file.hasPrefix(Self.small) == small }) ?? fitting.first { return found }
        let targets = Set(held.map(\.target)).sorted().joined(separator: ", ")
        throw KitError(
            .target,
            "This model has no \(view) part for \(target) (it has \(targets.isEmpty ? "none" : targets)). "
                + "Export it with --to \(target).")
    }

    public func labels() throws -> Labels {
        do {
            return try JSONDecoder().decode(Labels.self, from: Data(contentsOf: file(manifest.labels)))
        } catch let error as KitError {
            throw error
        } catch {
            throw KitError(.incomplete, "The model's labels cannot be read. Export the model again.")
        }
    }

    /// The values of an array of the known answer, as floats (ids as well: they are exact up to 2^24).
    public func values(_ stored: Manifest.Stored) throws -> [Float] {
        let raw = [UInt8](try Data(contentsOf: file(stored.file)))
        let count = stored.shape.reduce(1, *)
        let width = stored.dtype == "int64" ? 8 : 4
        guard raw.count == count * width else {
            throw KitError(.changed, "The model is damaged: \(stored.file) has another size. Install the bundle again.")
        }
        return raw.withUnsafeBytes { bytes in
            (0..<count).map { place in
                switch stored.dtype {
                case "float32":
                    Float(bitPattern: .init(littleEndian: bytes.loadUnaligned(fromByteOffset: 4 * place, as: UInt32.self)))
                case "int64":
                    Float(Int64(littleEndian: bytes.loadUnaligned(fromByteOffset: 8 * place, as: Int64.self)))
                default:
                    Float(Int32(littleEndian: bytes.loadUnaligned(fromByteOffset: 4 * place, as: Int32.self)))
                }
            }
        }
    }

    private static func read(_ folder: URL) throws -> Manifest {
        let url = folder.appendingPathComponent("manifest.json")
        guard FileManager.default.fileExists(atPath: url.path), !isFolder(url) else {
            throw KitError(
                .noManifest,
                "There is no model here: manifest.json is missing. Install a bundle that `mobileclip export` made.")
        }
        let notJSON = KitError(
            .notJSON, "The model's manifest.json cannot be read: it is not JSON. Install the bundle again.")
        struct Version: Decodable { let schema: Int }
        let file = try FileHandle(forReadingFrom: url)
        defer { try? file.close() }
        guard let data = try file.read(upToCount: largestManifest + 1), data.count <= largestManifest,
            let version = try? JSONDecoder().decode(Version.self, from: data).schema
        else { throw notJSON }
        if version > Manifest.version {
            throw KitError(
                .newer,
                "This model was made for a newer app (manifest version \(version), this app reads \(Manifest.version)). "
                    + "Update the app, or export the model again.")
        }
        if version < Manifest.version {
            throw KitError(
                .older,
                "This model's manifest is of version \(version), this app reads \(Manifest.version). "
                    + "Export the model again.")
        }
        guard let manifest = try? JSONDecoder().decode(Manifest.self, from: data), isWhole(manifest) else {
            throw KitError(
                .incomplete, "The model's manifest.json does not say what this app needs. Export the model again.")
        }
        return manifest
    }

    private static func isWhole(_ manifest: Manifest) -> Bool {
        let digits = Set("0123456789abcdef")
        let hashes = manifest.artifacts.map(\.sha256) + manifest.files.values
        let shapes = manifest.artifacts.flatMap { $0.inputs.map(\.shape) + $0.outputs.map(\.shape) }
        return !manifest.artifacts.isEmpty && hashes.allSatisfy { $0.utf8.count == 64 && digits.isSuperset(of: $0) }
            && shapes.allSatisfy { $0.allSatisfy { $0 > 0 } }
    }
}
