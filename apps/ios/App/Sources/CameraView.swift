// Live zero-shot: what the camera sees, ranked against labels that the user edits.
import AVFoundation
import MobileCLIPKit
import SwiftUI

struct Answer: Identifiable {
    let label: String
    let probability: Double

    var id: String { label }
}

@MainActor @Observable
final class LiveClassifier {
    private(set) var access: Camera.Access?
    private(set) var answers: [Answer] = []
    private(set) var milliseconds: Double?
    private(set) var problem: String?
    @ObservationIgnored let camera = Camera()
    @ObservationIgnored private let engine: Engine
    @ObservationIgnored private var classifier: ZeroShotClassifier

    init(engine: Engine) {
        self.engine = engine
        classifier = ZeroShotClassifier(logitScale: engine.bundle.manifest.model.logitScale ?? 100)
    }

    func start() async {
        access = await Camera.access()
        guard access == .allowed else { return }
        camera.start { [weak self] picture in await self?.look(picture) }
    }

    /// Embeddings of new prompts are made before the labels change, so that none is shown half.
    func setLabels(_ labels: [String]) async {
        var found: [String: [Float]] = [:]
        do {
            for (_, text) in prompts(labels: labels, template: engine.words.template) {
                found[text] = try await engine.embed(text)
            }
            problem = nil
        } catch {
            problem = ModelStore.sentence(error)
            return
        }
        classifier.setLabels(labels, template: engine.words.template) { found[$0] ?? [] }
    }

    private func look(_ picture: Picture) async {
        let start = ContinuousClock.now
        do {
            let embedding = try await engine.embed(picture)
            answers = try classifier.classify(embedding).map { Answer(label: $0.label, probability: $0.probability) }
            let took = ContinuousClock.now - start
            milliseconds = Double(took.components.attoseconds) / 1e15 + Double(took.components.seconds) * 1000
            problem = nil
        } catch {
            problem = ModelStore.sentence(error)
        }
    }
}

struct CameraView: View {
    @State private var live: LiveClassifier
    @AppStorage("labels") private var labels = ""
    @State private var isEditing = false
    private let engine: Engine

    init(engine: Engine) {
        self.engine = engine
        _live = State(initialValue: LiveClassifier(engine: engine))
    }

    private var chosen: [String] {
        labels.isEmpty ? engine.words.labels : labels.split(separator: "\n").map(String.init)
    }

    var body: some View {
        NavigationStack {
            content
                .navigationTitle("Camera")
                .toolbar { Button("Labels", systemImage: "pencil") { isEditing = true } }
                .sheet(isPresented: $isEditing) { LabelEditor(labels: $labels, standard: engine.words.labels) }
        }
        .task(id: labels) { await live.setLabels(chosen) }
        .task { if engine.hasBothTowers { await live.start() } }
        .onDisappear { live.camera.stop() }
    }

    @ViewBuilder private var content: some View {
        if !engine.hasBothTowers {
            ContentUnavailableView(
                "No text part", systemImage: "text.badge.xmark",
                description: Text("This model sees but does not read. Export one with both towers to name things."))
        } else {
            switch live.access {
            case nil: ProgressView()
            case .denied:
                ContentUnavailableView {
                    Label("No camera", systemImage: "camera.fill")
                } description: {
                    Text("The app may not use the camera. Nothing that it sees leaves this device.")
                } actions: {
                    if let url = URL(string: UIApplication.openSettingsURLString) { Link("Open Settings", destination: url) }
                }
            case .absent:
                ContentUnavailableView(
                    "No camera", systemImage: "camera.fill", description: Text("This device has no camera. Try the photos."))
            case .allowed: seen
            }
        }
    }

    private var seen: some View {
        CameraPreview(session: live.camera.session)
            .ignoresSafeArea(edges: .horizontal)
            .accessibilityLabel("Camera picture")
            .safeAreaInset(edge: .bottom) {
                VStack(alignment: .leading, spacing: 8) {
                    if let problem = live.problem { Text(problem).foregroundStyle(.red) }
                    if live.answers.isEmpty && live.problem == nil { Text("Add a label to look for.") }
                    ForEach(live.answers.prefix(5)) { AnswerRow(label: $0.label, probability: $0.probability) }
                    if let milliseconds = live.milliseconds {
                        Text("\(milliseconds, specifier: "%.0f") ms a picture").font(.caption).foregroundStyle(.secondary)
                    }
                }
                .frame(maxWidth: .infinity, alignment: .leading)
                .padding()
                .background(.regularMaterial)
            }
    }
}

struct AnswerRow: View {
    let label: String
    let probability: Double

    var body: some View {
        VStack(alignment: .leading, spacing: 2) {
            HStack {
                Text(label)
                Spacer()
                Text(probability, format: .percent.precision(.fractionLength(0))).monospacedDigit()
            }
            ProgressView(value: min(max(probability, 0), 1))
        }
        .accessibilityElement(children: .ignore)
        .accessibilityLabel(label)
        .accessibilityValue(Text(probability, format: .percent.precision(.fractionLength(0))))
    }
}

/// One label a line; empty is the bundle's own list.
struct LabelEditor: View {
    @Environment(\.dismiss) private var dismiss
    @Binding var labels: String
    let standard: [String]
    @State private var text = ""

    var body: some View {
        NavigationStack {
            TextEditor(text: $text)
                .accessibilityLabel("Labels, one a line")
                .padding()
                .navigationTitle("Labels, one a line")
                .navigationBarTitleDisplayMode(.inline)
                .toolbar {
                    ToolbarItem(placement: .cancellationAction) { Button("Reset") { text = standard.joined(separator: "\n") } }
                    ToolbarItem(placement: .confirmationAction) {
                        Button("Done") {
                            labels = text
                            dismiss()
                        }
                    }
                }
        }
        .onAppear { text = labels.isEmpty ? standard.joined(separator: "\n") : labels }
    }
}

struct CameraPreview: UIViewRepresentable {
    let session: AVCaptureSession

    final class Layer: UIView {
        override class var layerClass: AnyClass { AVCaptureVideoPreviewLayer.self }
        var preview: AVCaptureVideoPreviewLayer? { layer as? AVCaptureVideoPreviewLayer }
    }

    func makeUIView(context _: Context) -> Layer {
        let view = Layer()
        view.preview?.session = session
        view.preview?.videoGravity = .resizeAspectFill
        return view
    }

    func updateUIView(_: Layer, context _: Context) {}
}
