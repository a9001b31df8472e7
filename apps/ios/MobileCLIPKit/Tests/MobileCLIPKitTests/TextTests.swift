import XCTest

@testable import MobileCLIPKit

final class TextTests: XCTestCase {
    private struct File: Decodable {
        struct Case: Decodable {
            let text: String
            let ids: [Int32]
            let tokens: Int?
        }
        struct Units: Decodable {
            let utf16: [UInt16]
            let ids: [Int32]
        }
        let cases: [Case]
        let repaired: [Case]
        let surrogates: [Units]
        let merges_sha256: String
    }

    func testGoldenTokens() throws {
        let file = try Golden.file("tokenization.json", File.self)
        let tokenizer = try Golden.tokenizer.get()
        XCTAssertGreaterThanOrEqual(file.cases.count, 2000)
        XCTAssertEqual(tokenizer.sha256, file.merges_sha256)
        for item in file.cases + file.repaired {
            let ids = tokenizer.encode(item.text)
            XCTAssertEqual(Array(ids.prefix(75)), item.ids, item.text.debugDescription)
            if let tokens = item.tokens { XCTAssertEqual(ids.count, tokens) }
            let row = tokenizer.row(item.text)
            XCTAssertEqual(row.count, 77)
            XCTAssertEqual(row[0], 49406)
            XCTAssertEqual(Array(row[1...item.ids.count + 1]), item.ids + [49407])
            XCTAssert(row[(item.ids.count + 2)...].allSatisfy { $0 == 0 })
        }
        for item in file.surrogates {
            XCTAssertEqual(tokenizer.encode(String(decoding: item.utf16, as: UTF16.self)), item.ids, "\(item.utf16)")
        }
    }

    /// A cut word among remembered ones, and one that is too long to be remembered.
    func testTheMemoryChangesNothing() throws {
        let fresh = try Tokenizer(folder: Golden.folder)
        let texts = ["komodo dragon", "Komodo Dragon!", "stethoscope", String(repeating: "ab", count: 40)]
        let first = texts.map(fresh.encode)
        XCTAssertEqual(texts.map(fresh.encode), first)
        XCTAssertEqual(first[0], Array(first[1].dropLast()))
        XCTAssertEqual(fresh.row(String(repeating: "cat ", count: 100), context: 5), [49406, 2368, 2368, 2368, 49407])
    }

    func testSeveralThreads() throws {
        let tokenizer = try Tokenizer(folder: Golden.folder)
        let wanted = tokenizer.encode("a photo of a dog")
        DispatchQueue.concurrentPerform(iterations: 200) { place in
            _ = tokenizer.encode("word\(place)")
            XCTAssertEqual(tokenizer.encode("a photo of a dog"), wanted)
        }
    }

    func testForeignResources() throws {
        let merges = try Data(contentsOf: Golden.folder.appendingPathComponent("merges.txt"))
        let tables = try Data(contentsOf: Golden.folder.appendingPathComponent("cleaning.json"))
        for (data, table, part) in [
            (merges.dropLast(100), tables, "merges.txt does not hold CLIP's 48894 merges"),
            (Data("a b c".utf8), tables, "merges.txt does not hold"), (merges, Data("{}".utf8), "cleaning.json"),
        ] {
            XCTAssertThrowsError(try Tokenizer(merges: data, cleaning: table)) { error in
                XCTAssert("\(error)".contains(part), "\(error)")
            }
        }
        XCTAssertThrowsError(try Tokenizer(folder: Golden.folder.appendingPathComponent("bundles"))) { error in
            XCTAssertEqual("\(error)", "The app is incomplete: merges.txt is missing. Install it again.")
        }
    }
}
