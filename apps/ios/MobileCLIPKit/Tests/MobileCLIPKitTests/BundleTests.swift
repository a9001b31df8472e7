import XCTest

@testable import MobileCLIPKit

final class BundleTests: XCTestCase {
    private struct File: Decodable {
        struct Case: Decodable {
            let bundle: String
            let ok: Bool
            let code: String?
            let message: String?
            let view: String
            let target: String
            let file: String?
        }
        let cases: [Case]
    }

    func testGoldenBundles() throws {
        let tokenizer = try Golden.tokenizer.get().sha256
        let cases = try Golden.file("manifests.json", File.self).cases
        XCTAssert(cases.contains { $0.ok } && cases.contains { !$0.ok })
        for item in cases {
            let folder = Golden.folder.appendingPathComponent("bundles/\(item.bundle)")
            let found = Result {
                try ModelBundle(folder: folder, tokenizer: tokenizer).artifact(view: item.view, target: item.target)
            }
            switch found {
            case .success(let artifact): XCTAssertEqual(artifact.file, item.file, item.bundle)
            case .failure(let error as KitError):
                XCTAssertEqual(error.message, item.message, item.bundle)
                XCTAssertEqual(error.code.rawValue, item.code, item.bundle)
            case .failure(let error): XCTFail("\(item.bundle): \(error)")
            }
        }
    }

    /// FIPS 180-4's examples, and a million letters.
    func testHashes() {
        for (text, wanted) in [
            ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
            ),
            (
                String(repeating: "a", count: 1_000_000),
                "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
            ),
        ] {
            XCTAssertEqual(sha256(Array(text.utf8)), wanted)
            var portable = PortableSHA256()
            for start in stride(from: 0, to: text.utf8.count, by: 777) {
                portable.update(Array(text.utf8.dropFirst(start).prefix(777)))
            }
            XCTAssertEqual(portable.finish(), wanted)
        }
    }

    func testALinkOutOfTheFolder() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID())")
        defer { try? FileManager.default.removeItem(at: folder) }
        try FileManager.default.copyItem(at: Golden.folder.appendingPathComponent("bundles/good"), to: folder)
        let labels = folder.appendingPathComponent("labels.json")
        try FileManager.default.removeItem(at: labels)
        try FileManager.default.createSymbolicLink(
            at: labels, withDestinationURL: Golden.folder.appendingPathComponent("bundles/good/labels.json"))
        XCTAssertThrowsError(try ModelBundle(folder: folder, tokenizer: nil)) {
            XCTAssertEqual(($0 as? KitError)?.code, .outside)
        }
    }

    /// `mobileclip apps install --small` puts a second artifact of the same view and target under small/.
    func testTheSmallArtifact() throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID())")
        defer { try? FileManager.default.removeItem(at: folder) }
        try FileManager.default.copyItem(at: Golden.folder.appendingPathComponent("bundles/good"), to: folder)
        let path = folder.appendingPathComponent("manifest.json")
        var whole = try XCTUnwrap(JSONSerialization.jsonObject(with: Data(contentsOf: path)) as? [String: Any])
        var artifacts = try XCTUnwrap(whole["artifacts"] as? [[String: Any]])
        try FileManager.default.createDirectory(at: folder.appendingPathComponent("small"), withIntermediateDirectories: true)
        try FileManager.default.copyItem(
            at: folder.appendingPathComponent("image.onnx"), to: folder.appendingPathComponent("small/image.onnx"))
        artifacts.append(artifacts[0].merging(["file": "small/image.onnx", "precision": "w8a8"]) { $1 })
        whole["artifacts"] = artifacts
        try JSONSerialization.data(withJSONObject: whole).write(to: path)
        let bundle = try ModelBundle(folder: folder, tokenizer: nil)
        XCTAssert(bundle.hasSmall)
        XCTAssertEqual(try bundle.artifact(view: "image", target: "onnx").file, "image.onnx")
        XCTAssertEqual(try bundle.artifact(view: "image", target: "onnx", small: true).file, "small/image.onnx")
        XCTAssertEqual(try bundle.artifact(view: "text", target: "onnx", small: true).file, "text.onnx")
        XCTAssertEqual(try bundle.artifact(view: "image", targets: ["none", "coreml"]).file, "image.mlpackage")
        XCTAssertThrowsError(try bundle.artifact(view: "image", targets: ["none", "nil"])) {
            XCTAssertEqual(
                "\($0)", "This model has no image part for none (it has coreml, onnx). Export it with --to none.")
        }
    }

    /// Bundles that `mobileclip export` wrote, where MOBILECLIP_BUNDLES names some (with colons between).
    func testExportedBundles() throws {
        let paths = ProcessInfo.processInfo.environment["MOBILECLIP_BUNDLES"] ?? ""
        try XCTSkipIf(paths.isEmpty, "MOBILECLIP_BUNDLES names no bundle")
        for path in paths.split(separator: ":") {
            let tokenizer = try Golden.tokenizer.get()
            let bundle = try ModelBundle(folder: URL(fileURLWithPath: String(path)), tokenizer: tokenizer.sha256)
            XCTAssertFalse(try bundle.labels().labels.isEmpty)
            for artifact in bundle.manifest.artifacts {
                let answer = try KnownAnswer(bundle, artifact)
                let same = try answer.expected.indices.map { place in
                    try Tensor(shape: artifact.outputs[place].shape, values: answer.expected[place])
                }
                XCTAssertNotEqual(answer.judge(same).right, false, "\(path) \(artifact.file)")
                let input = try XCTUnwrap(artifact.inputs.first)
                if input.kind == "text" {
                    guard case .ids(let ids) = answer.feed else { return XCTFail("no ids: \(artifact.file)") }
                    XCTAssertEqual(ids.first, 49406)
                    continue
                }
                let photo = try Picture(width: 90, height: 70, pixels: .init(repeating: 50, count: 18_900))
                let fitted = try photo.fitted(Fit(input, dense: bundle.manifest.dense))
                XCTAssertEqual([1, 3, fitted.height, fitted.width], input.shape)
                switch answer.feed {
                case .picture(let picture): XCTAssertEqual([1, 3, picture.height, picture.width], input.shape)
                case .tensor(let tensor): XCTAssertEqual(tensor.shape, input.shape)
                case .ids: XCTFail("ids for a picture: \(artifact.file)")
                }
            }
        }
    }

    func testWhatTheGoodBundleSays() throws {
        let bundle = try ModelBundle(folder: Golden.folder.appendingPathComponent("bundles/good"), tokenizer: nil)
        XCTAssertEqual(bundle.manifest.model.logitScale, 100)
        XCTAssertEqual(try bundle.labels().labels, ["cat", "dog", "red car"])
        let image = try bundle.artifact(view: "image", target: "onnx")
        XCTAssertEqual(try Fit(image.inputs[0], dense: nil), .square(8, .bilinear))
        let text = try bundle.artifact(view: "text", target: "onnx")
        XCTAssertThrowsError(try Fit(text.inputs[0], dense: nil)) {
            XCTAssertEqual(
                "\($0)", "The model takes pictures in a way that this app does not know. Update the app, or export again.")
        }
        let ids = try bundle.values(bundle.manifest.knownAnswer["text"]!.input)
        XCTAssertEqual(ids.map { Int32($0) }, try Golden.tokenizer.get().row("a photo of a cat"))
        XCTAssertThrowsError(try bundle.artifact(view: "depth", target: "coreml")) {
            XCTAssertEqual("\($0)", "This model has no depth part for coreml (it has none). Export it with --to coreml.")
        }
    }
}
