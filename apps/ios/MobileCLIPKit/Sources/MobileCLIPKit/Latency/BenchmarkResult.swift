// The JSON of a run: benchmarks/result.schema.json, version 2. What is not known is null, not left out.
import Foundation

public struct BenchmarkResult: Encodable, Sendable {
    public enum State: String, Encodable, Sendable { case complete, partial, wrong }

    public let schema = 2
    public let date: String
    public let device: ResultDevice
    public let `protocol`: ResultProtocol
    public internal(set) var thermal: [ResultThermal] = []
    public internal(set) var sides: [ResultSide] = []
    public internal(set) var state = State.complete
    public internal(set) var problem: String?

    init(device: ResultDevice, plan: Plan, sides: Int) {
        date = ISO8601DateFormatter().string(from: Date())
        self.device = device
        `protocol` = ResultProtocol(plan, sides)
    }

    private enum CodingKeys: String, CodingKey {
        case schema, date, device, `protocol`, thermal, sides, state, problem
    }

    public func encode(to encoder: Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(schema, forKey: .schema)
        try values.encode(date, forKey: .date)
        try values.encode(device, forKey: .device)
        try values.encode(`protocol`, forKey: .protocol)
        try values.encode(thermal, forKey: .thermal)
        try values.encode(sides, forKey: .sides)
        try values.encode(state, forKey: .state)
        try values.encode(problem, forKey: .problem)
    }

    /// The file to share.
    public func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return try encoder.encode(self)
    }
}

public struct ResultDevice: Encodable, Sendable {
    /// `iphone`, or `host` where the kit's own tests run.
    public let kind: String
    public let name: String
    public let model: String?
    public let soc: String?
    public let os: String?
    public let cores: Int?
    public let memoryBytes: Int?
    public let details: [String: String]

    public init(
        kind: String, name: String, model: String?, soc: String? = nil, os: String?, cores: Int?, memoryBytes: Int?,
        details: [String: String] = [:]
    ) {
        (self.kind, self.name, self.model, self.soc) = (kind, name, model, soc)
        (self.os, self.cores, self.memoryBytes, self.details) = (os, cores, memoryBytes, details)
    }

    private enum CodingKeys: String, CodingKey {
        case kind, name, model, soc, os, cores, details
        case memoryBytes = "memory_bytes"
    }

    public func encode(to encoder: Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(kind, forKey: .kind)
        try values.encode(name, forKey: .name)
        try values.encode(model, forKey: .model)
        try values.encode(soc, forKey: .soc)
        try values.encode(os, forKey: .os)
        try values.encode(cores, forKey: .cores)
        try values.encode(memoryBytes, forKey: .memoryBytes)
        try values.encode(details, forKey: .details)
    }
}

public struct ResultProtocol: Encodable, Sendable {
    let order: String
    let runs: Int
    let seconds: Double
    let warmupRuns: Int
    let warmupS: Double
    let sustainedS: Double
    let process = "app"

    init(_ plan: Plan, _ sides: Int) {
        order = sides > 1 ? "ABBA" : "A"
        (runs, seconds) = (plan.runs, plan.seconds)
        (warmupRuns, warmupS, sustainedS) = (plan.warmupRuns, plan.warmupSeconds, plan.sustainedSeconds)
    }

    private enum CodingKeys: String, CodingKey {
        case order, runs, seconds, threads, process
        case warmupRuns = "warmup_runs"
        case warmupS = "warmup_s"
        case sustainedS = "sustained_s"
        case fixedPerformance = "fixed_performance"
    }

    public func encode(to encoder: Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(order, forKey: .order)
        try values.encode(runs, forKey: .runs)
        try values.encode(seconds, forKey: .seconds)
        try values.encode(warmupRuns, forKey: .warmupRuns)
        try values.encode(warmupS, forKey: .warmupS)
        try values.encode(sustainedS, forKey: .sustainedS)
        try values.encode(process, forKey: .process)
        try values.encodeNil(forKey: .threads)
        try values.encode(false, forKey: .fixedPerformance)
    }
}

public struct ResultThermal: Encodable, Sendable {
    let when: String
    let atS: Double
    let status: String

