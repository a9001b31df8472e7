// Speed of the kit on one core: `swift run -c release bench [golden folder]`. Prints one JSON line. Times are those of the
// processor, so that what else the machine does is not in them.
import Foundation
import MobileCLIPKit

private let golden = URL(
    fileURLWithPath: CommandLine.arguments.dropFirst().first
        ?? URL(fileURLWithPath: #filePath).appendingPathComponent("../../../../../golden").standardized.path)

/// The fastest of five, each on what it has not seen.
private func fastest(_ call: (Int) throws -> Void) rethrows -> Double {
    try (0..<5).map { turn in
        let start = clock()
        try call(turn)
        return Double(clock() - start) / 1000  // POSIX: a million ticks a second
    }.min()!
}

private struct Texts: Decodable {
    struct Case: Decodable { let text: String }
    let cases: [Case]
}

private func tokenising() throws -> (captions: Double, unicode: Double) {
    let texts = try JSONDecoder().decode(Texts.self, from: Data(contentsOf: golden.appendingPathComponent("tokenization.json")))
    let names = texts.cases.prefix(1000).map(\.text)
    let captions = names.indices.map { "A photo of a \(names[$0]) and a \(names[(7 * $0 + 3) % 1000]), taken in the wild." }
    let others = Array(texts.cases.filter { $0.text.utf8.count != $0.text.count && $0.text.count < 200 }.map(\.text))
    let unicode = (0..<1000).map { others[$0 % others.count] }
    let tokenizers = try (0..<10).map { _ in try Tokenizer(folder: golden) }
    var sum: Int32 = 0
    let plain = fastest { turn in for text in captions { sum &+= tokenizers[turn].row(text)[1] } }
    let wide = fastest { turn in for text in unicode { sum &+= tokenizers[5 + turn].row(text)[1] } }
    precondition(sum != 0)
    return (plain, wide)
}

private func searching(_ precision: Precision) throws -> (exact: Double, coded: Double) {
    var state: UInt64 = 88
    func random() -> Float {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Float(Int32(truncatingIfNeeded: state >> 33)) / 1e9 - 1
    }
    var index = EmbeddingIndex(width: 512, precision: precision)
    for _ in 0..<100_000 { try index.append((0..<512).map { _ in random() }) }
    let questions = (0..<5).map { _ in (0..<512).map { _ in random() } }
    var found = 0
    let exact = try fastest { turn in found += try index.search(questions[turn], most: 20).count }
    let coded = try fastest { turn in found += try index.search(questions[turn], most: 20, candidates: 1000).count }
    precondition(found == 200)
    return (exact, coded)
}

private func resizing() throws -> Double {
    let photo = try Picture(width: 4000, height: 3000, pixels: (0..<36_000_000).map { UInt8(truncatingIfNeeded: $0 &* 31) })
    return try fastest { _ in
        let square = try photo.square(256, .bilinear)
        precondition(square.width == 256)
    }
}

private let (captions, unicode) = try tokenising()
private let (int8, coded) = try searching(.int8)
private let (fp16, _) = try searching(.fp16)
private let figures: [(String, Double)] = [
    ("tokenise_1000_captions_ms", captions), ("tokenise_1000_unicode_ms", unicode),
    ("search_100000_int8_ms", int8), ("search_100000_signs_first_ms", coded), ("search_100000_fp16_ms", fp16),
    ("square_4000x3000_ms", try resizing()),
]
print("{" + figures.map { "\"\($0.0)\": \(($0.1 * 100).rounded() / 100)" }.joined(separator: ", ") + "}")
