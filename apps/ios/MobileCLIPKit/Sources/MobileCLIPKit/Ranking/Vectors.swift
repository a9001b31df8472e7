// Embeddings: unit length, dot products, and halves.

/// Scaled to unit length, without overflow; zeros stay; nil where a value is not finite.
public func unit(_ vector: [Float]) -> [Float]? {
    guard vector.allSatisfy(\.isFinite) else { return nil }
    let largest = vector.reduce(Float(0)) { max($0, abs($1)) }
    if largest == 0 { return vector }
    let scaled = vector.map { $0 / largest }
    let length = scaled.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
    return scaled.map { Float(Double($0) / length) }
}

public func dot(_ one: [Float], _ other: [Float]) -> Double {
    precondition(one.count == other.count)
    return zip(one, other).reduce(0.0) { $0 + Double($1.0) * Double($1.1) }
}

/// The nearest half, ties to even. Swift's own Float16 is not on every system.
func half(_ value: Float) -> UInt16 {
    let bits = value.bitPattern
    let sign = UInt16(bits >> 16) & 0x8000
    let magnitude = bits & 0x7fff_ffff
    if magnitude > 0x7f80_0000 { return sign | 0x7e00 }
    if magnitude >= 0x477f_f000 { return sign | 0x7c00 }
    if magnitude < 0x3880_0000 {  // below the least normal half: a whole number of 2^-24
        let share = (Double(abs(value)) * 16_777_216).rounded(.toNearestOrEven)
        return sign | UInt16(share)
    }
    let rounded = magnitude + 0xfff + ((magnitude >> 13) & 1)
    return sign | UInt16((rounded - 0x3800_0000) >> 13)
}

func float(_ half: UInt16) -> Float {
    let sign = UInt32(half & 0x8000) << 16
    let exponent = UInt32(half >> 10) & 31, fraction = UInt32(half & 0x3ff)
    if exponent == 31 { return Float(bitPattern: sign | 0x7f80_0000 | fraction << 13) }
    if exponent == 0 { return (sign == 0 ? 1 : -1) * Float(fraction) / 16_777_216 }
    return Float(bitPattern: sign | (exponent + 112) << 23 | fraction << 13)
}
