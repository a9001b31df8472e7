// The user's photos, indexed in the background: where it was stopped it goes on, and nothing leaves the device.
import Foundation
import MobileCLIPKit
import Observation
@preconcurrency import Photos
import UIKit

/// The index on disk. One thing at a time.
actor PhotoIndex {
    private let file: IndexFile

    init(engine: Engine) throws {
        guard let image = engine.image, let width = engine.bundle.manifest.model.embedDim else {
            throw KitError(.target, "This model has no image part. Export one with both towers.")
        }
        let folder = URL.applicationSupportDirectory
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        file = try IndexFile(
            url: folder.appending(path: "photos.index"), model: image.sha256, width: width, precision: .int8)
    }

    var names: Set<String> { Set(file.names) }
    var count: Int { file.names.count }

    func add(_ name: String, _ embedding: [Float]) throws { try file.append(name, embedding) }

    /// Best first. Beyond this many photos signs are compared first.
    func search(_ question: [Float], most: Int) throws -> [(name: String, score: Double)] {
        let found =
            file.names.count > 50_000
            ? try file.index.search(question, most: most, candidates: 50 * most)
            : try file.index.search(question, most: most)
        return found.map { (file.names[$0.index], $0.score) }
    }
}

@MainActor @Observable
final class PhotoLibrary {
    private(set) var access: PHAuthorizationStatus?
    private(set) var indexed = 0
    private(set) var total = 0
    /// Photos that could not be read, such as those in iCloud only.
    private(set) var skipped = 0
    private(set) var isIndexing = false
    private(set) var problem: String?
    private(set) var results: [PHAsset] = []
    private(set) var hasSearched = false
    @ObservationIgnored private let engine: Engine
    @ObservationIgnored private var index: PhotoIndex?
    @ObservationIgnored private var work: Task<Void, Never>?

    init(engine: Engine) { self.engine = engine }

    func start() async {
        access = await PHPhotoLibrary.requestAuthorization(for: .readWrite)
        guard access == .authorized || access == .limited else { return }
        do {
            if index == nil { index = try PhotoIndex(engine: engine) }
            resume()
        } catch {
            problem = ModelStore.sentence(error)
        }
    }

    func pause() {
        work?.cancel()
        isIndexing = false
    }

    func resume() {
        guard !isIndexing, let index else { return }
        isIndexing = true
        problem = nil
        work = Task(priority: .utility) {
            // so that the photo at work is finished when the user leaves the app
            let held = UIApplication.shared.beginBackgroundTask { [weak self] in self?.pause() }
            defer { UIApplication.shared.endBackgroundTask(held) }
            await run(index)
            isIndexing = false
        }
    }

    private func run(_ index: PhotoIndex) async {
        let options = PHFetchOptions()
        options.sortDescriptors = [NSSortDescriptor(key: "creationDate", ascending: false)]
        let assets = PHAsset.fetchAssets(with: .image, options: options)
        let known = await index.names
        (total, indexed, skipped) = (assets.count, 0, 0)
        for place in 0..<assets.count {
            if Task.isCancelled { return }
            let asset = assets.object(at: place)
            if known.contains(asset.localIdentifier) {
                indexed += 1
                continue
            }
            do {
                guard let picture = try await Self.picture(of: asset) else {
                    skipped += 1
                    continue
                }
                try await index.add(asset.localIdentifier, engine.embed(picture))
                indexed += 1
            } catch let error as KitError where error.code == .picture {
                skipped += 1
            } catch {
                problem = ModelStore.sentence(error)
                return
            }
        }
    }

    func search(_ text: String) async {
        guard let index, !text.trimmingCharacters(in: .whitespacesAndNewlines).isEmpty else {
            (results, hasSearched) = ([], false)
            return
        }
        do {
            let question = try await engine.embed(text)
            let found = try await index.search(question, most: 60)
            let fetched = PHAsset.fetchAssets(withLocalIdentifiers: found.map { $0.name }, options: nil)
            var byName: [String: PHAsset] = [:]
            fetched.enumerateObjects { asset, _, _ in byName[asset.localIdentifier] = asset }
            results = found.compactMap { byName[$0.name] }
            hasSearched = true
            problem = nil
        } catch {
            problem = ModelStore.sentence(error)
        }
    }

    /// nil where the photo is not on this device.
    private nonisolated static func picture(of asset: PHAsset) async throws -> Picture? {
        try await image(of: asset, side: 512)?.cgImage.map { try Picture($0) }
    }

    /// Upright, its short side about `side` pixels, only from this device.
    nonisolated static func image(of asset: PHAsset, side: CGFloat) async -> UIImage? {
        let options = PHImageRequestOptions()
        options.deliveryMode = .highQualityFormat
        options.resizeMode = .fast
        options.isNetworkAccessAllowed = false
        return await withCheckedContinuation { continuation in
            PHImageManager.default().requestImage(
                for: asset, targetSize: CGSize(width: side, height: side), contentMode: .aspectFill, options: options
            ) { image, _ in continuation.resume(returning: image.map(upright)) }
        }
    }

    private nonisolated static func upright(_ image: UIImage) -> UIImage {
        if image.imageOrientation == .up { return image }
        let format = UIGraphicsImageRendererFormat()
        format.scale = image.scale
        return UIGraphicsImageRenderer(size: image.size, format: format).image { _ in image.draw(at: .zero) }
    }
}
