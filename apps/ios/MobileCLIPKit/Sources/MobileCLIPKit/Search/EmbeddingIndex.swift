// Search among stored embeddings (apps/golden/README.md, "Search"): exact in fp16 or int8, or by sign codes first.

public struct Match: Equatable, Sendable {
    public let index: Int
    public let score: Double
}

/// An embedding in 8 bits: `value = scale * integer`.
public struct Quantised: Equatable, Sendable {
    public let integers: [Int8]
    public let scale: Float

    /// Of a vector of unit length: scale = max|v| / 127, integers rounded half away from zero.
    public init(_ vector: [Float]) {
        let largest = Double(vector.reduce(Float(0)) { max($0, abs($1)) })
        integers = vector.map { value in
            let share = largest == 0 ? 0 : (abs(Double(value)) * 127 / largest + 0.5).rounded(.down)
            return Int8(value < 0 ? -share : share)
        }
        scale = Float(largest / 127)
    }

    init(integers: [Int8], scale: Float) {
        self.integers = integers
        self.scale = scale
    }
}

/// Bit `i % 8` of byte `i / 8` is `v[i] > 0`.
public func signCode(_ vector: [Float]) -> [UInt8] {
    var out = [UInt8](repeating: 0, count: (vector.count + 7) / 8)
    for (place, value) in vector.enumerated() where value > 0 { out[place / 8] |= 1 << (place % 8) }
    return out
}

public enum Precision: UInt8, Sendable {
    case fp16 = 0
    case int8 = 1
}

/// Embeddings in memory, by their number.
public struct EmbeddingIndex: Sendable {
    public let width: Int
    public let precision: Precision
    public private(set) var count = 0
    private var integers: [Int8] = []
    private var scales: [Float] = []
    private var halves: [UInt16] = []
    private var signs: [UInt64] = []
    private var words: Int { (width + 63) / 64 }

    public init(width: Int, precision: Precision) {
        self.width = width
        self.precision = precision
    }

    /// Add an embedding, of any length but zero.
    public mutating func append(_ embedding: [Float]) throws {
        let vector = try checked(embedding)
        switch precision {
        case .int8: append(Quantised(vector), code: signCode(vector))
        case .fp16: append(halves: vector.map(half), of: vector)
        }
    }

    /// Add what was stored, with its sign code: integers that were rounded to 0 have lost theirs.
    public mutating func append(_ stored: Quantised, code: [UInt8]) {
        integers += stored.integers
        scales.append(stored.scale)
        appendCode(code)
    }

    public mutating func append(halves stored: [UInt16]) { append(halves: stored, of: stored.map(float)) }

    private mutating func append(halves stored: [UInt16], of vector: [Float]) {
        halves += stored
        appendCode(signCode(vector))
    }

    private mutating func appendCode(_ code: [UInt8]) {
        signs += inWords(code)
        count += 1
    }

    private func inWords(_ code: [UInt8]) -> [UInt64] {
        var out = [UInt64](repeating: 0, count: words)
        for (place, byte) in code.enumerated() { out[place / 8] |= UInt64(byte) << UInt64(8 * (place % 8)) }
        return out
    }

    /// The `most` nearest by cosine, best first.
    public func search(_ question: [Float], most: Int) throws -> [Match] {
        let vector = try checked(question)
        switch precision {
        case .int8: return nearest(Quantised(vector), most: most, among: nil)
        case .fp16:
            var best = Best(most)
            for row in 0..<count { best.offer(row, cosine(vector, row)) }
            return best.matches
        }
    }

    /// The nearest by cosine among the `candidates` whose signs are nearest.
    public func search(_ question: [Float], most: Int, candidates: Int) throws -> [Match] {
        let vector = try checked(question)
        let rows = nearestCodes(inWords(signCode(vector)), candidates)
        if precision == .int8 { return nearest(Quantised(vector), most: most, among: rows) }
        var best = Best(most)
        for row in rows { best.offer(row, cosine(vector, row)) }
        return best.matches
    }

    /// Bits that differ, of every row.
    public func distances(_ question: [Float]) throws -> [Int] {
        let code = signCode(try checked(question))
        return (0..<count).map { row in
            (0..<code.count).reduce(0) { sum, place in
                let byte = UInt8(truncatingIfNeeded: signs[row * words + place / 8] >> UInt64(8 * (place % 8)))
                return sum + (byte ^ code[place]).nonzeroBitCount
            }
        }
    }

    private func checked(_ embedding: [Float]) throws -> [Float] {
        guard embedding.count == width else {
            throw KitError(
                .index, "The index holds embeddings of width \(width), not \(embedding.count). Index the photos again.")
        }
        guard let vector = unit(embedding) else {
            throw KitError(.embedding, "The model gave no usable answer. Try another picture, text or bundle.")
        }
        return vector
    }

