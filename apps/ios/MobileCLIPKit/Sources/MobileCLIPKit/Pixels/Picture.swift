// Pictures in memory, upright RGB, and what decoders of other kinds of pixels give (apps/golden/README.md, "Pixels").

public struct Picture: Equatable, Sendable {
    /// A photo of a phone has at most this many pixels; larger ones are decoded smaller.
    public static let most = 25_000_000

    public let width: Int
    public let height: Int
    /// RGB, row by row: 3 x width x height.
    public var pixels: [UInt8]

    public init(width: Int, height: Int, pixels: [UInt8]) throws {
        guard width > 0, height > 0, pixels.count == 3 * width * height else {
            throw KitError(
                .picture, "The picture has no pixels, or not as many as its size says. Choose another picture.")
        }
        self.width = width
        self.height = height
        self.pixels = pixels
    }

    /// Known to be whole.
    init(unchecked width: Int, _ height: Int, _ pixels: [UInt8]) {
        self.width = width
        self.height = height
        self.pixels = pixels
    }

    public enum Layout: String, Sendable {
        case grey = "L"
        case greyAlpha = "LA"
        case alpha = "RGBA"
        case palette = "P"
        case inks = "CMYK"
    }

    /// Decoded pixels of another kind. Alpha is dropped, not blended, as Pillow does.
    public init(width: Int, height: Int, layout: Layout, pixels: [UInt8], palette: [UInt8] = []) throws {
        let channels = [Layout.grey: 1, .greyAlpha: 2, .alpha: 4, .palette: 1, .inks: 4][layout]!
        guard width > 0, height > 0, pixels.count == channels * width * height else {
            throw KitError(
                .picture, "The picture has no pixels, or not as many as its size says. Choose another picture.")
        }
        var rgb: [UInt8] = []
        rgb.reserveCapacity(3 * width * height)
        for at in stride(from: 0, to: pixels.count, by: channels) {
            switch layout {
            case .grey, .greyAlpha: rgb += [pixels[at], pixels[at], pixels[at]]
            case .alpha: rgb += pixels[at..<(at + 3)]
            case .palette:
                let entry = 3 * Int(pixels[at])
                guard entry + 3 <= palette.count else {
                    throw KitError(.picture, "The picture uses a colour that it does not define. Choose another picture.")
                }
                rgb += palette[entry..<(entry + 3)]
            case .inks:
                let light = 255 - Int(pixels[at + 3])
                for ink in pixels[at..<(at + 3)] {
                    let t = Int(ink) * light + 128
                    rgb.append(UInt8(max(light - ((t >> 8) + t) >> 8, 0)))
                }
            }
        }
        self.init(unchecked: width, height, rgb)
    }

    /// 16-bit grey keeps its high byte.
    public init(width: Int, height: Int, wideGrey: [UInt16]) throws {
        try self.init(width: width, height: height, layout: .grey, pixels: wideGrey.map { UInt8($0 >> 8) })
    }

    /// Turned as EXIF's orientation (2.32, table 4) says; other numbers change nothing.
    public func upright(orientation: Int) -> Picture {
        guard (2...8).contains(orientation) else { return self }
        let swaps = orientation >= 5
        let (columns, rows) = swaps ? (height, width) : (width, height)
        var out = [UInt8](repeating: 0, count: pixels.count)
        for y in 0..<rows {
            for x in 0..<columns {
                let (fromX, fromY) =
                    switch orientation {
                    case 2: (width - 1 - x, y)
                    case 3: (width - 1 - x, height - 1 - y)
                    case 4: (x, height - 1 - y)
                    case 5: (y, x)
                    case 6: (y, height - 1 - x)
                    case 7: (width - 1 - y, height - 1 - x)
                    default: (width - 1 - y, x)
                    }
                let (to, from) = (3 * (y * columns + x), 3 * (fromY * width + fromX))
                for channel in 0..<3 { out[to + channel] = pixels[from + channel] }
            }
        }
        return Picture(unchecked: columns, rows, out)
    }
}
