"""Captions made better at scale: stages over shards, whose outputs are side-cars that packing joins."""
