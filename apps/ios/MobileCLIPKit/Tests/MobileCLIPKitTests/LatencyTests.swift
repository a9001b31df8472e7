import XCTest

@testable import MobileCLIPKit

/// The network of apps/golden/bundles/good in plain Swift: the mean of each channel times a matrix; ids times another one.
final class GoldenRunner: Runner {
    let runtime = RuntimeName(name: "swift", version: nil, provider: "cpu", threads: 1)
    var flaw: Float = 0
    private(set) var runs = 0

    func run(_ feed: Feed) throws -> [Tensor] {
        runs += 1
        var out = [Float](repeating: 0, count: 4)
        switch feed {
        case .picture(let picture): out = image(picture.tensor())
        case .tensor(let tensor): out = image(tensor.values)
        case .ids(let ids):
            for (place, id) in ids.enumerated() {
                for column in 0..<4 {
                    let weight = Float((place * 4 + column) * 7919 % 13 - 6) / 49408
                    out[column] += Float(id) * weight
                }
            }
        }
        out[0] += flaw
        return [try Tensor(shape: [1, 4], values: out)]
    }

    private func image(_ values: [Float]) -> [Float] {
        let weights: [[Float]] = [[2, -1, 0, 1], [0, 3, -2, 1], [-1, 0, 2, 1]]
        let count = values.count / 3
        let means = (0..<3).map { values[($0 * count)..<(($0 + 1) * count)].reduce(0, +) / Float(count) }
        return (0..<4).map { column in (0..<3).reduce(0) { $0 + means[$1] * weights[$1][column] } }
    }
}

final class LatencyTests: XCTestCase {
    private struct File: Decodable {
        struct Case: Decodable {
            struct Percentiles: Decodable { let p50, p90, p99, min, mean: Double?; let n: Int? }
            let name: String
            let ms: [Double]
            let percentiles: Percentiles
            let model_bench: Double?
            let tolerance: Double
        }
        let cases: [Case]
    }

    func testGoldenStatistics() throws {
        for item in try Golden.file("latency.json", File.self).cases {
            let found = Statistics(item.ms), wanted = item.percentiles
            XCTAssertEqual(found?.n, wanted.n, item.name)
            let values = [found?.p50, found?.p90, found?.p99, found?.min, found?.mean].compactMap { $0 }
            let known = [wanted.p50, wanted.p90, wanted.p99, wanted.min, wanted.mean].compactMap { $0 }
            XCTAssertLessThanOrEqual(distance(values, known), item.tolerance, item.name)
            let mean = modelBench(inRounds(item.ms))
            XCTAssertEqual(mean == nil, item.model_bench == nil, item.name)
            XCTAssertEqual(mean ?? 0, item.model_bench ?? 0, accuracy: item.tolerance, item.name)
        }
    }

    private func subject(_ view: String, _ runner: GoldenRunner) throws -> Subject {
        let bundle = try ModelBundle(folder: Golden.folder.appendingPathComponent("bundles/good"), tokenizer: nil)
        let answer = try KnownAnswer(bundle, bundle.artifact(view: view, target: "onnx"))
        if view == "text" { return Subject(name: "golden text", answer: answer, load: { runner }) }
        let picture = try Picture(width: 40, height: 30, pixels: .init(repeating: 100, count: 3600))
        return Subject(
            name: "golden image", answer: answer, load: { runner },
            wholeRun: { runner in
                var (small, outputs) = (picture, [Tensor]())
                let resize = try milliseconds { small = try picture.square(8, .bilinear) }
                let forward = try milliseconds { outputs = try runner.run(.picture(small)) }
                let after = try milliseconds {
                    _ = try probabilities(image: outputs[0].values, texts: [[1, 0, 0, 0]], logitScale: 100)
                }
                return WholeRun(decode: 0, resize: resize, forward: forward, after: after)
            }, picture: picture.size)
    }

