// Which model the app has: the bundle that was installed into it, or one that the user chose.
import Foundation
import MobileCLIPKit
import Observation
import UIKit

@MainActor @Observable
final class ModelStore {
    enum State {
        case opening(String)
        /// No model that can be used, and why, as it is shown.
        case missing(String)
        case ready(Engine)
    }

    private(set) var state = State.opening("Opening the model")
    /// Whether the notice about memory is shown.
    var offersSmall = false
    private var isSmall = false
    @ObservationIgnored private var warnings: Task<Void, Never>?

    /// Where a chosen bundle is kept.
    private static let chosen = URL.applicationSupportDirectory.appending(path: "bundle")

    /// The chosen bundle, else the installed one.
    static var folder: URL {
        if FileManager.default.fileExists(atPath: chosen.path) { return chosen }
        return Bundle.main.bundleURL.appending(path: "bundle")
    }

    func open(small: Bool = false) async {
        isSmall = small
        offersSmall = false
        state = .opening("Checking the model")
        let folder = Self.folder
        let result = await Task.detached(priority: .userInitiated) {
            Result { try Engine(folder: folder, resources: Bundle.main.bundleURL, small: small) }
        }.value
        switch result {
        case .success(let engine):
            if !Self.wasTested(engine) {
                state = .opening("Testing the model on this device")
                do {
                    try await engine.test()
                    UserDefaults.standard.set(engine.fingerprint, forKey: "tested")
                } catch {
                    state = .missing(Self.sentence(error))
                    return
                }
            }
            state = .ready(engine)
            watchMemory(engine)
        case .failure(let error): state = .missing(Self.sentence(error))
        }
    }

    /// Take a bundle that the user chose: a copy, put in place whole.
    func adopt(_ result: Result<URL, any Error>) async {
        do {
            let url = try result.get()
            let isScoped = url.startAccessingSecurityScopedResource()
            defer { if isScoped { url.stopAccessingSecurityScopedResource() } }
            let partial = URL.applicationSupportDirectory.appending(path: "bundle.partial")
            try FileManager.default.createDirectory(at: .applicationSupportDirectory, withIntermediateDirectories: true)
            try? FileManager.default.removeItem(at: partial)
            try FileManager.default.copyItem(at: url, to: partial)
            _ = try ModelBundle(folder: partial, tokenizer: nil)
            try? FileManager.default.removeItem(at: Self.chosen)
            try FileManager.default.moveItem(at: partial, to: Self.chosen)
            await open()
        } catch {
            state = .missing(Self.sentence(error))
        }
    }

    /// The self-test ran already on this system with this bundle.
    private static func wasTested(_ engine: Engine) -> Bool {
        UserDefaults.standard.string(forKey: "tested") == engine.fingerprint
    }

    private func watchMemory(_ engine: Engine) {
        warnings?.cancel()
        guard engine.hasSmall, !isSmall else { return }
        warnings = Task { [weak self] in
            for await _ in NotificationCenter.default.notifications(named: UIApplication.didReceiveMemoryWarningNotification)
                .map({ _ in () })
            {
                self?.offersSmall = true
            }
        }
    }

    static func sentence(_ error: any Error) -> String { (error as? KitError)?.message ?? error.localizedDescription }
}
