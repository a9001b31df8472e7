// Detection: raw outputs of both kinds of head as objects of the picture (mobileclip/dense/host_detection.py).

public struct Box: Equatable, Sendable {
    public let left: Float
    public let top: Float
    public let right: Float
    public let bottom: Float

    public var isEmpty: Bool { !(right > left && bottom > top) }
    var area: Float { (right - left) * (bottom - top) }

    func scaled(_ across: Float, _ down: Float, clippedTo size: PixelSize) -> Box {
        func clip(_ value: Float, _ most: Int) -> Float { min(max(value, 0), Float(most)) }
        return Box(
            left: clip(left * across, size.columns), top: clip(top * down, size.rows),
            right: clip(right * across, size.columns), bottom: clip(bottom * down, size.rows))
    }
}

/// An object of the picture as it came.
public struct Detected: Sendable {
    public let box: Box
    public let score: Float
    /// 0..K-1.
    public let label: Int
    /// Which of the pixels of `rows` and `columns` belong to it, row by row; all others do not.
    public let mask: [Bool]
    public let rows: Range<Int>
    public let columns: Range<Int>
}

public struct DetectionRule: Sendable {
    /// Best answers that enter suppression.
    static let candidates = 1000

    /// Least score.
    public var threshold: Float
    /// Objects at most.
    public var most: Int
    /// Of two objects of a class whose boxes overlap by more (IoU) the worse goes; nil where the head needs none.
    public var overlap: Float?

    public init(threshold: Float = 0.05, most: Int = 100, overlap: Float? = nil) {
        self.threshold = threshold
        self.most = most
        self.overlap = overlap
    }
}

/// Outputs of a one-stage head: boxes [4, N], scores [K, N], coeffs [P, N], prototypes [P, h, w].
public struct PointOutputs: Sendable {
    let points: Int
    let classes: Int
    let boxes: [Float]
    let scores: [Float]
    let coeffs: [Float]
    let protos: Maps

    public init(boxes: [Float], scores: [Float], coeffs: [Float], protos: Maps) throws {
        points = boxes.count / 4
        classes = points == 0 ? 0 : scores.count / points
        guard points > 0, boxes.count == 4 * points, scores.count == classes * points, classes > 0,
            coeffs.count == protos.channels * points
        else {
            throw KitError(.runner, "The model gives outputs of another shape than its manifest says. Export it again.")
        }
        (self.boxes, self.scores, self.coeffs, self.protos) = (boxes, scores, coeffs, protos)
    }

    /// The objects, best first. The input has 4 h rows and 4 w columns, the picture letterboxed in it.
    public func objects(original: PixelSize, rule: DetectionRule) -> [Detected] {
        let input = PixelSize(rows: 4 * protos.rows, columns: 4 * protos.columns)
        let inside = letterboxed(original, into: input).content
        let across = Float(Double(original.columns) / Double(inside.columns))
        let down = Float(Double(original.rows) / Double(inside.rows))
        var found: [(box: Box, score: Float, label: Int, point: Int)] = []
        for place in best(rule.overlap == nil ? rule.most : DetectionRule.candidates, above: rule.threshold) {
            let point = place % points
            let box = Box(
                left: boxes[point], top: boxes[points + point], right: boxes[2 * points + point],
                bottom: boxes[3 * points + point]
            ).scaled(across, down, clippedTo: original)
            if !box.isEmpty { found.append((box, scores[place], place / points, point)) }
        }
        if let overlap = rule.overlap {
            let stays = suppressed(found.map(\.box), found.map(\.label), overlap)
            found = stays.map { found[$0] }
        }
        return found.prefix(rule.most).map { item in
            let (rows, columns, mask) = mask(item.point, item.box, original, inside)
            return Detected(
                box: item.box, score: item.score, label: item.label, mask: mask, rows: rows, columns: columns)
        }
    }

    /// Places of the best scores above a threshold, best first; equal ones by class, then by point.
    private func best(_ most: Int, above threshold: Float) -> [Int] {
        let places = scores.indices.filter { scores[$0] > threshold }
        return Array(places.sorted { scores[$0] == scores[$1] ? $0 < $1 : scores[$0] > scores[$1] }.prefix(most))
    }

    /// Pixels whose centre is inside the box and whose logit, sum of coefficient times prototype, is above 0.
    private func mask(_ point: Int, _ box: Box, _ original: PixelSize, _ inside: PixelSize) -> (Range<Int>, Range<Int>, [Bool]) {
        let rows = pixels(box.top, box.bottom, original.rows), columns = pixels(box.left, box.right, original.columns)
        func between(_ pixels: Range<Int>, _ some: Int, _ many: Int, _ few: Int) -> Between {
            let step = Double(some) / Double(many)
            return Between(at: pixels.map { (Double($0) + 0.5) * step / 4 - 0.5 }, among: few)
        }
        let down = between(rows, inside.rows, original.rows, protos.rows)
        let across = between(columns, inside.columns, original.columns, protos.columns)
        let area = protos.rows * protos.columns
        var logits = [Float](repeating: 0, count: area)
        for channel in 0..<protos.channels {
            let own = coeffs[channel * points + point]
            for place in 0..<area { logits[place] += own * protos.values[channel * area + place] }
        }
        return (rows, columns, above(0, logits, protos.columns, down, across))
    }
}

