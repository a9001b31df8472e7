"""Data sets of dense tasks in their published layouts, their checks, and joint transforms of pictures and truth."""