    private enum CodingKeys: String, CodingKey {
        case when, status
        case atS = "at_s"
    }
}

public struct ResultModelBench: Encodable, Sendable {
    let meanMs: Double?
    let reloaded: Bool

    private enum CodingKeys: String, CodingKey {
        case reloaded
        case meanMs = "mean_ms"
    }

    public func encode(to encoder: Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(meanMs, forKey: .meanMs)
        try values.encode(reloaded, forKey: .reloaded)
    }
}

public struct ResultMemory: Encodable, Sendable {
    var startBytes: Int?
    var loadedBytes: Int?
    var peakBytes: Int?

    private enum CodingKeys: String, CodingKey {
        case startBytes = "start_bytes"
        case loadedBytes = "loaded_bytes"
        case peakBytes = "peak_bytes"
    }

    public func encode(to encoder: Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(startBytes, forKey: .startBytes)
        try values.encode(loadedBytes, forKey: .loadedBytes)
        try values.encode(peakBytes, forKey: .peakBytes)
    }
}

public struct ResultEndToEnd: Encodable, Sendable {
    public internal(set) var ms: [Double] = []
    var decodeMs: [Double] = []
    var resizeMs: [Double] = []
    var forwardMs: [Double] = []
    var afterMs: [Double] = []
    var picture: [Int]?
    var reason: String?

    private enum CodingKeys: String, CodingKey {
        case ms, picture, reason
        case decodeMs = "decode_ms"
        case resizeMs = "resize_ms"
        case forwardMs = "forward_ms"
        case afterMs = "after_ms"
    }

    public func encode(to encoder: Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(ms, forKey: .ms)
        try values.encode(picture, forKey: .picture)
        try values.encode(reason, forKey: .reason)
        try values.encode(decodeMs, forKey: .decodeMs)
        try values.encode(resizeMs, forKey: .resizeMs)
        try values.encode(forwardMs, forKey: .forwardMs)
        try values.encode(afterMs, forKey: .afterMs)
    }
}

public struct ResultSide: Encodable, Sendable {
    public let name: String
    let sha256: String
    let bytes: Int
    public let runtime: RuntimeName
    public let knownAnswer: KnownAnswerResult
    public internal(set) var loadMs: Double?
    public internal(set) var firstMs: Double?
    var warmup: Int?
    public internal(set) var steadyMs: [Double] = []
    public internal(set) var endToEnd = ResultEndToEnd(reason: "it was not asked for.")
    public internal(set) var sustainedMs: [Double] = []
    public internal(set) var modelBench: ResultModelBench?
    var memory = ResultMemory()

    init(name: String, artifact: Manifest.Artifact, runtime: RuntimeName, knownAnswer: KnownAnswerResult) {
        (self.name, sha256, bytes) = (name, artifact.sha256, artifact.bytes)
        (self.runtime, self.knownAnswer) = (runtime, knownAnswer)
    }

    private enum CodingKeys: String, CodingKey {
        case name, sha256, bytes, runtime, warmup, memory
        case knownAnswer = "known_answer"
        case loadMs = "load_ms"
        case firstMs = "first_ms"
        case steadyMs = "steady_ms"
        case endToEnd = "end_to_end"
        case sustainedMs = "sustained_ms"
        case modelBench = "model_bench"
    }

    public func encode(to encoder: Encoder) throws {
        var values = encoder.container(keyedBy: CodingKeys.self)
        try values.encode(name, forKey: .name)
        try values.encode(sha256, forKey: .sha256)
        try values.encode(bytes, forKey: .bytes)
        try values.encode(runtime, forKey: .runtime)
        try values.encode(knownAnswer, forKey: .knownAnswer)
        try values.encode(loadMs, forKey: .loadMs)
        try values.encode(firstMs, forKey: .firstMs)
        try values.encode(warmup, forKey: .warmup)
        try values.encode(steadyMs, forKey: .steadyMs)
        try values.encode(endToEnd, forKey: .endToEnd)
        try values.encode(memory, forKey: .memory)
        try values.encode(modelBench, forKey: .modelBench)
        if !sustainedMs.isEmpty { try values.encode(sustainedMs, forKey: .sustainedMs) }
    }
}
