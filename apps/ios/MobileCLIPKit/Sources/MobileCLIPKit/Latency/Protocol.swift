// How latency is measured, as on every other device (benchmarks/protocol.py): load, one run, known answer, warm-up, then
// the sides in turns A B B A. Every sample is kept. What comes out is a result of schema 2, which `mobileclip report` reads.
import Foundation

public struct Plan: Sendable {
    /// Timed runs of each side, at least.
    public var runs = 200
    /// Seconds of each side's timed runs, at least.
    public var seconds = 10.0
    public var warmupRuns = 10
    public var warmupSeconds = 1.0
    /// Whether decode, resize and what follows the forward pass are timed as well.
    public var endToEnd = true
    /// How long to run on without pause afterwards; the last tenth is the sustained figure. 300 is the protocol's.
    public var sustainedSeconds = 0.0

    public init() {}

    public func checked() throws -> Plan {
        guard runs >= 2 else {
            throw KitError(.plan, "\(runs) runs cannot give a median. Take at least 2.")
        }
        return self
    }
}

/// The four parts of an end-to-end run, in ms.
public struct WholeRun: Sendable {
    public let decode: Double
    public let resize: Double
    public let forward: Double
    public let after: Double

    public init(decode: Double, resize: Double, forward: Double, after: Double) {
        (self.decode, self.resize, self.forward, self.after) = (decode, resize, forward, after)
    }
}

/// An artifact to be timed.
public struct Subject {
    public let name: String
    public let answer: KnownAnswer
    let load: () throws -> Runner
    let wholeRun: ((Runner) throws -> WholeRun)?
    let picture: PixelSize?

    /// - Parameters:
    ///   - load: from the file to what can run; its time is the load time.
    ///   - wholeRun: from an encoded picture in memory to what the app shows; nil for a text part.
    ///   - picture: that picture's size.
    public init(
        name: String, answer: KnownAnswer, load: @escaping () throws -> Runner,
        wholeRun: ((Runner) throws -> WholeRun)? = nil, picture: PixelSize? = nil
    ) {
        (self.name, self.answer, self.load) = (name, answer, load)
        (self.wholeRun, self.picture) = (wholeRun, picture)
    }
}

/// What the system says while it measures. An app gives `ProcessInfo.thermalState` and the task's footprint.
public struct Surroundings {
    public var device: ResultDevice
    /// One of Apple's words: nominal, fair, serious, critical.
    public var thermal: () -> String?
    public var memory: () -> Int?
    public var isCancelled: () -> Bool
    /// 0..1 and what is being done.
    public var progress: (Double, String) -> Void

    public init(
        device: ResultDevice, thermal: @escaping () -> String? = { nil }, memory: @escaping () -> Int? = { nil },
        isCancelled: @escaping () -> Bool = { false }, progress: @escaping (Double, String) -> Void = { _, _ in }
    ) {
        (self.device, self.thermal, self.memory) = (device, thermal, memory)
        (self.isCancelled, self.progress) = (isCancelled, progress)
    }
}

/// Time the subjects, interleaved. A wrong known answer or a cancelled run is in the result, not thrown.
public func measureLatency(_ subjects: [Subject], plan: Plan, in surroundings: Surroundings) throws -> BenchmarkResult {
    precondition(!subjects.isEmpty)
    let plan = try plan.checked()
    var course = Course(plan: plan, surroundings: surroundings)
    var result = BenchmarkResult(device: surroundings.device, plan: plan, sides: subjects.count)
    course.read("before")
    var opened: [(subject: Subject, runner: Runner)] = []
    for subject in subjects {
        surroundings.progress(0, "Loading \(subject.name)")
        let (runner, side) = try open(subject, surroundings)
        opened.append((subject, runner))
        result.sides.append(side)
    }
    let wrong = zip(subjects, result.sides).filter { $1.knownAnswer.right == false }.map(\.0.name)
    if !wrong.isEmpty {
        result.state = .wrong
        result.problem =
            "\(wrong.joined(separator: ", ")) gives a wrong known answer here: a wrong artifact has no latency."
        result.thermal = course.thermal
        return result
    }
    do {
        try course.time(opened, &result)
    } catch is Cancelled {
        result.state = .partial
        result.problem = "Stopped: what was measured until then is kept."
    }
    course.read("after")
    result.thermal = course.thermal
    for place in result.sides.indices { result.sides[place].memory.peakBytes = surroundings.memory() }
    return result
}

private struct Cancelled: Error {}

