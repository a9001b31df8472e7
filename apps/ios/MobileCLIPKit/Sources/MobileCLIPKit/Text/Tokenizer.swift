// Text to token ids: CLIP's byte-pair encoding, the same ids as open_clip's SimpleTokenizer (apps/golden/README.md, "Tokens").
//
//     let tokenizer = try Tokenizer(folder: resources)             // merges.txt and cleaning.json
//     tokenizer.row("a photo of a cat")                            // 77 ids, padded with 0
//
// Plain ASCII, which the cleaning would not change, skips it; words are remembered. May be used from several threads.
import Foundation

public final class Tokenizer: @unchecked Sendable {
    public static let context = 77, start: Int32 = 49406, end: Int32 = 49407, pad: Int32 = 0
    private static let remembered = 100_000, longestRemembered = 64

    /// SHA-256 of the merges, which a manifest's must equal.
    public let sha256: String

    private let cleaning: Cleaning
    private let merges: MergeTable
    private let lock = NSLock()
    private var known: [[UInt8]: [Int32]] = [:]  // under `lock`

    /// - Parameter folder: where merges.txt and cleaning.json lie.
    public convenience init(folder: URL) throws {
        func read(_ name: String) throws -> Data {
            guard let data = try? Data(contentsOf: folder.appendingPathComponent(name)) else {
                throw KitError(.resource, "The app is incomplete: \(name) is missing. Install it again.")
            }
            return data
        }
        try self.init(merges: read("merges.txt"), cleaning: read("cleaning.json"))
    }

    public init(merges data: Data, cleaning tables: Data) throws {
        let bytes = [UInt8](data)
        sha256 = MobileCLIPKit.sha256(bytes)
        guard let merges = MergeTable(bytes) else {
            throw KitError(.resource, "merges.txt does not hold CLIP's \(MergeTable.count) merges. Install the app again.")
        }
        guard let found = try? JSONDecoder().decode(CleaningTables.self, from: tables) else {
            throw KitError(.resource, "cleaning.json cannot be read. Install the app again.")
        }
        self.merges = merges
        cleaning = Cleaning(tables: found)
    }

    /// Text -> the row of a tower: start, tokens, end, zeros. A text that is too long is cut, its last id is the end.
    public func row(_ text: String, context: Int = Tokenizer.context) -> [Int32] {
        precondition(context >= 2, "a row must hold a start and an end")
        let ids = encode(text).prefix(context - 2)
        let row = [Self.start] + ids + [Self.end]
        return row + [Int32](repeating: Self.pad, count: context - row.count)
    }

    /// Text -> all of its ids, without start and end.
    public func encode(_ text: String) -> [Int32] {
        var text = text
        var ids: [Int32] = []
        let isPlain = text.withUTF8 { bytes in
            guard bytes.allSatisfy({ Self.plain[Int($0)] }) else { return false }
            encodePlain(bytes, into: &ids)
            return true
        }
        if !isPlain {
            for part in cleaning.parts(text) {
                for word in words(part) { ids += encodeWord(Array(string(word).utf8)) }
            }
        }
        return ids
    }

    /// Bytes that neither the cleaning nor the lower case changes in meaning: white space and printable ASCII without `&`.
    private static let plain: [Bool] = (0..<256).map { byte in
        [9, 10, 12, 13].contains(byte) || (byte >= 32 && byte <= 126 && byte != 0x26)
    }

    private enum Kind: UInt8 { case space, letter, number, other }

    private static let kinds: [Kind] = (0..<256).map { byte in
        switch byte {
        case 9, 10, 12, 13, 32: .space
        case 0x41...0x5a, 0x61...0x7a: .letter
        case 0x30...0x39: .number
        default: .other
        }
    }

    private func encodePlain(_ bytes: UnsafeBufferPointer<UInt8>, into ids: inout [Int32]) {
        var place = 0
        var word: [UInt8] = []
        while place < bytes.count {
            let kind = Self.kinds[Int(bytes[place])]
            if kind == .space {
                place += 1
                continue
            }
            var end = place + 1
            if let length = special(at: { place + $0 < bytes.count ? UInt32(bytes[place + $0]) | upper(bytes[place + $0]) : 0 }) {
                end = place + length
            } else if kind != .number {
                while end < bytes.count && Self.kinds[Int(bytes[end])] == kind { end += 1 }
            }
            word.removeAll(keepingCapacity: true)
            for at in place..<end { word.append(bytes[at] | UInt8(upper(bytes[at]))) }
            ids += encodeWord(word)
            place = end
        }
    }

    /// Bit 5 for a capital letter: what makes it small.
    private func upper(_ byte: UInt8) -> UInt32 { byte >= 0x41 && byte <= 0x5a ? 0x20 : 0 }

    /// The words of a part, by Unicode's classes.
    private func words(_ part: [UInt32]) -> [ArraySlice<UInt32>] {
        let kinds = part.map(Self.kind)
        var out: [ArraySlice<UInt32>] = []
        var place = 0
        while place < part.count {
            var end = place + 1
            if let length = special(at: { place + $0 < part.count ? part[place + $0] : 0 }) {
                end = place + length
            } else if kinds[place] == .letter || kinds[place] == .other {
                while end < part.count && kinds[end] == kinds[place] { end += 1 }
            }
            if kinds[place] != .space { out.append(part[place..<end]) }
            place = end
        }
        return out
    }

    private static func kind(_ code: UInt32) -> Kind {
        if code < 0x80 { return kinds[Int(code)] }
        if code == 0x345 { return .space }  // its capital is a letter, so that the reference takes it for neither
        guard let properties = Unicode.Scalar(code)?.properties else { return .other }
        switch properties.generalCategory {
        case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: return .letter
        case .decimalNumber, .letterNumber, .otherNumber: return .number
        default: return properties.isWhitespace ? .space : .other
        }
    }

    private static let contractions: [[UInt32]] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"].map(codes)
    private static let marks: [[UInt32]] = ["<start_of_text>", "<end_of_text>"].map(codes)

    /// The length of a contraction or a mark here. The reference ignores case, and the long s is a form of s.
    private func special(at code: (Int) -> UInt32) -> Int? {
        let first = code(0)
        guard first == 0x27 || first == 0x3c else { return nil }
        for choice in first == 0x27 ? Self.contractions : Self.marks
        where choice.indices.allSatisfy({ code($0) == choice[$0] || (choice[$0] == 0x73 && code($0) == 0x17f) }) {
            return choice.count
        }
        return nil
    }

    private func encodeWord(_ word: [UInt8]) -> [Int32] {
        guard word.count <= Self.longestRemembered else { return merges.encode(word) }
        lock.lock()
        let found = known[word]
        lock.unlock()
        if let found { return found }
        let ids = merges.encode(word)
        lock.lock()
        defer { lock.unlock() }
        if known.count >= Self.remembered { known.removeAll() }
        known[word] = ids
        return ids
    }
}
