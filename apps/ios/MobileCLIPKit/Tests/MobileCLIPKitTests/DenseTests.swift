import XCTest

@testable import MobileCLIPKit

final class DenseTests: XCTestCase {
    private struct Segmentations: Decodable {
        struct Case: Decodable {
            let name: String
            let kind: String
            let output: Stored
            let size: [Int]
            let labels: Stored?
            let metres: Stored?
            let tolerance: Double?
        }
        struct Colours: Decodable {
            let name: String
            let count: Int?
            let metres: Stored?
            let low: Double?
            let high: Double?
            let rgb: Stored
        }
        let cases: [Case]
        let colours: [Colours]
    }

    private struct Detections: Decodable {
        struct Case: Decodable {
            let name: String
            let kind: String
            let outputs: [String: Stored]
            let size: [Int]
            let original: [Int]
            let threshold: Float?
            let most: Int?
            let nms: Float?
            let boxes: Stored
            let scores: Stored
            let classes: Stored
            let masks: Stored
            let tolerance: Double
        }
        let cases: [Case]
    }

    func testGoldenSegmentationAndDepth() throws {
        for item in try Golden.file("segmentation.json", Segmentations.self).cases {
            let size = PixelSize(rows: item.size[0], columns: item.size[1])
            switch item.kind {
            case "labels":
                let small = PixelSize(rows: item.output.shape[2], columns: item.output.shape[3])
                let found = nearestLabels(item.output.integers.map { UInt8($0) }, from: small, to: size)
                XCTAssertEqual(found, item.labels!.bytes, item.name)
            case "depth":
                let found = try Maps(item.output.floats, shape: item.output.shape).metres(size)
                XCTAssertLessThanOrEqual(distance(found, item.metres!.floats), item.tolerance!, item.name)
            default:
                let found = try Maps(item.output.floats, shape: item.output.shape).labels(size)
                XCTAssertEqual(found, item.labels!.bytes, item.name)
            }
        }
    }

    func testGoldenColours() throws {
        for item in try Golden.file("segmentation.json", Segmentations.self).colours {
            switch item.name {
            case "palette": XCTAssertEqual(palette(item.count!).flatMap { $0 }, item.rgb.bytes)
            case "distances": XCTAssertEqual(distanceColours.flatMap { $0 }, item.rgb.bytes)
            default:
                let metres = item.metres!.floats
                let isGiven = item.name.contains("given")
                let found = depthColours(metres, low: isGiven ? item.low : nil, high: isGiven ? item.high : nil)
                XCTAssertEqual(found.pixels, item.rgb.bytes, item.name)
                XCTAssertEqual(found.low, item.low!, accuracy: 1e-6)
                XCTAssertEqual(found.high, item.high!, accuracy: 1e-6)
            }
        }
    }

    func testGoldenDetection() throws {
        for item in try Golden.file("detection.json", Detections.self).cases {
            let original = PixelSize(rows: item.original[0], columns: item.original[1])
            let rule = DetectionRule(threshold: item.threshold ?? 0.05, most: item.most ?? 100, overlap: item.nms)
            func floats(_ key: String) -> [Float] { item.outputs[key]!.floats }
            let found: [Detected]
            if item.kind == "points" {
                let protos = try Maps(floats("protos"), shape: item.outputs["protos"]!.shape)
                found = try PointOutputs(
                    boxes: floats("boxes"), scores: floats("scores"), coeffs: floats("coeffs"), protos: protos
                ).objects(original: original, rule: rule)
            } else {
                found = try RegionOutputs(
                    boxes: floats("boxes"), scores: floats("scores"), labels: item.outputs["labels"]!.integers,
                    masks: floats("masks")
                ).objects(original: original, size: PixelSize(rows: item.size[0], columns: item.size[1]), rule: rule)
            }
            XCTAssertEqual(found.map(\.label), item.classes.integers, item.name)
            XCTAssertLessThanOrEqual(distance(found.map(\.score), item.scores.floats), item.tolerance, item.name)
            let boxes = found.flatMap { [$0.box.left, $0.box.top, $0.box.right, $0.box.bottom] }
            XCTAssertLessThanOrEqual(distance(boxes, item.boxes.floats), item.tolerance, item.name)
            XCTAssertEqual(found.flatMap { whole($0, original) }, item.masks.bytes, item.name)
        }
    }

    private func whole(_ object: Detected, _ size: PixelSize) -> [UInt8] {
        var out = [UInt8](repeating: 0, count: size.rows * size.columns)
        for (place, isInside) in object.mask.enumerated() where isInside {
            let y = object.rows.lowerBound + place / object.columns.count
            out[y * size.columns + object.columns.lowerBound + place % object.columns.count] = 1
        }
        return out
    }

    func testOutputsOfAnotherShape() throws {
        let text = "The model gives outputs of another shape than its manifest says. Export it again."
        let protos = try Maps([Float](repeating: 0, count: 4), shape: [1, 1, 2, 2])
        XCTAssertThrowsError(try PointOutputs(boxes: [1, 2, 3], scores: [1], coeffs: [1], protos: protos)) {
            XCTAssertEqual("\($0)", text)
        }
        XCTAssertThrowsError(try RegionOutputs(boxes: [1, 2, 3, 4], scores: [1], labels: [], masks: [1])) {
            XCTAssertEqual("\($0)", text)
        }
        for shape in [[1, 2, 2], [2, 1, 1, 2], [4], [0, 2, 2]] {
            XCTAssertThrowsError(try Maps([1, 2, 3], shape: shape))
        }
    }

    func testATint() throws {
        let picture = try Picture(width: 2, height: 1, pixels: [0, 100, 200, 10, 20, 30])
        XCTAssertEqual(
            tinted(picture, labels: [0, 255], palette: [[100, 100, 100]], share: 0.5).pixels, [50, 100, 150, 10, 20, 30])
    }
}
