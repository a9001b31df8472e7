// An index on disk that grows: what an app was stopped in goes on where it was, and a record that was cut off is dropped.
//
// Header: "MCIX", version (UInt32), width (UInt32), precision (UInt32), length and text of the model's name. Then records: length and
// text of the photo's name, and the embedding: fp16, or the scale (Float), int8 and sign code. All little-endian.
import Foundation

public final class IndexFile {
    private static let magic = Array("MCIX".utf8), version: UInt32 = 1

    public let url: URL
    public private(set) var index: EmbeddingIndex
    /// The photos' names, by their number in the index.
    public private(set) var names: [String] = []
    private var places: [String: Int] = [:]
    private let file: FileHandle

    /// Open, or begin anew where there is none, or it is of another model, width or form.
    ///
    /// - Parameter model: what the embeddings come from, such as the artifact's hash: others cannot be compared with them.
    public init(url: URL, model: String, width: Int, precision: Precision) throws {
        self.url = url
        index = EmbeddingIndex(width: width, precision: precision)
        let header = Self.header(model, width, precision)
        let bytes = (try? Data(contentsOf: url)).map { [UInt8]($0) } ?? []
        let isSame = bytes.starts(with: header)
        if !isSame { try Data(header).write(to: url, options: .atomic) }
        do {
            file = try FileHandle(forUpdating: url)
        } catch {
            throw KitError(.index, "The index of your photos cannot be written. Free some storage and try again.")
        }
        let end = isSame ? read(bytes, from: header.count) : header.count
        try file.truncate(atOffset: UInt64(end))
        try file.seek(toOffset: UInt64(end))
    }

    deinit { try? file.close() }

    public func contains(_ name: String) -> Bool { places[name] != nil }

    /// Add a photo, on disk first.
    public func append(_ name: String, _ embedding: [Float]) throws {
        guard embedding.count == index.width, let vector = unit(embedding) else {
            throw KitError(.embedding, "The model gave no usable answer for a photo. Try another bundle.")
        }
        var record = Self.number(UInt32(name.utf8.count)) + Array(name.utf8)
        switch index.precision {
        case .fp16: record += vector.flatMap { [UInt8(half($0) & 255), UInt8(half($0) >> 8)] }
        case .int8:
            let quantised = Quantised(vector)
            record += Self.number(quantised.scale.bitPattern) + quantised.integers.map { UInt8(bitPattern: $0) }
            record += signCode(vector)
        }
        do {
            try file.write(contentsOf: Data(record))
        } catch {
            throw KitError(.index, "The index of your photos cannot be written. Free some storage and try again.")
        }
        try index.append(vector)
        places[name] = names.count
        names.append(name)
    }

    /// Whole records into memory; where the last one ends.
    private func read(_ bytes: [UInt8], from start: Int) -> Int {
        let payload = index.precision == .fp16 ? 2 * index.width : 4 + index.width + (index.width + 7) / 8
        var place = start
        while place + 4 <= bytes.count {
            let length = Int(Self.number(bytes, place))
            let body = place + 4 + length
            guard length <= 4096, body + payload <= bytes.count else { break }
            let name = String(decoding: bytes[(place + 4)..<body], as: UTF8.self)
            switch index.precision {
            case .fp16:
                index.append(
                    halves: (0..<index.width).map { UInt16(bytes[body + 2 * $0]) | UInt16(bytes[body + 2 * $0 + 1]) << 8 })
            case .int8:
                let codeStart = body + 4 + index.width
                let integers = bytes[(body + 4)..<codeStart].map { Int8(bitPattern: $0) }
                let stored = Quantised(integers: integers, scale: Float(bitPattern: Self.number(bytes, body)))
                index.append(stored, code: Array(bytes[codeStart..<(body + payload)]))
            }
            places[name] = names.count
            names.append(name)
            place = body + payload
        }
        return place
    }

    private static func header(_ model: String, _ width: Int, _ precision: Precision) -> [UInt8] {
        let name = Array(model.utf8)
        return magic + number(version) + number(UInt32(width)) + number(UInt32(precision.rawValue))
            + number(UInt32(name.count)) + name
    }

    private static func number(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }

    private static func number(_ bytes: [UInt8], _ place: Int) -> UInt32 {
        (0..<4).reduce(0) { $0 | UInt32(bytes[place + $1]) << (8 * UInt32($1)) }
    }
}
