// swift-tools-version: 6.0
// The kit has no dependencies. MOBILECLIP_EXECUTORCH=1 in the environment adds ExecuTorch's Swift package and the runner
// for .pte artifacts; without it nothing is downloaded, and Core ML artifacts run.
import Foundation
import PackageDescription

let executorch = ProcessInfo.processInfo.environment["MOBILECLIP_EXECUTORCH"] == "1"
let packages: [Package.Dependency] =
    executorch ? [.package(url: "https://github.com/pytorch/executorch.git", branch: "swiftpm-1.5.1")] : []
let products: [Target.Dependency] =
    executorch
    ? ["executorch", "backend_coreml", "backend_xnnpack", "kernels_optimized"].map {
        .product(name: $0, package: "executorch")
    } : []

let package = Package(
    name: "MobileCLIPKit",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [.library(name: "MobileCLIPKit", targets: ["MobileCLIPKit"])],
    dependencies: packages,
    targets: [
        .target(name: "MobileCLIPKit", dependencies: products),
        .executableTarget(name: "bench", dependencies: ["MobileCLIPKit"]),
        .testTarget(name: "MobileCLIPKitTests", dependencies: ["MobileCLIPKit"]),
    ],
    swiftLanguageModes: [.v6]
)