/// Outputs of a static Mask R-CNN: boxes [D, 4], scores [D], labels [D], masks [D, m, m].
public struct RegionOutputs: Sendable {
    let boxes: [Float]
    let scores: [Float]
    let labels: [Int]
    let masks: [Float]
    let side: Int

    public init(boxes: [Float], scores: [Float], labels: [Int], masks: [Float]) throws {
        let count = scores.count
        side = count == 0 ? 0 : Int(Double(masks.count / count).squareRoot().rounded())
        guard count > 0, boxes.count == 4 * count, labels.count == count, masks.count == count * side * side, side > 0
        else {
            throw KitError(.runner, "The model gives outputs of another shape than its manifest says. Export it again.")
        }
        (self.boxes, self.scores, self.labels, self.masks) = (boxes, scores, labels, masks)
    }

    /// The objects, best first, of a picture that was letterboxed into an input of `size`.
    public func objects(original: PixelSize, size: PixelSize, rule: DetectionRule) -> [Detected] {
        let inside = letterboxed(original, into: size).content
        let across = Float(Double(original.columns) / Double(inside.columns))
        let down = Float(Double(original.rows) / Double(inside.rows))
        let found = scores.indices.map { row in
            Box(left: boxes[4 * row], top: boxes[4 * row + 1], right: boxes[4 * row + 2], bottom: boxes[4 * row + 3])
                .scaled(across, down, clippedTo: original)
        }
        let order = scores.indices.sorted { scores[$0] == scores[$1] ? $0 < $1 : scores[$0] > scores[$1] }
        return order.filter { scores[$0] > rule.threshold && !found[$0].isEmpty }.prefix(rule.most).map { row in
            let (rows, columns, mask) = pasted(row, found[row], original)
            return Detected(
                box: found[row], score: scores[row], label: labels[row], mask: mask, rows: rows, columns: columns)
        }
    }

    /// A border of 0 around the mask, the box enlarged with it, stretched over whole pixels; above 1/2 a pixel belongs.
    private func pasted(_ row: Int, _ box: Box, _ original: PixelSize) -> (Range<Int>, Range<Int>, [Bool]) {
        let wide = side + 2
        let grow = Float(Double(wide) / Double(side)) * 0.5
        func corners(_ low: Float, _ high: Float) -> (Int, Int) {
            let (half, middle) = ((high - low) * grow, (high + low) * 0.5)
            return (Int(middle - half), Int(middle + half))
        }
        func placed(_ low: Int, _ high: Int, _ many: Int) -> (Range<Int>, Between) {
            let pixels = max(low, 0)..<max(min(high + 1, many), max(low, 0))
            let step = Double(wide) / Double(high - low + 1)
            return (pixels, Between(at: pixels.map { (Double($0 - low) + 0.5) * step - 0.5 }, among: wide))
        }
        let (left, right) = corners(box.left, box.right), (top, bottom) = corners(box.top, box.bottom)
        let (columns, across) = placed(left, right, original.columns), (rows, down) = placed(top, bottom, original.rows)
        var padded = [Float](repeating: 0, count: wide * wide)
        for y in 0..<side {
            for x in 0..<side { padded[(y + 1) * wide + x + 1] = masks[(row * side + y) * side + x] }
        }
        return (rows, columns, above(0.5, padded, wide, down, across))
    }
}

/// Pixels whose centre is between two edges.
private func pixels(_ low: Float, _ high: Float, _ many: Int) -> Range<Int> {
    let first = max(Int((low - 0.5).rounded(.up)), 0)
    return first..<max(min(Int((high - 0.5).rounded(.up)), many), first)
}

/// Whether bilinear values between those of [h, w] are above a limit.
private func above(_ limit: Float, _ values: [Float], _ width: Int, _ down: Between, _ across: Between) -> [Bool] {
    var out: [Bool] = []
    out.reserveCapacity(down.count * across.count)
    for y in 0..<down.count {
        let (high, low, share) = (down.first[y] * width, down.second[y] * width, down.share[y])
        for x in 0..<across.count {
            let (first, second, part) = (across.first[x], across.second[x], across.share[x])
            let upper = values[high + first] * (1 - part) + values[high + second] * part
            let lower = values[low + first] * (1 - part) + values[low + second] * part
            out.append(upper * (1 - share) + lower * share > limit)
        }
    }
    return out
}

/// Of boxes, best first, those that stay: each one that stays removes all later ones of its class that overlap it more.
func suppressed(_ boxes: [Box], _ labels: [Int], _ overlap: Float) -> [Int] {
    var stays: [Int] = []
    for place in boxes.indices {
        let box = boxes[place]
        let isFree = stays.allSatisfy { other in
            if labels[other] != labels[place] { return true }
            let better = boxes[other]
            let across = min(box.right, better.right) - max(box.left, better.left)
            let down = min(box.bottom, better.bottom) - max(box.top, better.top)
            let common = max(across, 0) * max(down, 0)
            return !(common > overlap * (better.area + box.area - common))
        }
        if isFree { stays.append(place) }
    }
    return stays
}
