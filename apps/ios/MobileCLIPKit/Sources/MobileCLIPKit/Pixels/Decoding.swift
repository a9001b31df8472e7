// Files of foreign pictures on Apple's systems: upright RGB, alpha dropped, colours as they are stored (Pillow converts no
// profile either). A picture beyond `Picture.most` pixels is decoded smaller, which ImageIO does without the whole in memory.
#if canImport(ImageIO)
    import CoreGraphics
    import Foundation
    import ImageIO

    extension Picture {
        private static let unreadable = KitError(
            .picture, "The picture cannot be read: it is damaged, or of a kind that this device does not know. Choose another one.")

        /// A JPEG, HEIC, PNG, ... file.
        public init(decoding data: Data) throws {
            guard let source = CGImageSourceCreateWithData(data as CFData, nil), CGImageSourceGetCount(source) > 0,
                let told = CGImageSourceCopyPropertiesAtIndex(source, 0, nil) as? [CFString: Any],
                let width = told[kCGImagePropertyPixelWidth] as? Int, let height = told[kCGImagePropertyPixelHeight] as? Int,
                width > 0, height > 0
            else { throw Self.unreadable }
            let turn = told[kCGImagePropertyOrientation] as? Int ?? 1
            let image: CGImage?
            if width > Self.most / height {
                let share = (Double(Self.most) / (Double(width) * Double(height))).squareRoot()
                let options: [CFString: Any] = [
                    kCGImageSourceCreateThumbnailFromImageAlways: true,
                    kCGImageSourceThumbnailMaxPixelSize: max(Int(Double(max(width, height)) * share), 1),
                ]
                image = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary)
            } else {
                image = CGImageSourceCreateImageAtIndex(source, 0, nil)
            }
            guard let image, CGImageSourceGetStatusAtIndex(source, 0) == .statusComplete else { throw Self.unreadable }
            self = try Picture(image).upright(orientation: turn)
        }

        /// An image in memory, as it lies.
        public init(_ image: CGImage) throws {
            guard image.width > 0, image.height > 0, image.width <= Self.most / image.height else { throw Self.unreadable }
            self = try Self.stored(image) ?? Self.drawn(image)
        }

        /// The decoder's own bytes, where they are 8-bit grey or RGB that no alpha was multiplied into.
        private static func stored(_ image: CGImage) throws -> Picture? {
            let channels = image.bitsPerPixel / 8
            let order = image.bitmapInfo.intersection(.byteOrderMask)
            let isPlain = order.isEmpty || order == .byteOrder32Big
            let alphas: [CGImageAlphaInfo] = [.none, .last, .noneSkipLast]
            guard image.bitsPerComponent == 8, !image.bitmapInfo.contains(.floatComponents), isPlain,
                alphas.contains(image.alphaInfo), let data = image.dataProvider?.data as Data?
            else { return nil }
            let layout: Layout
            switch (image.colorSpace?.model, channels) {
            case (.monochrome, 1): layout = .grey
            case (.monochrome, 2): layout = .greyAlpha
            case (.rgb, 4): layout = .alpha
            case (.rgb, 3):
                let pixels = lines(data, image, channels)
                return try pixels.map { try Picture(width: image.width, height: image.height, pixels: $0) }
            default: return nil
            }
            return try lines(data, image, channels).map {
                try Picture(width: image.width, height: image.height, layout: layout, pixels: $0)
            }
        }

        /// Without what pads the lines; nil where the bytes do not suffice.
        private static func lines(_ data: Data, _ image: CGImage, _ channels: Int) -> [UInt8]? {
            let width = channels * image.width
            guard image.bytesPerRow >= width, data.count >= image.bytesPerRow * (image.height - 1) + width else { return nil }
            return data.withUnsafeBytes { bytes in
                var out: [UInt8] = []
                out.reserveCapacity(width * image.height)
                for row in 0..<image.height { out += bytes[(row * image.bytesPerRow)..<(row * image.bytesPerRow + width)] }
                return out
            }
        }

        /// Every other kind, by way of a canvas.
        private static func drawn(_ image: CGImage) throws -> Picture {
            let (width, height) = (image.width, image.height)
            let own = image.colorSpace.flatMap { $0.model == .rgb && $0.supportsOutput ? $0 : nil }
            guard let space = own ?? CGColorSpace(name: CGColorSpace.sRGB) else { throw unreadable }
            var raw = [UInt8](repeating: 0, count: 4 * width * height)
            let isDrawn = raw.withUnsafeMutableBytes { bytes -> Bool in
                guard
                    let context = CGContext(
                        data: bytes.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 4 * width,
                        space: space, bitmapInfo: CGImageAlphaInfo.premultipliedLast.rawValue)
                else { return false }
                context.interpolationQuality = .none
                context.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
                return true
            }
            guard isDrawn else { throw unreadable }
            var pixels = [UInt8](repeating: 0, count: 3 * width * height)
            for place in 0..<(width * height) {
                let alpha = Int(raw[4 * place + 3])
                for channel in 0..<3 {
                    let value = Int(raw[4 * place + channel])
                    let whole = alpha == 0 || alpha == 255 ? value : min(255, (value * 255 + alpha / 2) / alpha)
                    pixels[3 * place + channel] = UInt8(whole)
                }
            }
            return try Picture(width: width, height: height, pixels: pixels)
        }

        /// For the screen.
        public var image: CGImage? {
            guard let provider = CGDataProvider(data: Data(pixels) as CFData) else { return nil }
            return CGImage(
                width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 24, bytesPerRow: 3 * width,
                space: CGColorSpaceCreateDeviceRGB(), bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.none.rawValue),
                provider: provider, decode: nil, shouldInterpolate: false, intent: .defaultIntent)
        }
    }
#endif

#if canImport(CoreVideo)
    import CoreVideo

    extension Picture {
        /// A frame of the camera, 32BGRA.
        public init(_ buffer: CVPixelBuffer) throws {
            guard CVPixelBufferGetPixelFormatType(buffer) == kCVPixelFormatType_32BGRA else {
                throw KitError(.picture, "The camera gives frames of a kind that this app does not know. Restart the app.")
            }
            CVPixelBufferLockBaseAddress(buffer, .readOnly)
            defer { CVPixelBufferUnlockBaseAddress(buffer, .readOnly) }
            let (width, height) = (CVPixelBufferGetWidth(buffer), CVPixelBufferGetHeight(buffer))
            let line = CVPixelBufferGetBytesPerRow(buffer)
            guard let base = CVPixelBufferGetBaseAddress(buffer)?.assumingMemoryBound(to: UInt8.self) else {
                throw KitError(.picture, "The camera gave an empty frame. Try again.")
            }
            let pixels = [UInt8](unsafeUninitializedCapacity: 3 * width * height) { out, count in
                for y in 0..<height {
                    for x in 0..<width {
                        let (to, from) = (3 * (y * width + x), y * line + 4 * x)
                        out[to] = base[from + 2]
                        out[to + 1] = base[from + 1]
                        out[to + 2] = base[from]
                    }
                }
                count = 3 * width * height
            }
            self = try Picture(width: width, height: height, pixels: pixels)
        }
    }
#endif
