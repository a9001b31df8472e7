// Pillow's resampling with antialias, in whole numbers, exactly (apps/golden/README.md; Pillow 13, src/libImaging/Resample.c).

public enum Interpolation: String, Sendable {
    case bilinear, bicubic

    var reach: Double { self == .bilinear ? 1 : 2 }

    func weight(_ distance: Double) -> Double {
        let x = abs(distance)
        if self == .bilinear { return x < 1 ? 1 - x : 0 }
        let a = -0.5
        if x < 1 { return ((a + 2) * x - (a + 3)) * x * x + 1 }
        return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0
    }
}

extension Picture {
    /// Another size; as it is where the size is that already.
    public func resized(width: Int, height: Int, _ interpolation: Interpolation) -> Picture {
        let downFirst = height < self.height && self.height - height > 2 * (self.width - width)
        if downFirst { return down(to: height, interpolation).across(to: width, interpolation) }
        return across(to: width, interpolation).down(to: height, interpolation)
    }

    private func across(to columns: Int, _ interpolation: Interpolation) -> Picture {
        if columns == width { return self }
        let plan = Weights(from: width, to: columns, interpolation)
        let out = [UInt8](unsafeUninitializedCapacity: 3 * columns * height) { out, count in
            pixels.withUnsafeBufferPointer { pixels in
                plan.weights.withUnsafeBufferPointer { weights in
                    for y in 0..<height {
                        for x in 0..<columns {
                            let (first, number, place) = plan.spans[x]
                            var sums = SIMD4<Int32>(repeating: 1 << 21)
                            for k in 0..<number {
                                let from = 3 * (y * width + first + k)
                                let value = SIMD4<Int32>(
                                    Int32(pixels[from]), Int32(pixels[from + 1]), Int32(pixels[from + 2]), 0)
                                sums &+= weights[place + k] &* value
                            }
                            let to = 3 * (y * columns + x)
                            for channel in 0..<3 { out[to + channel] = clipped(sums[channel]) }
                        }
                    }
                }
            }
            count = 3 * columns * height
        }
        return Picture(unchecked: columns, height, out)
    }

    private func down(to rows: Int, _ interpolation: Interpolation) -> Picture {
        if rows == height { return self }
        let plan = Weights(from: height, to: rows, interpolation)
        let line = 3 * width
        let out = [UInt8](unsafeUninitializedCapacity: line * rows) { out, count in
            var sums = [Int32](repeating: 0, count: line)
            pixels.withUnsafeBufferPointer { pixels in
                sums.withUnsafeMutableBufferPointer { sums in
                    for y in 0..<rows {
                        let (first, number, place) = plan.spans[y]
                        sums.update(repeating: 1 << 21)
                        for k in 0..<number {
                            let weight = plan.weights[place + k], from = (first + k) * line
                            for x in 0..<line { sums[x] &+= weight &* Int32(pixels[from + x]) }
                        }
                        for x in 0..<line { out[y * line + x] = clipped(sums[x]) }
                    }
                }
            }
            count = line * rows
        }
        return Picture(unchecked: width, rows, out)
    }
}

private func clipped(_ sum: Int32) -> UInt8 { UInt8(min(max(sum >> 22, 0), 255)) }

/// For each output: the first input, how many, and where their weights (22 bits behind the point) begin.
private struct Weights {
    private(set) var spans: [(first: Int, number: Int, place: Int)] = []
    private(set) var weights: [Int32] = []

    init(from few: Int, to many: Int, _ interpolation: Interpolation) {
        let step = Double(few) / Double(many)
        let wide = max(step, 1)
        let support = interpolation.reach * wide
        for place in 0..<many {
            let centre = (Double(place) + 0.5) * step
            let first = max(Int(centre - support + 0.5), 0)
            let last = min(Int(centre + support + 0.5), few)
            let raw = (first..<last).map { interpolation.weight((Double($0) - centre + 0.5) * (1 / wide)) }
            let total = raw.reduce(0, +)
            spans.append((first, last - first, weights.count))
            weights += raw.map { weight in
                let share = (total == 0 ? weight : weight / total) * Double(1 << 22)
                return Int32(share < 0 ? share - 0.5 : share + 0.5)
            }
        }
    }
}
