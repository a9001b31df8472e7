// The golden vectors of apps/golden, read once.
import Foundation
import XCTest

@testable import MobileCLIPKit

enum Golden {
    private struct Version: Decodable { let version: Int }

    /// apps/golden; MOBILECLIP_GOLDEN names another folder.
    static let folder: URL = {
        if let path = ProcessInfo.processInfo.environment["MOBILECLIP_GOLDEN"] { return URL(fileURLWithPath: path) }
        return URL(fileURLWithPath: #filePath).appendingPathComponent("../../../../../golden").standardized
    }()

    static let tokenizer = Result { try Tokenizer(folder: folder) }

    /// A file of version 1 with cases.
    static func file<T: Decodable>(_ name: String, _ type: T.Type) throws -> T {
        let data = try Data(contentsOf: folder.appendingPathComponent(name))
        XCTAssertEqual(try JSONDecoder().decode(Version.self, from: data).version, 1, "\(name) is of another version")
        return try JSONDecoder().decode(type, from: data)
    }
}

/// An array: little-endian values in base64.
struct Stored: Decodable {
    let dtype: String
    let shape: [Int]
    private let base64: Data

    private func values<T>(_ type: T.Type) -> [T] {
        base64.withUnsafeBytes { bytes in
            (0..<shape.reduce(1, *)).map { bytes.loadUnaligned(fromByteOffset: $0 * MemoryLayout<T>.size, as: type) }
        }
    }

    var bytes: [UInt8] { [UInt8](base64) }
    var words: [UInt16] { values(UInt16.self) }
    var signed: [Int8] { values(Int8.self) }

    var integers: [Int] {
        switch dtype {
        case "uint8": bytes.map(Int.init)
        case "int8": signed.map(Int.init)
        case "int32": values(Int32.self).map(Int.init)
        case "int64": values(Int64.self).map { Int($0) }
        default: []
        }
    }

    var floats: [Float] { dtype == "float32" ? values(Float.self) : integers.map(Float.init) }

    /// Rows of a matrix.
    var rows: [[Float]] {
        let all = floats
        return (0..<shape[0]).map { Array(all[($0 * shape[1])..<(($0 + 1) * shape[1])]) }
    }

    var picture: Picture {
        get throws { try Picture(width: shape[1], height: shape[0], pixels: bytes) }
    }
}

/// The largest difference of any value; infinite where the numbers of values differ.
func distance(_ one: some Sequence<Double>, _ other: some Sequence<Double>) -> Double {
    let (one, other) = (Array(one), Array(other))
    guard one.count == other.count else { return .infinity }
    return zip(one, other).reduce(0) { max($0, abs($1.0 - $1.1)) }
}

func distance(_ one: [Float], _ other: [Float]) -> Double { distance(one.map(Double.init), other.map(Double.init)) }

func distance(_ one: [UInt8], _ other: [UInt8]) -> Double { distance(one.map(Double.init), other.map(Double.init)) }
