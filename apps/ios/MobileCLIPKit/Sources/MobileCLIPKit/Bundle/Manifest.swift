// What an app reads of a bundle's manifest.json (schema 1). Keys that the schema requires are required here.

public struct Manifest: Decodable, Sendable {
    public static let version = 1

    public let model: Model
    public let preset: String
    public let tokenizer: TokenizerRecord?
    public let labels: String
    public let dense: Dense?
    public let knownAnswer: [String: KnownAnswer]
    public let artifacts: [Artifact]
    public let files: [String: String]

    private enum Keys: String, CodingKey {
        case model, preset, tokenizer, labels, dense, artifacts, files, created, generator, recipe
        case knownAnswer = "known_answer"
    }

    public init(from decoder: Decoder) throws {
        let values = try decoder.container(keyedBy: Keys.self)
        model = try values.decode(Model.self, forKey: .model)
        preset = try values.decode(String.self, forKey: .preset)
        tokenizer =
            try values.decodeNil(forKey: .tokenizer)
            ? nil : values.decode(TokenizerRecord.self, forKey: .tokenizer)
        labels = try values.decode(String.self, forKey: .labels)
        dense = try values.decodeIfPresent(Dense.self, forKey: .dense)
        knownAnswer = try values.decode([String: KnownAnswer].self, forKey: .knownAnswer)
        artifacts = try values.decode([Artifact].self, forKey: .artifacts)
        files = try values.decode([String: String].self, forKey: .files)
        _ = try values.decode(String.self, forKey: .created)
        for key in [Keys.generator, .recipe] { _ = try values.nestedContainer(keyedBy: Keys.self, forKey: key) }
    }

    public struct Model: Decodable, Sendable {
        public let name: String
        public let embedDim: Int?
        /// Factor on cosines before the softmax.
        public let logitScale: Double?
        public let checkpoint: Checkpoint

        private enum CodingKeys: String, CodingKey {
            case name, checkpoint
            case embedDim = "embed_dim"
            case logitScale = "logit_scale"
        }
    }

    public struct Checkpoint: Decodable, Sendable {
        public let source: String
        public let licence: String
        public let researchOnly: Bool

        private enum CodingKeys: String, CodingKey {
            case source, licence
            case researchOnly = "research_only"
        }
    }

    public struct TokenizerRecord: Decodable, Sendable {
        public let sha256: String
        public let context: Int
        public let start: Int
        public let end: Int
        public let pad: Int
    }

    public struct Artifact: Decodable, Sendable {
        public let file: String
        public let sha256: String
        public let bytes: Int
        public let view: String
        public let target: String
        public let precision: String
        public let inputs: [Input]
        public let outputs: [Output]
        public let gate: Gate
        public let quantisation: Quantisation?
    }

    /// What an artifact must reach against its known answer.
    public struct Gate: Decodable, Sendable {
        public let db: Double
        public let cosine: Double
        /// Least share of equal labels.
        public let equal: Double?

        public init(db: Double, cosine: Double, equal: Double?) {
            self.db = db
            self.cosine = cosine
            self.equal = equal
        }
    }

    public struct Quantisation: Decodable, Sendable {
        /// Outputs of the eager module with the same integers: what the artifact is held against.
        public let knownAnswer: Outputs
        /// Block -> precision, where blocks differ.
        public let blocks: [String: String]?

        public struct Outputs: Decodable, Sendable {
            public let output: Stored
            public let others: [Stored]?
        }

        private enum CodingKeys: String, CodingKey {
            case knownAnswer = "known_answer"
            case blocks
        }
    }

    public struct Input: Decodable, Sendable {
        public let name: String
        public let kind: String
        public let shape: [Int]
        /// `float32`, `int32`, `int64`, or `image` where the runtime takes 8-bit pixels itself.
        public let dtype: String
        public let colour: String?
        /// What an 8-bit pixel is multiplied with before it enters.
        public let scale: Double?
        public let resize: String?
        public let crop: String?
    }

    public struct Output: Decodable, Sendable {
        public let name: String
        public let shape: [Int]
        public let dtype: String
        public let meaning: String
        public let normalised: Bool
        /// `equal` labels, `matched` objects; absent: as floats.
        public let compare: String?
    }

    public struct Dense: Decodable, Sendable {
        public let input: Fit
        public let heads: [Head]

        public struct Fit: Decodable, Sendable {
            /// Rows and columns.
            public let size: [Int]
            /// `stretch` or `letterbox`.
            public let resize: String
        }

        public struct Head: Decodable, Sendable {
            /// `segmentation`, `detection` or `depth`.
            public let task: String
            public let head: String
            public let outputs: [String]
            public let maxDepth: Double?
            public let postprocess: Postprocess

            private enum CodingKeys: String, CodingKey {
                case task, head, outputs, postprocess
                case maxDepth = "max_depth"
            }
        }

        public struct Postprocess: Decodable, Sendable {
            /// Of detection: `points` or `objects`.
            public let kind: String?
            public let scoreThreshold: Float?
            public let most: Int?
            public let overlap: Float?

            private enum CodingKeys: String, CodingKey {
                case kind
                case scoreThreshold = "score_threshold"
                case most = "top_k"
                case overlap = "nms_iou"
            }
        }
    }

    public struct KnownAnswer: Decodable, Sendable {
        public let input: Stored
        public let output: Stored
        public let others: [Stored]?
        public let picture: String?

        /// All outputs, in order.
        public var outputs: [Stored] { [output] + (others ?? []) }
    }

    /// An array in a file: little-endian, row by row.
    public struct Stored: Decodable, Sendable {
        public let file: String
        public let dtype: String
        public let shape: [Int]
    }
}

/// labels.json: what the sample apps show.
public struct Labels: Decodable, Sendable {
    public let labels: [String]
    /// `a photo of a {}`; absent in bundles of dense models.
    public let template: String?
    /// RGB of each class, in bundles of dense models.
    public let palette: [[UInt8]]?
}
