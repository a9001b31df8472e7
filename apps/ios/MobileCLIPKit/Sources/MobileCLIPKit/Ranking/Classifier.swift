// Zero-shot classification: an image belongs to the text that it is nearest to (Radford et al. 2021, section 3.1.4).
import Foundation

public struct Ranked: Equatable, Sendable {
    /// Place of the text.
    public let index: Int
    public let probability: Double
}

/// Probabilities of texts for an image, in the order of the texts: softmax of logit scale times cosine. A text that is not
/// finite has probability 0.
public func probabilities(image: [Float], texts: [[Float]], logitScale: Double) throws -> [Double] {
    guard let image = unit(image) else {
        throw KitError(.embedding, "The model gave no usable answer for this picture. Try another picture or bundle.")
    }
    let logits = texts.map { text in unit(text).map { logitScale * dot(image, $0) } ?? -.infinity }
    guard let best = logits.max(), best.isFinite else {
        throw KitError(.embedding, "The model gave no usable answer for these labels. Try other labels or another bundle.")
    }
    let powers = logits.map { exp($0 - best) }
    let sum = powers.reduce(0, +)
    return powers.map { $0 / sum }
}

/// Best first, equal ones in their order.
public func ranked(_ probabilities: [Double]) -> [Ranked] {
    probabilities.indices.sorted { probabilities[$0] == probabilities[$1] ? $0 < $1 : probabilities[$0] > probabilities[$1] }
        .map { Ranked(index: $0, probability: probabilities[$0]) }
}

/// A class from the embeddings of its texts: unit length, mean, unit length.
public func classEmbedding(_ texts: [[Float]]) -> [Float]? {
    let rows = texts.compactMap(unit)
    guard let width = rows.first?.count, rows.count == texts.count else { return nil }
    return unit((0..<width).map { place in Float(rows.reduce(0.0) { $0 + Double($1[place]) } / Double(rows.count)) })
}

/// Labels as the user edits them -> texts: the template around each, empty lines and repetitions left out.
public func prompts(labels: [String], template: String?) -> [(label: String, text: String)] {
    var seen = Set<String>()
    return labels.compactMap { label in
        let label = label.trimmingCharacters(in: .whitespacesAndNewlines)
        guard !label.isEmpty, seen.insert(label).inserted else { return nil }
        return (label, (template ?? "{}").replacingOccurrences(of: "{}", with: label))
    }
}

/// Labels and their embeddings; those of unchanged labels are kept when the labels are edited.
public struct ZeroShotClassifier: Sendable {
    public let logitScale: Double
    public private(set) var labels: [String] = []
    private var texts: [[Float]] = []
    private var known: [String: [Float]] = [:]

    public init(logitScale: Double) { self.logitScale = logitScale }

    /// Take other labels. `encode` gives the embedding of a prompt.
    public mutating func setLabels(_ labels: [String], template: String?, encode: (String) throws -> [Float]) rethrows {
        let wanted = prompts(labels: labels, template: template)
        var kept: [String: [Float]] = [:]
        for (_, text) in wanted { kept[text] = try known[text] ?? encode(text) }
        known = kept
        self.labels = wanted.map(\.label)
        texts = wanted.compactMap { kept[$0.text] }
    }

    /// Best first; empty without labels.
    public func classify(_ image: [Float]) throws -> [(label: String, probability: Double)] {
        if labels.isEmpty { return [] }
        return ranked(try probabilities(image: image, texts: texts, logitScale: logitScale)).map {
            (labels[$0.index], $0.probability)
        }
    }
}
