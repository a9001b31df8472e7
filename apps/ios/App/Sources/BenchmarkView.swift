// The latency protocol on this device, and its result as a file to share.
import MobileCLIPKit
import SwiftUI

@MainActor @Observable
final class Benchmark {
    private(set) var progress: Double?
    private(set) var what = ""
    private(set) var result: BenchmarkResult?
    private(set) var file: URL?
    private(set) var problem: String?
    @ObservationIgnored private var work: Task<Void, Never>?

    func start(_ engine: Engine, isLong: Bool) {
        (progress, problem, result, file) = (0, nil, nil, nil)
        UIApplication.shared.isIdleTimerDisabled = true
        let (updates, send) = AsyncStream.makeStream(of: (Double, String).self, bufferingPolicy: .bufferingNewest(1))
        work = Task {
            async let shown: Void = show(updates)
            // On a thread of its own: what is timed must not wait for the app.
            let outcome = await withTaskCancellationHandler {
                await Task.detached(priority: .userInitiated) {
                    Result { try Measuring(engine).run(isLong: isLong) { _ = send.yield(($0, $1)) } }
                }.value
            } onCancel: {
                Measuring.cancel()
            }
            send.finish()
            await shown
            UIApplication.shared.isIdleTimerDisabled = false
            progress = nil
            do {
                let found = try outcome.get()
                let url = URL.temporaryDirectory.appending(path: "mobileclip-result.json")
                try found.json().write(to: url, options: .atomic)
                (result, file) = (found, url)
                problem = found.problem
            } catch {
                problem = ModelStore.sentence(error)
            }
        }
    }

    func stop() { work?.cancel() }

    private func show(_ updates: AsyncStream<(Double, String)>) async {
        for await (share, what) in updates { (progress, self.what) = (share, what) }
    }
}

struct BenchmarkView: View {
    let engine: Engine
    @State private var benchmark = Benchmark()
    @State private var isLong = false

    var body: some View {
        NavigationStack {
            List {
                Section {
                    Toggle("Five more minutes without pause", isOn: $isLong)
                    if let progress = benchmark.progress {
                        ProgressView(value: progress) { Text(benchmark.what) }
                        Button("Stop", role: .destructive) { benchmark.stop() }
                    } else {
                        Button("Start") { benchmark.start(engine, isLong: isLong) }
                    }
                } footer: {
                    Text("At least 200 runs and 10 s of each part, in turns, after a warm-up. Unplug the phone, close other apps.")
                }
                if let problem = benchmark.problem { Section { Text(problem).foregroundStyle(.red) } }
                if let result = benchmark.result {
                    ForEach(result.sides, id: \.name) { SideSection(side: $0) }
                    if let file = benchmark.file {
                        ShareLink("Share the result", item: file)
                    }
                } else if benchmark.progress == nil {
                    ContentUnavailableView("Nothing measured yet", systemImage: "stopwatch")
                }
            }
            .navigationTitle("Benchmark")
        }
    }
}

private struct SideSection: View {
    let side: ResultSide

    var body: some View {
        Section(side.name) {
            LabeledContent("Known answer", value: verdict)
            if let found = Statistics(side.steadyMs) {
                row("Median", found.p50)
                row("90 of 100 below", found.p90)
                row("99 of 100 below", found.p99)
                LabeledContent("Runs", value: found.n, format: .number)
            }
            if let load = side.loadMs { row("Load", load) }
            if let first = side.firstMs { row("First run", first) }
            if let whole = Statistics(side.endToEnd.ms) { row("From file to answer", whole.p50) }
            if let last = Statistics(side.sustainedMs) { row("After five minutes", last.p50) }
        }
    }

    private var verdict: String {
        switch side.knownAnswer.right {
        case true?: String(localized: "right")
        case false?: String(localized: "wrong")
        case nil: String(localized: "not judged")
        }
    }

    private func row(_ name: LocalizedStringKey, _ milliseconds: Double) -> some View {
        LabeledContent(name) { Text("\(milliseconds, specifier: "%.2f") ms").monospacedDigit() }
            .accessibilityElement(children: .combine)
    }
}
