// The latency protocol under XCTest, on the bundle that is installed: `xcodebuild test` on a device gives the result JSON as an
// attachment. Without a bundle the test is skipped and says so.
import MobileCLIPKit
import XCTest

@testable import MobileCLIP

final class BenchmarkTests: XCTestCase {
    private func engine() async throws -> Engine {
        let folder = await ModelStore.folder
        do {
            return try Engine(folder: folder, resources: Bundle.main.bundleURL, small: false)
        } catch let error as KitError where error.code == .noManifest {
            throw XCTSkip(error.message)
        }
    }

    func testTheKnownAnswers() async throws { try await engine().test() }

    func testTheProtocol() async throws {
        let engine = try await engine()
        var plan = Plan()
        if ProcessInfo.processInfo.environment["MOBILECLIP_QUICK"] != nil { (plan.runs, plan.seconds) = (20, 0) }
        let result = try Measuring(engine).run(isLong: false, plan: plan) { _, _ in }
        XCTAssertEqual(result.state, .complete, result.problem ?? "")
        let attachment = XCTAttachment(data: try result.json(), uniformTypeIdentifier: "public.json")
        attachment.name = "mobileclip-result.json"
        attachment.lifetime = .keepAlways
        add(attachment)
    }

    func testTheTokenizer() throws {
        let tokenizer = try Tokenizer(folder: Bundle.main.bundleURL)
        XCTAssertEqual(tokenizer.row("a photo of a cat").prefix(7), [49406, 320, 1125, 539, 320, 2368, 49407])
        measure { for number in 0..<1000 { _ = tokenizer.row("a photo of a cat and \(number) dogs") } }
    }
}
