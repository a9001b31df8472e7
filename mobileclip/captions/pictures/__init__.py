"""Pictures, and captions beside them: hashes, embeddings, scores, duplicates."""
