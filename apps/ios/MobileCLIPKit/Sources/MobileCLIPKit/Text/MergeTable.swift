// The merges, and what they make of the bytes of a word (Sennrich et al. 2016, section 3.2).

/// Merge `i` makes id `512 + i` of two ids; ids 0..255 are bytes, 256..511 bytes that end a word.
struct MergeTable: Sendable {
    static let count = 48_894
    private static let marks: [[UInt8]: Int32] = [
        Array("<start_of_text>".utf8): Tokenizer.start, Array("<end_of_text>".utf8): Tokenizer.end,
    ]

    private let idOfByte: [Int32]
    private let pairs: PairTable
    private let parts: [(Int32, Int32)]

    /// nil where the bytes are not merges.txt.
    init?(_ bytes: [UInt8]) {
        let printable = Array(0x21...0x7e) + Array(0xa1...0xac) + Array(0xae...0xff)
        let order = printable + (0..<256).filter { !Set(printable).contains($0) }
        var idOfByte = [Int32](repeating: 0, count: 256)
        var ids: [[UInt32]: Int32] = [:]
        let ending = codes("</w>")
        for (id, byte) in order.enumerated() {
            let symbol = UInt32(id < printable.count ? byte : 256 + id - printable.count)
            idOfByte[byte] = Int32(id)
            ids[[symbol]] = Int32(id)
            ids[[symbol] + ending] = Int32(256 + id)
        }
        var pairs = PairTable(capacity: 1 << 17)
        var parts: [(Int32, Int32)] = []
        for line in bytes.split(separator: 10) {
            let sides = line.split(separator: 32).map { codes(String(decoding: $0, as: UTF8.self)) }
            guard sides.count == 2, let left = ids[sides[0]], let right = ids[sides[1]] else { return nil }
            let made = Int32(512 + parts.count)
            ids[sides[0] + sides[1]] = made
            pairs.insert(left, right, made)
            parts.append((left, right))
        }
        guard parts.count == Self.count else { return nil }
        self.idOfByte = idOfByte
        self.pairs = pairs
        self.parts = parts
    }

    /// The ids of a word: the merge of the lowest rank first, leftmost first within a rank.
    ///
    /// A merge makes an id that only it makes, and ids are in order of rank: one queue of (made id, place) gives the order.
    func encode(_ word: [UInt8]) -> [Int32] {
        if let mark = Self.marks[word] { return [mark] }
        var ids = word.map { idOfByte[Int($0)] }
        guard let last = ids.last else { return [] }
        ids[ids.count - 1] = last + 256
        if ids.count < 2 { return ids }
        var after = Array(1...ids.count)
        var before = Array(-1..<(ids.count - 1))
        var queue = Queue()
        for place in 0..<(ids.count - 1) {
            if let made = pairs[ids[place], ids[place + 1]] { queue.push(made, place) }
        }
        while let (made, place) = queue.pop() {
            let (left, right) = parts[Int(made) - 512]
            let next = after[place]
            guard ids[place] == left, next < ids.count, ids[next] == right else { continue }
            ids[place] = made
            ids[next] = -1
            after[place] = after[next]
            if after[place] < ids.count {
                before[after[place]] = place
                if let found = pairs[made, ids[after[place]]] { queue.push(found, place) }
            }
            if before[place] >= 0, let found = pairs[ids[before[place]], made] { queue.push(found, before[place]) }
        }
        return ids.filter { $0 >= 0 }
    }
}

/// (left id, right id) -> made id, by open addressing: half the time of a Dictionary.
private struct PairTable: Sendable {
    private var keys: [UInt64]
    private var values: [Int32]

    init(capacity: Int) {
        keys = [UInt64](repeating: .max, count: capacity)
        values = [Int32](repeating: 0, count: capacity)
    }

    private func place(_ key: UInt64) -> Int {
        let mask = keys.count - 1
        var at = Int(truncatingIfNeeded: (key &* 0x9e37_79b9_7f4a_7c15) >> 40) & mask
        while keys[at] != key && keys[at] != .max { at = (at + 1) & mask }
        return at
    }

    mutating func insert(_ left: Int32, _ right: Int32, _ made: Int32) {
        let key = UInt64(left) << 32 | UInt64(right)
        let at = place(key)
        keys[at] = key
        values[at] = made
    }

    subscript(left: Int32, right: Int32) -> Int32? {
        let key = UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
        let at = place(key)
        return keys[at] == key ? values[at] : nil
    }
}

/// A binary heap of (made id, place), least first.
private struct Queue {
    private var items: [UInt64] = []

    mutating func push(_ made: Int32, _ place: Int) {
        items.append(UInt64(made) << 32 | UInt64(place))
        var child = items.count - 1
        while child > 0, items[child] < items[(child - 1) / 2] {
            items.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    mutating func pop() -> (Int32, Int)? {
        guard let first = items.first, let last = items.popLast() else { return nil }
        if !items.isEmpty {
            items[0] = last
            var parent = 0
            while true {
                var child = 2 * parent + 1
                if child >= items.count { break }
                if child + 1 < items.count && items[child + 1] < items[child] { child += 1 }
                if items[parent] <= items[child] { break }
                items.swapAt(parent, child)
                parent = child
            }
        }
        return (Int32(first >> 32), Int(first & 0xffff_ffff))
    }
}