private func open(_ subject: Subject, _ surroundings: Surroundings) throws -> (Runner, ResultSide) {
    let before = surroundings.memory()
    var runner: Runner?
    let load = try milliseconds { runner = try subject.load() }
    guard let runner else { preconditionFailure("load gave nothing") }
    let loaded = surroundings.memory()
    var outputs: [Tensor] = []
    let first = try milliseconds { outputs = try runner.run(subject.answer.feed) }
    var side = ResultSide(
        name: subject.name, artifact: subject.answer.artifact, runtime: runner.runtime,
        knownAnswer: subject.answer.judge(outputs))
    side.loadMs = load
    side.firstMs = first
    side.memory = ResultMemory(startBytes: before, loadedBytes: loaded, peakBytes: surroundings.memory())
    return (runner, side)
}

private struct Course {
    let plan: Plan
    let surroundings: Surroundings
    let began = DispatchTime.now().uptimeNanoseconds
    var thermal: [ResultThermal] = []
    var lastReading = 0.0

    mutating func read(_ when: String) {
        let now = Double(DispatchTime.now().uptimeNanoseconds - began) / 1e9
        if when == "during" && now - lastReading < 1 { return }
        lastReading = now
        if let status = surroundings.thermal() { thermal.append(ResultThermal(when: when, atS: now, status: status)) }
    }

    func check() throws {
        if surroundings.isCancelled() { throw Cancelled() }
    }

    mutating func time(_ opened: [(subject: Subject, runner: Runner)], _ result: inout BenchmarkResult) throws {
        for (place, item) in opened.enumerated() {
            surroundings.progress(0, "Warming up \(item.subject.name)")
            var (runs, spent) = (0, 0.0)
            while runs < plan.warmupRuns || spent < 1000 * plan.warmupSeconds {
                try check()
                spent += try milliseconds { _ = try item.runner.run(item.subject.answer.feed) }
                runs += 1
            }
            result.sides[place].warmup = runs
        }
        var spent = [Double](repeating: 0, count: opened.count)
        let order = Array(opened.indices) + opened.indices.reversed()
        while opened.indices.contains(where: {
            result.sides[$0].steadyMs.count < plan.runs || spent[$0] < 1000 * plan.seconds
        }) {
            for which in order {
                try check()
                let item = opened[which]
                let found = try milliseconds { _ = try item.runner.run(item.subject.answer.feed) }
                result.sides[which].steadyMs.append(found)
                spent[which] += found
            }
            read("during")
            let share = opened.indices.map { place in
                min(
                    Double(result.sides[place].steadyMs.count) / Double(plan.runs),
                    spent[place] / max(1000 * plan.seconds, 1e-9))
            }.min() ?? 1
            surroundings.progress(min(share, 1), "Timing")
        }
        for (place, item) in opened.enumerated() {
            let side = result.sides[place]
            result.sides[place].modelBench = ResultModelBench(meanMs: modelBench(inRounds(side.steadyMs)), reloaded: false)
            if plan.endToEnd { try wholeRuns(item.subject, item.runner, &result.sides[place]) }
            if plan.sustainedSeconds > 0 { try sustained(item.subject, item.runner, &result.sides[place]) }
        }
    }

    private mutating func wholeRuns(_ subject: Subject, _ runner: Runner, _ side: inout ResultSide) throws {
        guard let wholeRun = subject.wholeRun else {
            side.endToEnd.reason = "a text part begins with no picture."
            return
        }
        surroundings.progress(1, "From picture to answer")
        var found = ResultEndToEnd()
        for run in 0..<(2 + max(10, plan.runs / 10)) {
            try check()
            let parts = try wholeRun(runner)
            if run < 2 { continue }
            found.ms.append(parts.decode + parts.resize + parts.forward + parts.after)
            found.decodeMs.append(parts.decode)
            found.resizeMs.append(parts.resize)
            found.forwardMs.append(parts.forward)
            found.afterMs.append(parts.after)
        }
        found.picture = subject.picture.map { [$0.columns, $0.rows] }
        side.endToEnd = found
        read("during")
    }

    private mutating func sustained(_ subject: Subject, _ runner: Runner, _ side: inout ResultSide) throws {
        var (samples, spent) = ([(at: Double, ms: Double)](), 0.0)
        let whole = 1000 * plan.sustainedSeconds
        while spent < whole {
            try check()
            let found = try milliseconds { _ = try runner.run(subject.answer.feed) }
            spent += found
            samples.append((spent, found))
            read("during")
            surroundings.progress(min(spent / whole, 1), "Sustained")
        }
        side.sustainedMs = samples.filter { $0.at >= 0.9 * whole }.map(\.ms)
    }
}

/// Time of a call, by a clock that does not jump.
public func milliseconds(_ call: () throws -> Void) rethrows -> Double {
    let start = DispatchTime.now().uptimeNanoseconds
    try call()
    return Double(DispatchTime.now().uptimeNanoseconds - start) / 1e6
}
