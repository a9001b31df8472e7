// What the reference does to a text before it is cut into words (apps/golden/README.md, "Cleaning"), on code points.
import Foundation

/// The tables of the cleaning, from cleaning.json.
struct CleaningTables: Decodable, Sendable {
    let entities: [String: String]
    let capitals: [String: String]
    let numeric: [UInt32: [UInt32]]
    let removedNumeric: Set<UInt32>
    let characters: [UInt32: [UInt32]]
    /// What is asked of every character, by code point; none beyond this table is special.
    private let flags: [UInt8]

    private static let isTranslated: UInt8 = 1, isRemoved: UInt8 = 2, isSpace: UInt8 = 4

    func translates(_ code: UInt32) -> Bool { code < 0x10000 && flags[Int(code)] & Self.isTranslated != 0 }
    func removes(_ code: UInt32) -> Bool { code < 0x10000 && flags[Int(code)] & Self.isRemoved != 0 }
    func parts(_ code: UInt32) -> Bool { code < 0x10000 && flags[Int(code)] & Self.isSpace != 0 }

    private enum Keys: String, CodingKey {
        case version, entities, capitals, numeric, characters, removed, spaces
        case removedNumeric = "removed_numeric"
    }

    init(from decoder: Decoder) throws {
        let values = try decoder.container(keyedBy: Keys.self)
        guard try values.decode(Int.self, forKey: .version) == 1 else {
            throw DecodingError.dataCorruptedError(forKey: .version, in: values, debugDescription: "another version")
        }
        entities = try values.decode([String: String].self, forKey: .entities)
        capitals = try values.decode([String: String].self, forKey: .capitals)
        numeric = try Self.byCode(values, .numeric)
        characters = try Self.byCode(values, .characters)
        removedNumeric = Set(try values.decode([UInt32].self, forKey: .removedNumeric))
        var flags = [UInt8](repeating: 0, count: 0x10000)
        for (codes, flag) in try [
            (Array(characters.keys), Self.isTranslated), (values.decode([UInt32].self, forKey: .removed), Self.isRemoved),
            (values.decode([UInt32].self, forKey: .spaces), Self.isSpace),
        ] {
            for code in codes {
                guard code < 0x10000 else {
                    throw DecodingError.dataCorruptedError(forKey: .version, in: values, debugDescription: "code \(code)")
                }
                flags[Int(code)] |= flag
            }
        }
        self.flags = flags
    }

    private static func byCode(_ values: KeyedDecodingContainer<Keys>, _ key: Keys) throws -> [UInt32: [UInt32]] {
        let found = try values.decode([String: String].self, forKey: key)
        return [UInt32: [UInt32]](uniqueKeysWithValues: found.compactMap { code, text in
            UInt32(code).map { ($0, codes(text)) }
        })
    }
}

func codes(_ text: String) -> [UInt32] { text.unicodeScalars.map(\.value) }

func string(_ codes: some Sequence<UInt32>) -> String {
    var out = String.UnicodeScalarView()
    for code in codes { out.append(Unicode.Scalar(code) ?? "\u{fffd}") }
    return String(out)
}

struct Cleaning: Sendable {
    private static let ampersand: UInt32 = 0x26, less: UInt32 = 0x3c, hash: UInt32 = 0x23, semicolon: UInt32 = 0x3b
    private static let longestEntity = 24, longestName = 32
    let tables: CleaningTables

    /// What is between white space, lower case.
    func parts(_ text: String) -> [[UInt32]] {
        let whole = codes(text)
        var fixed: [UInt32] = []
        var entities = true
        var start = 0
        while start < whole.count {
            let end = whole[start...].firstIndex(of: 10).map { $0 + 1 } ?? whole.count
            entities = entities && !whole[start..<end].contains(Self.less)
            fixed += line(Array(whole[start..<end]), entities)
            start = end
        }
        for _ in 0..<2 { fixed = unescaped(fixed) }
        return fixed.split { tables.parts($0) }.map { lowered(Array($0)) }
    }

    /// One line, until nothing changes.
    private func line(_ first: [UInt32], _ entities: Bool) -> [UInt32] {
        var now = first
        for _ in 0..<(8 + 1_000_000 / max(first.count, 1)) {
            let before = now
            if entities { now = strictlyUnescaped(now) }
            now = withoutEscapes(brokenLines(translated(now)))
            now.removeAll { tables.removes($0) }
            if now.contains(where: { $0 >= 0x300 }) { now = codes(string(now).precomposedStringWithCanonicalMapping) }
            if now == before { break }
        }
        return now
    }

    private func translated(_ text: [UInt32]) -> [UInt32] {
        guard text.contains(where: tables.translates) else { return text }
        return text.flatMap { tables.characters[$0] ?? [$0] }
    }

    private func brokenLines(_ text: [UInt32]) -> [UInt32] {
        guard text.contains(where: { $0 == 13 || $0 == 0x85 || $0 == 0x2028 || $0 == 0x2029 }) else { return text }
        var out: [UInt32] = []
        for (place, code) in text.enumerated() {
            if code == 10 && place > 0 && text[place - 1] == 13 { continue }
            out.append(code == 13 || code == 0x85 || code == 0x2028 || code == 0x2029 ? 10 : code)
        }
        return out
    }

