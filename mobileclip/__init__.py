"""Mobile CLIP."""
