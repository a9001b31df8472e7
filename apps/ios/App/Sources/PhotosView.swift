// Search of the user's photos by words.
import MobileCLIPKit
import Photos
import SwiftUI

struct PhotosView: View {
    @State private var library: PhotoLibrary
    @State private var text = ""
    private let engine: Engine

    init(engine: Engine) {
        self.engine = engine
        _library = State(initialValue: PhotoLibrary(engine: engine))
    }

    var body: some View {
        NavigationStack {
            content
                .navigationTitle("Photos")
                .safeAreaInset(edge: .bottom) { if engine.hasBothTowers { IndexProgress(library: library) } }
        }
        .task { if engine.hasBothTowers { await library.start() } }
    }

    @ViewBuilder private var content: some View {
        if !engine.hasBothTowers {
            ContentUnavailableView(
                "No search", systemImage: "text.badge.xmark",
                description: Text("This model does not read words. Export one with both towers to search photos."))
        } else {
            switch library.access {
            case nil: ProgressView()
            case .authorized, .limited: found
            default:
                ContentUnavailableView {
                    Label("No photos", systemImage: "photo")
                } description: {
                    Text("The app may not see your photos. They are indexed on this device and never leave it.")
                } actions: {
                    if let url = URL(string: UIApplication.openSettingsURLString) { Link("Open Settings", destination: url) }
                }
            }
        }
    }

    private var found: some View {
        ScrollView {
            LazyVGrid(columns: [GridItem(.adaptive(minimum: 100), spacing: 2)], spacing: 2) {
                ForEach(Array(library.results.enumerated()), id: \.element.localIdentifier) { place, asset in
                    Thumbnail(asset: asset, place: place)
                }
            }
        }
        .overlay { empty }
        .searchable(text: $text, prompt: "a dog on a beach")
        .task(id: text) {
            try? await Task.sleep(for: .milliseconds(250))  // while the user writes
            if !Task.isCancelled { await library.search(text) }
        }
    }

    @ViewBuilder private var empty: some View {
        if library.results.isEmpty {
            if library.hasSearched {
                ContentUnavailableView.search(text: text)
            } else if library.total == 0 && !library.isIndexing {
                ContentUnavailableView("No photos", systemImage: "photo", description: Text("Take some, or allow more of them."))
            } else {
                ContentUnavailableView(
                    "Search your photos", systemImage: "magnifyingglass",
                    description: Text("Write what is in the picture. It stays on this device."))
            }
        }
    }
}

private struct IndexProgress: View {
    let library: PhotoLibrary

    var body: some View {
        VStack(alignment: .leading) {
            if let problem = library.problem { Text(problem).foregroundStyle(.red) }
            if library.total > 0 {
                HStack {
                    ProgressView(value: Double(library.indexed + library.skipped), total: Double(library.total)) {
                        Text("\(library.indexed) of \(library.total) photos indexed")
                            + Text(library.skipped > 0 ? ", \(library.skipped) not on this device" : "")
                    }
                    Button(
                        library.isIndexing ? "Pause" : "Go on",
                        systemImage: library.isIndexing ? "pause.fill" : "play.fill"
                    ) { library.isIndexing ? library.pause() : library.resume() }
                    .labelStyle(.iconOnly)
                }
                .accessibilityElement(children: .contain)
            }
        }
        .font(.footnote)
        .padding()
        .background(.regularMaterial)
    }
}

private struct Thumbnail: View {
    let asset: PHAsset
    let place: Int
    @State private var image: UIImage?

    var body: some View {
        Color(.secondarySystemBackground)
            .aspectRatio(1, contentMode: .fit)
            .overlay { if let image { Image(uiImage: image).resizable().scaledToFill() } }
            .clipped()
            .task { image = await PhotoLibrary.image(of: asset, side: 240) }
            .accessibilityElement()
            .accessibilityAddTraits(.isImage)
            .accessibilityLabel(
                Text("Result \(place + 1), photo of \(asset.creationDate ?? .distantPast, format: .dateTime.day().month().year())"))
    }
}
