// Segmentation and depth: outputs of an artifact brought to the picture's own size (mobileclip/dense/host.py).

/// Of outputs along an axis: the two inputs that each lies between, and the share of the second.
struct Between: Sendable {
    let first: [Int]
    let second: [Int]
    let share: [Float]

    /// `many` outputs over the whole of `few` inputs, corners not aligned.
    init(enlarging few: Int, to many: Int) {
        let step = Double(few) / Double(many)
        self.init(at: (0..<many).map { max((Double($0) + 0.5) * step - 0.5, 0) }, among: few)
    }

    /// Positions among `few` samples; beyond the outer ones, these.
    init(at positions: [Double], among few: Int) {
        let places = positions.map { min(max($0, 0), Double(few - 1)) }
        first = places.map { min(Int($0), few - 1) }
        second = first.map { min($0 + 1, few - 1) }
        share = zip(places, first).map { Float($0 - Double($1)) }
    }

    var count: Int { first.count }
}

/// Maps [channels, rows, columns] of an artifact.
public struct Maps: Sendable {
    public let channels: Int
    public let rows: Int
    public let columns: Int
    public let values: [Float]

    /// - Parameter shape: [1, C, h, w] or [C, h, w].
    public init(_ values: [Float], shape: [Int]) throws {
        let three = Array(shape.suffix(3))
        guard three.count == 3, shape.count == 3 || (shape.count == 4 && shape[0] == 1),
            three.allSatisfy({ $0 > 0 }), values.count == three.reduce(1, *)
        else {
            throw KitError(.runner, "The model gives an output of another shape than its manifest says. Export it again.")
        }
        (channels, rows, columns) = (three[0], three[1], three[2])
        self.values = values
    }

    /// Row `y` of a channel at the picture's size, into `out`.
    @inline(__always)
    private func line(_ channel: Int, _ down: Between, _ y: Int, _ across: Between, _ out: inout [Float]) {
        let above = (channel * rows + down.first[y]) * columns
        let below = (channel * rows + down.second[y]) * columns
        let share = down.share[y]
        values.withUnsafeBufferPointer { values in
            for x in 0..<across.count {
                let (first, second, part) = (across.first[x], across.second[x], across.share[x])
                let high = values[above + first] * (1 - part) + values[above + second] * part
                let low = values[below + first] * (1 - part) + values[below + second] * part
                out[x] = high * (1 - share) + low * share
            }
        }
    }

    /// Logits -> the best class of each pixel, the first of equal ones; row by row, so that large photos fit in memory.
    public func labels(_ size: PixelSize) -> [UInt8] {
        let (down, across) = (Between(enlarging: rows, to: size.rows), Between(enlarging: columns, to: size.columns))
        var out = [UInt8](repeating: 0, count: size.rows * size.columns)
        var best = [Float](repeating: 0, count: size.columns), now = best
        for y in 0..<size.rows {
            let start = y * size.columns
            line(0, down, y, across, &best)
            for channel in 1..<max(channels, 1) {
                line(channel, down, y, across, &now)
                for x in 0..<size.columns where now[x] > best[x] {
                    best[x] = now[x]
                    out[start + x] = UInt8(truncatingIfNeeded: channel)
                }
            }
        }
        return out
    }

    /// Depth -> metres of each pixel.
    public func metres(_ size: PixelSize) -> [Float] {
        let (down, across) = (Between(enlarging: rows, to: size.rows), Between(enlarging: columns, to: size.columns))
        var out: [Float] = []
        out.reserveCapacity(size.rows * size.columns)
        var now = [Float](repeating: 0, count: size.columns)
        for y in 0..<size.rows {
            line(0, down, y, across, &now)
            out += now
        }
        return out
    }
}

/// Labels [h, w] -> the nearest of each pixel.
public func nearestLabels(_ labels: [UInt8], from small: PixelSize, to size: PixelSize) -> [UInt8] {
    func places(_ many: Int, _ few: Int) -> [Int] {
        (0..<many).map { min(Int((Double($0) + 0.5) * Double(few) / Double(many)), few - 1) }
    }
    let (rows, columns) = (places(size.rows, small.rows), places(size.columns, small.columns))
    return rows.flatMap { row in columns.map { labels[row * small.columns + $0] } }
}