    private var quick: Plan {
        var plan = Plan()
        (plan.runs, plan.seconds, plan.warmupRuns, plan.warmupSeconds, plan.sustainedSeconds) = (60, 0, 3, 0, 0.02)
        return plan
    }

    private func surroundings(cancelAfter: Int? = nil) -> Surroundings {
        let device = ResultDevice(
            kind: "host", name: "test", model: nil, os: "Linux", cores: ProcessInfo.processInfo.processorCount,
            memoryBytes: nil)
        var asked = 0
        return Surroundings(
            device: device, thermal: { "nominal" }, memory: { 1000 },
            isCancelled: {
                asked += 1
                return cancelAfter.map { asked > $0 } ?? false
            })
    }

    /// The JSON goes to MOBILECLIP_RESULT, where Python holds it against the schema.
    func testAWholeRun() throws {
        let (image, text) = (GoldenRunner(), GoldenRunner())
        let result = try measureLatency([subject("image", image), subject("text", text)], plan: quick, in: surroundings())
        XCTAssertEqual(result.state, .complete)
        XCTAssertNil(result.problem)
        XCTAssertEqual(result.sides.map(\.steadyMs.count), [60, 60])
        XCTAssert(result.sides.allSatisfy { $0.knownAnswer.right == true && !$0.sustainedMs.isEmpty })
        XCTAssertEqual(result.sides[0].endToEnd.ms.count, 10)
        XCTAssertGreaterThan(image.runs, 60 + 3 + 12)
        let data = try result.json()
        if let path = ProcessInfo.processInfo.environment["MOBILECLIP_RESULT"], !path.isEmpty {
            try data.write(to: URL(fileURLWithPath: path))
        }
        let json = try XCTUnwrap(try JSONSerialization.jsonObject(with: data) as? [String: Any])
        XCTAssertEqual(json["schema"] as? Int, 2)
        XCTAssert(json["problem"] is NSNull)
    }

    func testAWrongArtifactHasNoLatency() throws {
        let wrong = GoldenRunner()
        wrong.flaw = 0.1
        let result = try measureLatency([subject("image", wrong)], plan: quick, in: surroundings())
        XCTAssertEqual(result.state, .wrong)
        XCTAssertEqual(result.problem, "golden image gives a wrong known answer here: a wrong artifact has no latency.")
        XCTAssert(result.sides[0].steadyMs.isEmpty)
        wrong.flaw = .nan
        let answer = try subject("image", wrong).answer
        XCTAssertEqual(answer.judge(try wrong.run(answer.feed)).right, false)
        XCTAssertEqual(answer.judge([]).right, false)
    }

    func testWhatWasMeasuredBeforeAStopIsKept() throws {
        let result = try measureLatency([subject("text", GoldenRunner())], plan: quick, in: surroundings(cancelAfter: 30))
        XCTAssertEqual(result.state, .partial)
        XCTAssertEqual(result.sides[0].steadyMs.count, 27)
        XCTAssertEqual(result.problem, "Stopped: what was measured until then is kept.")
    }

    func testTheSelfTest() throws {
        let bundle = try ModelBundle(folder: Golden.folder.appendingPathComponent("bundles/good"), tokenizer: nil)
        let runner = GoldenRunner()
        for (view, target) in [("image", "onnx"), ("text", "onnx"), ("image", "coreml")] {
            XCTAssertEqual(try selfTest(bundle, bundle.artifact(view: view, target: target), runner).right, true)
        }
        runner.flaw = 1
        XCTAssertThrowsError(try selfTest(bundle, bundle.artifact(view: "image", target: "onnx"), runner)) {
            XCTAssert("\($0)".hasPrefix("The model's image part gives a wrong answer on this device ("), "\($0)")
        }
    }

    func testAPlanThatMeasuresNothing() throws {
        var plan = Plan()
        plan.runs = 1
        XCTAssertThrowsError(try plan.checked()) {
            XCTAssertEqual("\($0)", "1 runs cannot give a median. Take at least 2.")
        }
    }
}
