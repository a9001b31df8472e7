// The app: one model, four screens, and what is said where there is no model.
import MobileCLIPKit
import SwiftUI

@main
struct MobileCLIPApp: App {
    @State private var model = ModelStore()

    var body: some Scene {
        WindowGroup {
            RootView()
                .environment(model)
                .task { await model.open() }
        }
    }
}

struct RootView: View {
    @Environment(ModelStore.self) private var model

    var body: some View {
        switch model.state {
        case .opening(let what):
            ProgressView(what)
                .accessibilityLabel(what)
        case .missing(let why):
            NoModelView(why: why)
        case .ready(let engine):
            TabView {
                CameraView(engine: engine)
                    .tabItem { Label("Camera", systemImage: "camera") }
                PhotosView(engine: engine)
                    .tabItem { Label("Photos", systemImage: "photo.on.rectangle.angled") }
                DenseView(engine: engine)
                    .tabItem { Label("Overlay", systemImage: "square.stack.3d.up") }
                BenchmarkView(engine: engine)
                    .tabItem { Label("Benchmark", systemImage: "stopwatch") }
            }
            .overlay(alignment: .top) { MemoryNotice() }
        }
    }
}

/// Offers the bundle with fewer bits when the system warns of memory.
struct MemoryNotice: View {
    @Environment(ModelStore.self) private var model

    var body: some View {
        if model.offersSmall {
            HStack {
                Text("Memory is short. The 8-bit model needs less.")
                    .font(.callout)
                Spacer()
                Button("Use it") { Task { await model.open(small: true) } }
                    .buttonStyle(.borderedProminent)
                Button("Dismiss", systemImage: "xmark") { model.offersSmall = false }
                    .labelStyle(.iconOnly)
            }
            .padding()
            .background(.regularMaterial, in: .rect(cornerRadius: 12))
            .padding()
            .accessibilityElement(children: .contain)
        }
    }
}

struct NoModelView: View {
    @Environment(ModelStore.self) private var model
    let why: String
    @State private var isImporting = false

    var body: some View {
        ContentUnavailableView {
            Label("No model", systemImage: "shippingbox")
        } description: {
            Text(why)
            Text("On a computer: mobileclip apps install ios BUNDLE, then build again. Or choose a bundle's folder here.")
        } actions: {
            Button("Choose a folder") { isImporting = true }
                .buttonStyle(.borderedProminent)
            Button("Try again") { Task { await model.open() } }
        }
        .fileImporter(isPresented: $isImporting, allowedContentTypes: [.folder]) { result in
            Task { await model.adopt(result) }
        }
    }
}
