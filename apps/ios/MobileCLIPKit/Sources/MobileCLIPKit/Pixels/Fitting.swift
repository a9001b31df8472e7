// How a picture becomes what an artifact takes: the square of the image tower, and the two ways of dense models.

/// How a manifest says that pictures are brought to an artifact's size.
public enum Fit: Equatable, Sendable {
    case square(Int, Interpolation)
    case stretch(rows: Int, columns: Int)
    case letterbox(rows: Int, columns: Int)

    /// From an input of the manifest, and the bundle's `dense` where there is one.
    public init(_ input: Manifest.Input, dense: Manifest.Dense?) throws {
        let unknown = KitError(
            .incomplete, "The model takes pictures in a way that this app does not know. Update the app, or export again.")
        guard input.shape.count == 4, input.shape[0] == 1, input.shape[1] == 3, input.colour ?? "RGB" == "RGB" else {
            throw unknown
        }
        let (rows, columns) = (input.shape[2], input.shape[3])
        if input.crop == "centre" {
            let choices: [Interpolation] = [.bilinear, .bicubic]
            let found = choices.first { input.resize == "shortest side to \(rows), \($0.rawValue), antialias" }
            guard let found, rows == columns else { throw unknown }
            self = .square(rows, found)
        } else if let dense, dense.input.size == [rows, columns] {
            switch dense.input.resize {
            case "stretch": self = .stretch(rows: rows, columns: columns)
            case "letterbox": self = .letterbox(rows: rows, columns: columns)
            default: throw unknown
            }
        } else {
            throw unknown
        }
    }
}

/// Rows and columns.
public struct PixelSize: Equatable, Sendable {
    public let rows: Int
    public let columns: Int

    public init(rows: Int, columns: Int) {
        self.rows = rows
        self.columns = columns
    }
}

/// A letterboxed picture's scale and its place in the input, which is the upper left corner.
public func letterboxed(_ picture: PixelSize, into size: PixelSize) -> (scale: Double, content: PixelSize) {
    let scale = min(Double(size.rows) / Double(picture.rows), Double(size.columns) / Double(picture.columns))
    func side(_ length: Int, _ most: Int) -> Int { min(max(Int(Double(length) * scale + 0.5), 1), most) }
    return (scale, PixelSize(rows: side(picture.rows, size.rows), columns: side(picture.columns, size.columns)))
}

extension Picture {
    public var size: PixelSize { PixelSize(rows: height, columns: width) }

    public func fitted(_ fit: Fit) throws -> Picture {
        switch fit {
        case .square(let side, let interpolation): return try square(side, interpolation)
        case .stretch(let rows, let columns): return resized(width: columns, height: rows, .bilinear)
        case .letterbox(let rows, let columns): return letterbox(PixelSize(rows: rows, columns: columns))
        }
    }

    /// Shortest side to `side`, then the middle.
    public func square(_ side: Int, _ interpolation: Interpolation) throws -> Picture {
        let long = side * max(width, height) / min(width, height)
        guard side * long <= Self.most else {
            throw KitError(.picture, "The picture is far too long for its width. Crop it, or choose another one.")
        }
        let wanted = width <= height ? PixelSize(rows: long, columns: side) : PixelSize(rows: side, columns: long)
        let whole = resized(width: wanted.columns, height: wanted.rows, interpolation)
        func first(_ length: Int) -> Int { Int((Double(length - side) / 2).rounded(.toNearestOrEven)) }
        let (left, top) = (first(whole.width), first(whole.height))
        var out: [UInt8] = []
        out.reserveCapacity(3 * side * side)
        for row in top..<(top + side) {
            let start = 3 * (row * whole.width + left)
            out += whole.pixels[start..<(start + 3 * side)]
        }
        return Picture(unchecked: side, side, out)
    }

    /// Ratio kept, in the upper left corner, the rest 0.
    public func letterbox(_ size: PixelSize) -> Picture {
        let inside = letterboxed(self.size, into: size).content
        let whole = resized(width: inside.columns, height: inside.rows, .bilinear)
        var out = [UInt8](repeating: 0, count: 3 * size.rows * size.columns)
        for row in 0..<inside.rows {
            let (to, from) = (3 * row * size.columns, 3 * row * inside.columns)
            out.replaceSubrange(to..<(to + 3 * inside.columns), with: whole.pixels[from..<(from + 3 * inside.columns)])
        }
        return Picture(unchecked: size.columns, size.rows, out)
    }

    /// float32 [3, height, width]: `(x * scale - mean) / std`.
    public func tensor(scale: Float = 1 / 255, mean: [Float] = [0, 0, 0], std: [Float] = [1, 1, 1]) -> [Float] {
        let count = width * height
        return [Float](unsafeUninitializedCapacity: 3 * count) { out, size in
            for channel in 0..<3 {
                for place in 0..<count {
                    out[channel * count + place] =
                        (Float(pixels[3 * place + channel]) * scale - mean[channel]) / std[channel]
                }
            }
            size = 3 * count
        }
    }
}
