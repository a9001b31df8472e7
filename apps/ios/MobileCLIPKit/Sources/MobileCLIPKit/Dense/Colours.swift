// Colours of classes and distances, chosen in Oklab (Ottosson 2020), as mobileclip/dense/colours.py chooses them.
import Foundation

/// RGB of `count` classes; the first ones are the same for every count.
public func palette(_ count: Int) -> [[UInt8]] {
    let lightness = [0.70, 0.52, 0.84, 0.61, 0.77], chroma = [0.15, 0.13, 0.11, 0.17, 0.09]
    let golden = (3 - 5.0.squareRoot()) * .pi  // the angle that keeps any number of hues apart
    return (0..<count).map { rgb(lightness[$0 % 5], chroma[$0 / 2 % 5], 0.5 + Double($0) * golden) }
}

/// 256 colours from near to far: light yellow, red, violet, dark blue.
public let distanceColours: [[UInt8]] = (0..<256).map { place in
    let share = Double(place) / 255
    return rgb(0.95 - 0.73 * share, 0.05 + 0.13 * pow(sin(.pi * share), 0.8), .pi * (0.58 - 1.1 * share))
}

/// Metres -> RGB and the distances at both ends of the colours: the 2nd and 98th hundredth of what is known, unless given.
/// What has no depth (0, or not finite) is black.
public func depthColours(_ metres: [Float], low: Double? = nil, high: Double? = nil) -> (
    pixels: [UInt8], low: Double, high: Double
) {
    let known = metres.filter { $0.isFinite && $0 > 0 }.map(Double.init).sorted()
    let low = low ?? (known.isEmpty ? 0 : percentile(known, 2))
    let high = high ?? (known.isEmpty ? 1 : percentile(known, 98))
    var out: [UInt8] = []
    out.reserveCapacity(3 * metres.count)
    for metre in metres {
        guard metre.isFinite, metre > 0 else {
            out += [0, 0, 0]
            continue
        }
        let share = min(max((Double(metre) - low) / max(high - low, 1e-6), 0), 1)
        out += distanceColours[Int((share * 255).rounded(.toNearestOrEven))]
    }
    return (out, low, high)
}

/// A picture with the class's colour over each pixel.
public func tinted(_ picture: Picture, labels: [UInt8], palette: [[UInt8]], share: Double = 0.55) -> Picture {
    var out = picture
    for (place, label) in labels.enumerated() where Int(label) < palette.count {
        for channel in 0..<3 {
            let (old, colour) = (Double(out.pixels[3 * place + channel]), Double(palette[Int(label)][channel]))
            out.pixels[3 * place + channel] = UInt8((old * (1 - share) + colour * share).rounded())
        }
    }
    return out
}

/// Oklab's cylinder form -> sRGB; chroma is reduced where the screen has no such colour.
private func rgb(_ lightness: Double, _ chroma: Double, _ hue: Double) -> [UInt8] {
    var linear = [0.0, 0, 0]
    for step in 0...40 {
        let part = chroma * (1 - Double(step) / 40)
        let (a, b) = (part * cos(hue), part * sin(hue))
        let cones = [
            lightness + 0.3963377774 * a + 0.2158037573 * b, lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ].map { $0 * $0 * $0 }
        let found = [
            4.0767416621 * cones[0] - 3.3077115913 * cones[1] + 0.2309699292 * cones[2],
            -1.2684380046 * cones[0] + 2.6097574011 * cones[1] - 0.3413193965 * cones[2],
            -0.0041960863 * cones[0] - 0.7034186147 * cones[1] + 1.7076147010 * cones[2],
        ]
        if found.allSatisfy({ $0 >= -1e-6 && $0 <= 1 + 1e-6 }) {
            linear = found
            break
        }
    }
    return linear.map { value in
        let value = min(max(value, 0), 1)
        let shown = value <= 0.0031308 ? 12.92 * value : 1.055 * pow(value, 1 / 2.4) - 0.055  // IEC 61966-2-1
        return UInt8((shown * 255).rounded(.toNearestOrEven))
    }
}
