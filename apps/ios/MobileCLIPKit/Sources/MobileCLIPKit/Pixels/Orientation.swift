// EXIF's orientation in the bytes of a JPEG or PNG file. Foreign bytes: every read is inside, every loop ends.

/// 1..8; 1 where there is none, or the block is broken.
public func orientation(ofFile bytes: [UInt8]) -> Int {
    let block = bytes.starts(with: [0xff, 0xd8]) ? jpegBlock(bytes) : pngBlock(bytes)
    return block.flatMap(orientation(ofBlock:)) ?? 1
}

private func jpegBlock(_ bytes: [UInt8]) -> ArraySlice<UInt8>? {
    var place = 2
    while place + 4 <= bytes.count, bytes[place] == 0xff {
        let marker = bytes[place + 1]
        if marker == 0xff {
            place += 1
            continue
        }
        if marker == 0xda || marker == 0xd9 { return nil }
        let length = Int(bytes[place + 2]) << 8 | Int(bytes[place + 3])
        let end = place + 2 + length
        guard length >= 2, end <= bytes.count else { return nil }
        let body = bytes[(place + 4)..<end]
        if marker == 0xe1, body.starts(with: Array("Exif\0\0".utf8)) { return body.dropFirst(6) }
        place = end
    }
    return nil
}

private func pngBlock(_ bytes: [UInt8]) -> ArraySlice<UInt8>? {
    guard bytes.starts(with: [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]) else { return nil }
    var place = 8
    while place + 12 <= bytes.count {
        let length = bytes[place..<(place + 4)].reduce(0) { $0 << 8 | Int($1) }
        guard length <= bytes.count - place - 12 else { return nil }
        if bytes[(place + 4)..<(place + 8)].elementsEqual(Array("eXIf".utf8)) {
            return bytes[(place + 8)..<(place + 8 + length)]
        }
        place += 12 + length
    }
    return nil
}

/// The tag 0x0112 of the first directory of a TIFF header.
private func orientation(ofBlock block: ArraySlice<UInt8>) -> Int? {
    let bytes = Array(block)
    let isLittle = bytes.starts(with: [0x49, 0x49, 0x2a, 0])
    guard isLittle || bytes.starts(with: [0x4d, 0x4d, 0, 0x2a]) else { return nil }
    func number(_ place: Int, _ width: Int) -> Int? {
        guard place >= 0, place + width <= bytes.count else { return nil }
        let part = bytes[place..<(place + width)]
        return (isLittle ? Array(part.reversed()) : Array(part)).reduce(0) { $0 << 8 | Int($1) }
    }
    guard let first = number(4, 4), let count = number(first, 2) else { return nil }
    for entry in 0..<count {
        let place = first + 2 + 12 * entry
        guard let tag = number(place, 2) else { return nil }
        if tag == 0x0112 {
            guard number(place + 2, 2) == 3, let value = number(place + 8, 2), (1...8).contains(value) else { return nil }
            return value
        }
    }
    return nil
}