    /// Counting sort by distance: it is the order by distance and number, in one pass.
    private func nearestCodes(_ code: [UInt64], _ candidates: Int) -> [Int] {
        var apart = [UInt16](repeating: 0, count: count)
        var numbers = [Int](repeating: 0, count: 64 * words + 1)
        signs.withUnsafeBufferPointer { signs in
            for row in 0..<count {
                var sum = 0
                for word in 0..<words { sum += (signs[row * words + word] ^ code[word]).nonzeroBitCount }
                apart[row] = UInt16(sum)
                numbers[sum] += 1
            }
        }
        var limit = 0, below = 0
        while limit < numbers.count, below + numbers[limit] < candidates {
            below += numbers[limit]
            limit += 1
        }
        var atLimit = candidates - below
        var rows: [Int] = []
        for row in 0..<count where apart[row] <= limit {
            if apart[row] == limit {
                if atLimit == 0 { continue }
                atLimit -= 1
            }
            rows.append(row)
        }
        return rows
    }

    private func nearest(_ question: Quantised, most: Int, among rows: [Int]?) -> [Match] {
        var best = Best(most)
        integers.withUnsafeBufferPointer { stored in
            question.integers.map(Int16.init).withUnsafeBufferPointer { asked in
                scales.withUnsafeBufferPointer { scales in
                    func offer(_ row: Int) {
                        let sum = dot(stored.baseAddress! + row * width, asked.baseAddress!, width)
                        best.offer(row, Double(sum) * Double(scales[row]))
                    }
                    if let rows { rows.forEach(offer) } else { for row in 0..<count { offer(row) } }
                }
            }
        }
        return best.matches.map { Match(index: $0.index, score: $0.score * Double(question.scale)) }
    }

    private func cosine(_ vector: [Float], _ row: Int) -> Double {
        halves.withUnsafeBufferPointer { halves in
            vector.withUnsafeBufferPointer { vector in
                floatOfHalf.withUnsafeBufferPointer { table in
                    var sums = SIMD8<Float>(repeating: 0)
                    let start = row * width, whole = width / 8 * 8
                    for place in stride(from: 0, to: whole, by: 8) {
                        var values = SIMD8<Float>()
                        for lane in 0..<8 { values[lane] = table[Int(halves[start + place + lane])] }
                        let asked = UnsafeRawPointer(vector.baseAddress! + place).loadUnaligned(as: SIMD8<Float>.self)
                        sums += values * asked
                    }
                    var sum = Double(sums.sum())
                    for place in whole..<width { sum += Double(table[Int(halves[start + place])] * vector[place]) }
                    return sum
                }
            }
        }
    }
}

/// Every half as a float: 256 KB, and no branch for each value.
private let floatOfHalf: [Float] = (0...UInt16.max).map(float)

/// Sum of products, eight at a time: five times as fast as what compilers make of a plain loop for x86-64's least
/// instructions, and as fast on ARM.
@inline(__always)
private func dot(_ one: UnsafePointer<Int8>, _ other: UnsafePointer<Int16>, _ count: Int) -> Int32 {
    let whole = count & ~7
    var sums = SIMD8<Int32>(repeating: 0)
    for place in stride(from: 0, to: whole, by: 8) {
        let stored = UnsafeRawPointer(one + place).loadUnaligned(as: SIMD8<Int8>.self)
        let asked = UnsafeRawPointer(other + place).loadUnaligned(as: SIMD8<Int16>.self)
        sums &+=
            SIMD8<Int32>(truncatingIfNeeded: SIMD8<Int16>(truncatingIfNeeded: stored))
            &* SIMD8<Int32>(truncatingIfNeeded: asked)
    }
    var sum = sums.wrappedSum()
    for place in whole..<count { sum &+= Int32(one[place]) &* Int32(other[place]) }
    return sum
}

/// The best so far, best first; of equal ones the earlier. For the few that a screen shows an insertion is the fastest.
private struct Best {
    private let most: Int
    private(set) var matches: [Match] = []

    init(_ most: Int) {
        self.most = max(most, 0)
        matches.reserveCapacity(self.most + 1)
    }

    @inline(__always)
    mutating func offer(_ index: Int, _ score: Double) {
        if matches.count == most {
            guard let last = matches.last, score > last.score else { return }
            matches.removeLast()
        }
        insert(index, score)
    }

    private mutating func insert(_ index: Int, _ score: Double) {
        var place = matches.count
        while place > 0, matches[place - 1].score < score { place -= 1 }
        matches.insert(Match(index: index, score: score), at: place)
    }
}
