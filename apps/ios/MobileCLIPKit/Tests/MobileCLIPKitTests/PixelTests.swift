import XCTest

@testable import MobileCLIPKit

final class PixelTests: XCTestCase {
    private struct File: Decodable {
        struct Case: Decodable {
            let name: String
            let kind: String
            let picture: Stored?
            let generated: [Int]?
            let size: [Int]
            let interpolation: String
            let pixels: Stored
            let tolerance: Double
            let scale: Double?
            let content: [Int]?
        }
        struct Numbers: Decodable {
            let pixels: Stored
            let mean: [Float]
            let std: [Float]
            let tensor: Stored
            let tolerance: Double
        }
        struct Mode: Decodable {
            let mode: String
            let pixels: Stored
            let palette: Stored?
            let rgb: Stored
        }
        struct Encoded: Decodable {
            let name: String
            let base64: Data
            let orientation: Int?
            let stored: Stored?
            let upright: Stored?
        }
        let cases: [Case]
        let tensors: [Numbers]
        let modes: [Mode]
        let files: [Encoded]
    }

    private func picture(_ item: File.Case) throws -> Picture {
        if let stored = item.picture { return try stored.picture }
        let (width, height) = (item.generated![0], item.generated![1])
        var pixels: [UInt8] = []
        for y in 0..<height {
            for x in 0..<width {
                for c in 0..<3 {
                    pixels.append(UInt8(((2 * c + 3) * x + (3 * c + 5) * y + 11 * (x * y % 7)) % 256))
                }
            }
        }
        return try Picture(width: width, height: height, pixels: pixels)
    }

    func testGoldenPictures() throws {
        for item in try Golden.file("preprocessing.json", File.self).cases {
            let picture = try picture(item)
            let fit: Fit =
                switch item.kind {
                case "square": .square(item.size[0], Interpolation(rawValue: item.interpolation)!)
                case "stretch": .stretch(rows: item.size[0], columns: item.size[1])
                default: .letterbox(rows: item.size[0], columns: item.size[1])
                }
            let found = try picture.fitted(fit)
            XCTAssertEqual([found.height, found.width], item.size, item.name)
            XCTAssertLessThanOrEqual(distance(found.pixels, item.pixels.bytes), item.tolerance, item.name)
            if let scale = item.scale, let content = item.content {
                let place = letterboxed(picture.size, into: PixelSize(rows: item.size[0], columns: item.size[1]))
                XCTAssertEqual(place.scale, scale)
                XCTAssertEqual([place.content.rows, place.content.columns], content)
            }
        }
    }

    func testGoldenTensors() throws {
        for item in try Golden.file("preprocessing.json", File.self).tensors {
            let found = try item.pixels.picture.tensor(mean: item.mean, std: item.std)
            XCTAssertLessThanOrEqual(distance(found, item.tensor.floats), item.tolerance)
        }
    }

    func testGoldenModes() throws {
        let modes = try Golden.file("preprocessing.json", File.self).modes
        XCTAssertEqual(Set(modes.map(\.mode)), ["L", "LA", "RGBA", "I;16", "P", "CMYK"])
        for item in modes {
            let (height, width) = (item.pixels.shape[0], item.pixels.shape[1])
            let found =
                item.mode == "I;16"
                ? try Picture(width: width, height: height, wideGrey: item.pixels.words)
                : try Picture(
                    width: width, height: height, layout: Picture.Layout(rawValue: item.mode)!, pixels: item.pixels.bytes,
                    palette: item.palette?.bytes ?? [])
            XCTAssertEqual(found.pixels, item.rgb.bytes, item.mode)
        }
    }

    func testGoldenOrientations() throws {
        for item in try Golden.file("preprocessing.json", File.self).files {
            let bytes = [UInt8](item.base64)
            guard let stored = item.stored, let upright = item.upright else {
                XCTAssertEqual(orientation(ofFile: bytes), 1, item.name)
                continue
            }
            XCTAssertEqual(orientation(ofFile: bytes), item.orientation, item.name)
            XCTAssertEqual(try stored.picture.upright(orientation: item.orientation!), try upright.picture, item.name)
        }
    }

    #if canImport(ImageIO)
        /// Where there is a decoder, the files themselves.
        func testGoldenFilesDecoded() throws {
            struct Decoded: Decodable {
                struct Case: Decodable {
                    let name: String
                    let base64: Data
                    let upright: Stored?
                    let tolerance: Double?
                }
                let files: [Case]
            }
            for item in try Golden.file("preprocessing.json", Decoded.self).files where !item.name.contains("CMYK") {
                guard let upright = item.upright else {
                    XCTAssertThrowsError(try Picture(decoding: item.base64), item.name)
                    continue
                }
                let found = try Picture(decoding: item.base64)
                XCTAssertLessThanOrEqual(distance(found.pixels, upright.bytes), (item.tolerance ?? 0) + 2, item.name)
            }
        }
    #endif

    /// Each cut and each changed byte of a file gives an orientation, never a crash.
    func testDamagedFiles() throws {
        for item in try Golden.file("preprocessing.json", File.self).files where item.name.contains("orientation 6") {
            let bytes = [UInt8](item.base64)
            for place in bytes.indices {
                XCTAssert((1...8).contains(orientation(ofFile: Array(bytes[..<place]))))
                for value: UInt8 in [0, 0x7f, 0xff] {
                    var changed = bytes
                    changed[place] = value
                    XCTAssert((1...8).contains(orientation(ofFile: changed)))
                }
            }
        }
    }

    func testPicturesThatAreNone() throws {
        let whole = "The picture has no pixels, or not as many as its size says. Choose another picture."
        for (width, height, count) in [(0, 1, 0), (1, 0, 0), (2, 2, 11), (-1, -1, 3)] {
            XCTAssertThrowsError(try Picture(width: width, height: height, pixels: .init(repeating: 0, count: count))) {
                XCTAssertEqual("\($0)", whole)
            }
        }
        XCTAssertThrowsError(try Picture(width: 1, height: 1, layout: .inks, pixels: [1, 2, 3]))
        XCTAssertThrowsError(try Picture(width: 1, height: 1, layout: .palette, pixels: [1], palette: [0, 0, 0])) {
            XCTAssertEqual("\($0)", "The picture uses a colour that it does not define. Choose another picture.")
        }
        let line = try Picture(width: 200_000, height: 1, pixels: .init(repeating: 9, count: 600_000))
        XCTAssertThrowsError(try line.square(256, .bilinear)) {
            XCTAssertEqual("\($0)", "The picture is far too long for its width. Crop it, or choose another one.")
        }
        let wide = try Picture(width: 12_000, height: 9_000, pixels: .init(repeating: 77, count: 324_000_000))
        XCTAssertEqual(Set(try wide.square(32, .bicubic).pixels), [77])
    }
}
