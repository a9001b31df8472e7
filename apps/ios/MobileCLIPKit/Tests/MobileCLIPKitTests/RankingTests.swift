import XCTest

@testable import MobileCLIPKit

final class RankingTests: XCTestCase {
    private struct File: Decodable {
        struct Case: Decodable {
            let name: String
            let image: Stored
            let texts: Stored
            let logit_scale: Double
            let probabilities: [Double]?
            let order: [Int]?
            let tolerance: Double?
        }
        struct Ensemble: Decodable {
            let templates: Int
            let texts: Stored
            let classes: Stored
            let tolerance: Double
        }
        let cases: [Case]
        let ensembles: [Ensemble]
    }

    func testGoldenRanking() throws {
        for item in try Golden.file("ranking.json", File.self).cases {
            let found = Result {
                try probabilities(image: item.image.floats, texts: item.texts.rows, logitScale: item.logit_scale)
            }
            guard let wanted = item.probabilities else {
                XCTAssertThrowsError(try found.get(), item.name) {
                    XCTAssert("\($0)".hasPrefix("The model gave no usable answer for th"), "\($0)")
                }
                continue
            }
            XCTAssertLessThanOrEqual(distance(try found.get(), wanted), item.tolerance!, item.name)
            XCTAssertEqual(ranked(try found.get()).map(\.index), item.order, item.name)
        }
    }

    func testGoldenEnsembles() throws {
        for item in try Golden.file("ranking.json", File.self).ensembles {
            for (place, wanted) in item.classes.rows.enumerated() {
                let texts = Array(item.texts.rows[(place * item.templates)..<((place + 1) * item.templates)])
                XCTAssertLessThanOrEqual(distance(try XCTUnwrap(classEmbedding(texts)), wanted), item.tolerance)
            }
        }
    }

    func testLabelsThatAreEdited() throws {
        var asked: [String] = []
        func encode(_ text: String) -> [Float] {
            asked.append(text)
            return text.contains("cat") ? [1, 0] : [0, 1]
        }
        var classifier = ZeroShotClassifier(logitScale: 10)
        XCTAssert(try classifier.classify([1, 0]).isEmpty)
        classifier.setLabels([" cat ", "", "dog", "cat"], template: "a photo of a {}", encode: encode)
        XCTAssertEqual(classifier.labels, ["cat", "dog"])
        XCTAssertEqual(asked, ["a photo of a cat", "a photo of a dog"])
        let found = try classifier.classify([2, 0.5])
        XCTAssertEqual(found.map(\.label), ["cat", "dog"])
        XCTAssertEqual(found.reduce(0) { $0 + $1.probability }, 1, accuracy: 1e-12)
        classifier.setLabels(["dog", "bird"], template: "a photo of a {}", encode: encode)
        XCTAssertEqual(asked.last, "a photo of a bird")
        XCTAssertEqual(asked.count, 3)
        XCTAssertNil(classEmbedding([]))
        XCTAssertNil(classEmbedding([[1, 2], [.nan, 1]]))
    }

    func testHalves() {
        for bits in UInt16.min...UInt16.max {
            let value = float(bits)
            if value.isNaN { continue }
            XCTAssertEqual(half(value), bits)
        }
        XCTAssertEqual(half(1 + 1 / 2048), half(1))  // a tie goes to the even one
        XCTAssertEqual(half(1 + 3 / 2048), half(1) + 2)
        XCTAssertEqual(float(half(1e9)), .infinity)
        XCTAssert(float(half(.nan)).isNaN)
    }
}
