// SHA-256 of files and packages. CryptoKit where the system has it; elsewhere (Linux) FIPS 180-4, section 6.2, written out.
import Foundation

#if canImport(CryptoKit)
    import CryptoKit
#endif

/// SHA-256 of bytes, in lower-case hexadecimal.
public func sha256(_ bytes: [UInt8]) -> String {
    var digest = Digest()
    digest.update(bytes)
    return digest.finish()
}

/// SHA-256 of a file; or of a folder: of its files' paths and hashes, sorted by the parts of their paths.
public func sha256(of url: URL) throws -> String {
    guard isFolder(url) else { return try sha256(ofFile: url) }
    var digest = Digest()
    for parts in try filesInside(url) {
        let path = parts.joined(separator: "/")
        let hash = try sha256(ofFile: url.appendingPathComponent(path))
        digest.update(Array((path + "\0" + hash + "\n").utf8))
    }
    return digest.finish()
}

private func sha256(ofFile url: URL) throws -> String {
    let file = try FileHandle(forReadingFrom: url)
    defer { try? file.close() }
    var digest = Digest()
    while let part = try file.read(upToCount: 1 << 20), !part.isEmpty { digest.update([UInt8](part)) }
    return digest.finish()
}

func isFolder(_ url: URL) -> Bool {
    var folder: ObjCBool = false
    return FileManager.default.fileExists(atPath: url.path, isDirectory: &folder) && folder.boolValue
}

/// The files of a folder and of those in it, as parts of their relative paths, sorted by code points.
private func filesInside(_ folder: URL) throws -> [[String]] {
    var found: [[String]] = []
    for path in try FileManager.default.subpathsOfDirectory(atPath: folder.path)
    where !isFolder(folder.appendingPathComponent(path)) {
        found.append(path.split(separator: "/").map(String.init))
    }
    return found.sorted { one, other in
        one.lexicographicallyPrecedes(other) { $0.unicodeScalars.lexicographicallyPrecedes($1.unicodeScalars) }
    }
}

#if canImport(CryptoKit)
    private struct Digest {
        private var inner = CryptoKit.SHA256()
        mutating func update(_ bytes: [UInt8]) { inner.update(data: bytes) }
        mutating func finish() -> String { hexadecimal(inner.finalize()) }
    }
#else
    private typealias Digest = PortableSHA256
#endif

private func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
}

/// The hash in plain Swift; tested against CryptoKit's published vectors on every system.
struct PortableSHA256 {
    private var state: [UInt32] = [
        0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
    ]
    private var rest: [UInt8] = []
    private var count: UInt64 = 0

    mutating func update(_ bytes: [UInt8]) {
        count += UInt64(bytes.count)
        rest += bytes
        let whole = rest.count / 64 * 64
        rest.withUnsafeBufferPointer { pointer in
            for start in stride(from: 0, to: whole, by: 64) { Self.block(&state, pointer, start) }
        }
        rest.removeFirst(whole)
    }

    mutating func finish() -> String {
        let bits = count * 8
        update([0x80] + [UInt8](repeating: 0, count: (119 - rest.count) % 64))
        update((0..<8).map { UInt8(truncatingIfNeeded: bits >> (56 - 8 * UInt64($0))) })
        return hexadecimal(state.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> (24 - 8 * $0)) } })
    }

    private static func block(_ state: inout [UInt32], _ bytes: UnsafeBufferPointer<UInt8>, _ start: Int) {
        withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 64) { w in
            for t in 0..<16 {
                let at = start + 4 * t
                w[t] =
                    UInt32(bytes[at]) << 24 | UInt32(bytes[at + 1]) << 16 | UInt32(bytes[at + 2]) << 8
                    | UInt32(bytes[at + 3])
            }
            for t in 16..<64 {
                let one = w[t - 2], other = w[t - 15]
                let high = turned(one, 17) ^ turned(one, 19) ^ (one >> 10)
                let low = turned(other, 7) ^ turned(other, 18) ^ (other >> 3)
                w[t] = high &+ w[t - 7] &+ low &+ w[t - 16]
            }
            var (a, b, c, d) = (state[0], state[1], state[2], state[3])
            var (e, f, g, h) = (state[4], state[5], state[6], state[7])
            for t in 0..<64 {
                let first =
                    h &+ (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) &+ ((e & f) ^ (~e & g)) &+ constants[t] &+ w[t]
                let second = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) &+ ((a & b) ^ (a & c) ^ (b & c))
                (h, g, f, e, d, c, b, a) = (g, f, e, d &+ first, c, b, a, first &+ second)
            }
            for (place, value) in [a, b, c, d, e, f, g, h].enumerated() { state[place] &+= value }
        }
    }

    private static func turned(_ x: UInt32, _ by: UInt32) -> UInt32 { x >> by | x << (32 - by) }

    private static let constants: [UInt32] = [
        0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
        0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
        0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
        0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
        0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
        0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
        0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
        0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
    ]
}
