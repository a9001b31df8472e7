/// What an app can show as it is: one or two sentences, the last of which says what to do.
public struct KitError: Error, Equatable, CustomStringConvertible, Sendable {
    public enum Code: String, Sendable {
        case noManifest = "no_manifest"
        case notJSON = "not_json"
        case newer, older, incomplete, outside, missing, changed, tokenizer, target
        case picture, embedding, index, runner, resource, plan
    }

    public let code: Code
    public let message: String

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { message }
}
