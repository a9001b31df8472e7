// What samples of time say (benchmarks/protocol.py).

/// The q-th hundredth of sorted values, linear between two.
func percentile(_ sorted: [Double], _ q: Double) -> Double {
    precondition(!sorted.isEmpty)
    let at = q / 100 * Double(sorted.count - 1)
    let low = Int(at)
    let high = min(low + 1, sorted.count - 1)
    return sorted[low] + (sorted[high] - sorted[low]) * (at - Double(low))
}

public struct Statistics: Equatable, Sendable {
    public let p50: Double
    public let p90: Double
    public let p99: Double
    public let min: Double
    public let mean: Double
    public let n: Int

    /// nil without samples. In ms.
    public init?(_ samples: [Double]) {
        let sorted = samples.sorted()
        guard let least = sorted.first else { return nil }
        (p50, p90, p99) = (percentile(sorted, 50), percentile(sorted, 90), percentile(sorted, 99))
        min = least
        mean = sorted.reduce(0, +) / Double(sorted.count)
        n = sorted.count
    }
}

/// ModelBench's mean (of MobileOne, FastViT, MobileCLIP): of each round of 50 the 10 lowest and 10 highest dropped; nil
/// without a whole round.
public func modelBench(_ rounds: [[Double]]) -> Double? {
    let means = rounds.filter { $0.count >= 50 }.map { times in
        let kept = times.sorted().dropFirst(10).dropLast(10)
        return kept.reduce(0, +) / Double(kept.count)
    }
    return means.isEmpty ? nil : means.reduce(0, +) / Double(means.count)
}

/// Samples cut into whole rounds of 50.
public func inRounds(_ samples: [Double]) -> [[Double]] {
    (0..<(samples.count / 50)).map { Array(samples[(50 * $0)..<(50 * $0 + 50)]) }
}
