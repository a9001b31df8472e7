"""What writes captions: CoCa, transformers' models, servers; behind one interface and a cache."""
