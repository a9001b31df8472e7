import XCTest

@testable import MobileCLIPKit

final class SearchTests: XCTestCase {
    private struct File: Decodable {
        struct Case: Decodable {
            let name: String
            let rows: Stored
            let question: Stored
            let most: Int
            let candidates: Int
            let fp16: Half
            let int8: Eight
            let binary: Binary
        }
        struct Half: Decodable {
            let stored: Stored
            let order: [Int]
            let scores: [Double]
            let tolerance: Double
        }
        struct Eight: Decodable {
            let stored: Stored
            let scales: Stored
            let question: Stored
            let question_scale: Double
            let order: [Int]
            let scores: [Double]
            let tolerance: Double
        }
        struct Binary: Decodable {
            let codes: Stored
            let distances: Stored
            let order: [Int]
        }
        let cases: [Case]
    }

    func testGoldenSearch() throws {
        for item in try Golden.file("search.json", File.self).cases {
            let (rows, question) = (item.rows.rows, item.question.floats)
            var exact = EmbeddingIndex(width: question.count, precision: .fp16)
            var small = EmbeddingIndex(width: question.count, precision: .int8)
            for row in rows {
                try exact.append(row)
                try small.append(row)
            }
            let vectors = rows.map { unit($0)! }
            XCTAssertEqual(vectors.flatMap { $0.map(half) }, item.fp16.stored.words, item.name)
            let quantised = vectors.map(Quantised.init)
            XCTAssertEqual(quantised.flatMap(\.integers), item.int8.stored.signed, item.name)
            XCTAssertEqual(quantised.map(\.scale), item.int8.scales.floats, item.name)
            let asked = Quantised(unit(question)!)
            XCTAssertEqual(asked.integers, item.int8.question.signed)
            XCTAssertEqual(Double(asked.scale), item.int8.question_scale)
            XCTAssertEqual(vectors.flatMap(signCode), item.binary.codes.bytes, item.name)

            let nearest = try exact.search(question, most: item.most)
            XCTAssertEqual(nearest.map(\.index), item.fp16.order, item.name)
            XCTAssertLessThanOrEqual(distance(nearest.map(\.score), item.fp16.scores), item.fp16.tolerance)
            let eight = try small.search(question, most: item.most)
            XCTAssertEqual(eight.map(\.index), item.int8.order, item.name)
            XCTAssertLessThanOrEqual(distance(eight.map(\.score), item.int8.scores), item.int8.tolerance)
            XCTAssertEqual(try small.distances(question), item.binary.distances.integers, item.name)
            let coded = try small.search(question, most: item.most, candidates: item.candidates)
            XCTAssertEqual(coded.map(\.index), item.binary.order, item.name)
            let all = try exact.search(question, most: item.most, candidates: rows.count)
            XCTAssertEqual(all, nearest)
        }
    }

    func testWhatAnIndexRefuses() throws {
        var index = EmbeddingIndex(width: 4, precision: .int8)
        XCTAssertThrowsError(try index.append([1, 2, 3])) {
            XCTAssertEqual("\($0)", "The index holds embeddings of width 4, not 3. Index the photos again.")
        }
        XCTAssertThrowsError(try index.append([1, 2, .nan, 3])) {
            XCTAssertEqual("\($0)", "The model gave no usable answer. Try another picture, text or bundle.")
        }
        XCTAssert(try index.search([1, 0, 0, 0], most: 5).isEmpty)
        XCTAssert(try index.search([1, 0, 0, 0], most: 5, candidates: 3).isEmpty)
        try index.append([0, 1, 0, 0])
        XCTAssert(try index.search([1, 0, 0, 0], most: 0).isEmpty)
    }

    func testAnIndexGoesOnWhereItWasStopped() throws {
        let url = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID()).index")
        defer { try? FileManager.default.removeItem(at: url) }
        for precision in [Precision.int8, .fp16] {
            let width = 16
            let rows = (0..<5).map { row in (0..<width).map { Float(($0 * 7 + row * 5) % 11) - 4 } }
            do {
                let file = try IndexFile(url: url, model: "a", width: width, precision: precision)
                XCTAssertEqual(file.names, [])
                for row in 0..<3 { try file.append("photo/\(row)", rows[row]) }
            }
            let whole = try Data(contentsOf: url)
            let first = try IndexFile(url: url, model: "a", width: width, precision: precision)
            XCTAssertEqual(first.names, ["photo/0", "photo/1", "photo/2"])
            let before = try first.index.search(rows[1], most: 3)
            // cut anywhere in the last record: the others stay, and it goes on
            for cut in 1..<20 {
                try whole.dropLast(cut).write(to: url)
                let again = try IndexFile(url: url, model: "a", width: width, precision: precision)
                XCTAssertEqual(again.names, ["photo/0", "photo/1"])
                XCTAssertFalse(again.contains("photo/2"))
                try again.append("photo/2", rows[2])
                XCTAssertEqual(try again.index.search(rows[1], most: 3), before)
                XCTAssertEqual(try Data(contentsOf: url), whole)
            }
            XCTAssertEqual(try IndexFile(url: url, model: "b", width: width, precision: precision).names, [])
            XCTAssertThrowsError(
                try IndexFile(url: url, model: "b", width: 3, precision: precision).append("x", [.infinity, 0, 0])
            ) { XCTAssertEqual("\($0)", "The model gave no usable answer for a photo. Try another bundle.") }
        }
        let nowhere = URL(fileURLWithPath: "/nowhere/\(UUID())/x.index")
        XCTAssertThrowsError(try IndexFile(url: nowhere, model: "a", width: 3, precision: .int8))
    }
}