    /// Without `ESC [ (digits or ;)* letter`.
    private func withoutEscapes(_ text: [UInt32]) -> [UInt32] {
        guard text.contains(0x1b) else { return text }
        var out: [UInt32] = []
        var place = 0
        while place < text.count {
            if text[place] == 0x1b && place + 1 < text.count && text[place + 1] == 0x5b {
                var end = place + 2
                while end < text.count && (isDigit(text[end]) || text[end] == Self.semicolon) { end += 1 }
                if end < text.count && isLetter(text[end]) {
                    place = end + 1
                    continue
                }
            }
            out.append(text[place])
            place += 1
        }
        return out
    }

    /// Entities that end in a semicolon: `&#?[0-9A-Za-z]{1,24};`.
    private func strictlyUnescaped(_ text: [UInt32]) -> [UInt32] {
        replaced(text) { from in
            var end = from + 1
            if end < text.count && text[end] == Self.hash { end += 1 }
            let first = end
            while end < text.count && end - first < Self.longestEntity && (isDigit(text[end]) || isLetter(text[end])) {
                end += 1
            }
            guard end > first, end < text.count, text[end] == Self.semicolon else { return nil }
            let name = string(text[(from + 1)...end])
            if let known = tables.entities[name] ?? tables.capitals[name] { return (codes(known), end + 1) }
            guard text[from + 1] == Self.hash else { return (Array(text[from...end]), end + 1) }
            let value = unescaped(Array(text[from...end]))
            return (value.contains(Self.semicolon) ? Array(text[from...end]) : value, end + 1)
        }
    }

    /// HTML's own rule, section 13.2.5.72 of the standard as Python's `html.unescape` has it.
    private func unescaped(_ text: [UInt32]) -> [UInt32] {
        replaced(text) { from in
            guard from + 1 < text.count else { return nil }
            return text[from + 1] == Self.hash ? number(text, from) : name(text, from)
        }
    }

    private func number(_ text: [UInt32], _ from: Int) -> ([UInt32], Int)? {
        var place = from + 2
        let isHexadecimal = place < text.count && (text[place] | 0x20) == 0x78
        if isHexadecimal { place += 1 }
        let first = place
        var value: UInt32 = 0
        while place < text.count, let digit = digit(text[place], isHexadecimal ? 16 : 10) {
            value = min(value * (isHexadecimal ? 16 : 10) + digit, 0x11_0000)
            place += 1
        }
        guard place > first else { return nil }
        if place < text.count && text[place] == Self.semicolon { place += 1 }
        if let known = tables.numeric[value] { return (known, place) }
        if (0xd800...0xdfff).contains(value) || value > 0x10_ffff { return ([0xfffd], place) }
        return (tables.removedNumeric.contains(value) ? [] : [value], place)
    }

    private func name(_ text: [UInt32], _ from: Int) -> ([UInt32], Int)? {
        var end = from + 1
        while end < text.count && end - from - 1 < Self.longestName, ![9, 10, 12, 32].contains(text[end]),
            text[end] != Self.less, text[end] != Self.ampersand, text[end] != Self.hash, text[end] != Self.semicolon
        {
            end += 1
        }
        guard end > from + 1 else { return nil }
        let closed = end < text.count && text[end] == Self.semicolon
        let after = closed ? end + 1 : end
        let whole = text[(from + 1)..<after]
        if let known = tables.entities[string(whole)] { return (codes(known), after) }
        for length in stride(from: whole.count - 1, to: 1, by: -1) {
            if let known = tables.entities[string(whole.prefix(length))] {
                return (codes(known) + whole.dropFirst(length), after)
            }
        }
        return (Array(text[from..<after]), after)
    }

    /// Each `&` by what `found` gives for its place, with the place behind; nil leaves the `&`.
    private func replaced(_ text: [UInt32], _ found: (Int) -> ([UInt32], Int)?) -> [UInt32] {
        guard text.contains(Self.ampersand) else { return text }
        var out: [UInt32] = []
        var place = 0
        while place < text.count {
            if text[place] == Self.ampersand, let (value, next) = found(place) {
                out += value
                place = next
            } else {
                out.append(text[place])
                place += 1
            }
        }
        return out
    }

    /// Unicode's full lower case, final sigma included (Unicode 3.13, table 3-17), of no language.
    private func lowered(_ part: [UInt32]) -> [UInt32] {
        var out: [UInt32] = []
        for (place, code) in part.enumerated() {
            if code < 0x80 {
                out.append(code >= 0x41 && code <= 0x5a ? code + 32 : code)
            } else if code == 0x3a3 {
                out.append(isFinal(part, place) ? 0x3c2 : 0x3c3)
            } else if let scalar = Unicode.Scalar(code) {
                out += codes(scalar.properties.lowercaseMapping)
            }
        }
        return out
    }

    private func isFinal(_ part: [UInt32], _ place: Int) -> Bool {
        func nearest(_ places: some Sequence<Int>) -> Bool {
            for at in places {
                guard let properties = Unicode.Scalar(part[at])?.properties else { return false }
                if !properties.isCaseIgnorable { return properties.isCased }
            }
            return false
        }
        return nearest((0..<place).reversed()) && !nearest((place + 1)..<part.count)
    }
}

private func isDigit(_ code: UInt32) -> Bool { code >= 0x30 && code <= 0x39 }

private func isLetter(_ code: UInt32) -> Bool { (code | 0x20) >= 0x61 && (code | 0x20) <= 0x7a }

private func digit(_ code: UInt32, _ base: UInt32) -> UInt32? {
    if isDigit(code) { return code - 0x30 }
    let low = code | 0x20
    return base == 16 && low >= 0x61 && low <= 0x66 ? low - 0x61 + 10 : nil
}
