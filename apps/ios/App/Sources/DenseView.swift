// Segmentation, depth or objects over a photo or the camera's picture.
import MobileCLIPKit
import PhotosUI
import SwiftUI

struct DenseView: View {
    let engine: Engine
    @State private var task = ""
    @State private var item: PhotosPickerItem?
    @State private var picture: Picture?
    @State private var seen: Seen?
    @State private var problem: String?
    @State private var isWorking = false
    @State private var share = 1.0

    var body: some View {
        NavigationStack {
            content
                .navigationTitle("Overlay")
                .toolbar {
                    PhotosPicker(selection: $item, matching: .images) { Label("Choose a photo", systemImage: "photo.badge.plus") }
                }
        }
        .onAppear { if task.isEmpty { task = engine.tasks.first ?? "" } }
        .task(id: item) { await read() }
        .task(id: task) { await look() }
    }

    @ViewBuilder private var content: some View {
        if engine.tasks.isEmpty {
            ContentUnavailableView(
                "No dense part", systemImage: "square.stack.3d.up.slash",
                description: Text("This model has no segmentation, depth or detection. Export a checkpoint with such a head."))
        } else {
            ScrollView {
                VStack(alignment: .leading, spacing: 12) {
                    if engine.tasks.count > 1 {
                        Picker("Task", selection: $task) { ForEach(engine.tasks, id: \.self) { Text($0.capitalized) } }
                            .pickerStyle(.segmented)
                    }
                    if let problem { Text(problem).foregroundStyle(.red) }
                    if let picture, let photo = picture.image {
                        shown(photo)
                    } else {
                        ContentUnavailableView(
                            "No photo", systemImage: "photo", description: Text("Choose a photo. It stays on this device."))
                    }
                }
                .padding()
            }
        }
    }

    @ViewBuilder private func shown(_ photo: CGImage) -> some View {
        Image(decorative: photo, scale: 1)
            .resizable()
            .scaledToFit()
            .overlay {
                if let overlay = seen?.overlay.image {
                    Image(decorative: overlay, scale: 1).resizable().opacity(share)
                }
            }
            .overlay { if isWorking { ProgressView() } }
            .accessibilityElement()
            .accessibilityAddTraits(.isImage)
            .accessibilityLabel(seen?.summary ?? String(localized: "Photo"))
        if let seen {
            Text(seen.summary)
            Slider(value: $share, in: 0...1, label: { Text("Strength of the overlay") })
        }
    }

    private func read() async {
        guard let item else { return }
        do {
            guard let data = try await item.loadTransferable(type: Data.self) else {
                throw KitError(.picture, "The photo is not on this device. Open it in Photos once, then choose it again.")
            }
            picture = try await Task.detached { try Picture(decoding: data).within(2048) }.value
            await look()
        } catch {
            problem = ModelStore.sentence(error)
        }
    }

    private func look() async {
        guard let picture, !task.isEmpty else { return }
        isWorking = true
        defer { isWorking = false }
        do {
            seen = try await engine.look(picture, task)
            problem = nil
        } catch {
            (seen, problem) = (nil, ModelStore.sentence(error))
        }
    }
}

extension Picture {
    /// No side longer than this: what is drawn need not be larger than the screen.
    func within(_ longest: Int) -> Picture {
        let long = max(width, height)
        if long <= longest { return self }
        return resized(
            width: max(width * longest / long, 1), height: max(height * longest / long, 1), .bilinear)
    }
}
