"""What scenes are made of, by name: shapes, colours, materials, sizes and places. Imports nothing heavy but numpy.

The names are what captions say; the numbers are what the renderer takes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mobileclip.data.scene_shapes import SOLIDS
from mobileclip.data.scene_solids import Rgb

SHAPES: tuple[str, ...] = tuple(SOLIDS)
"""Classes of objects; the class id of a mask is the position here plus one, 0 is the background."""

COLOURS: Mapping[str, tuple[Rgb, ...]] = {
    "red": ((0.80, 0.10, 0.10), (0.66, 0.07, 0.12), (0.88, 0.22, 0.17)),
    "orange": ((0.93, 0.49, 0.09), (0.90, 0.41, 0.05), (0.97, 0.58, 0.20)),
    "yellow": ((0.95, 0.83, 0.15), (0.89, 0.76, 0.10), (0.98, 0.90, 0.38)),
    "green": ((0.16, 0.58, 0.22), (0.30, 0.66, 0.17), (0.08, 0.43, 0.24)),
    "blue": ((0.13, 0.33, 0.76), (0.20, 0.50, 0.88), (0.09, 0.21, 0.55)),
    "purple": ((0.48, 0.20, 0.66), (0.39, 0.14, 0.52), (0.60, 0.36, 0.78)),
    "pink": ((0.95, 0.52, 0.68), (0.92, 0.38, 0.60), (0.97, 0.68, 0.78)),
    "brown": ((0.42, 0.26, 0.14), (0.50, 0.33, 0.19), (0.33, 0.19, 0.10)),
    "white": ((0.92, 0.92, 0.90), (0.95, 0.93, 0.87), (0.88, 0.91, 0.95)),
    "gray": ((0.50, 0.51, 0.52), (0.60, 0.60, 0.58), (0.42, 0.43, 0.46)),
    "black": ((0.07, 0.07, 0.08), (0.11, 0.10, 0.10), (0.06, 0.08, 0.11)),
}
"""Colour name -> sRGB anchors; an object has a mixture of them, moved a little."""

MATERIALS: tuple[str, ...] = ("matte", "shiny", "metal", "glass", "striped", "checkered", "dotted", "wooden")
"""Surfaces of objects."""

SIZES: Mapping[str, tuple[float, float]] = {"small": (0.24, 0.34), "medium": (0.44, 0.6), "large": (0.76, 1.05)}
"""Size word -> longest side in metres, from and to. `medium` is not spoken."""

Backdrop = Literal["sky", "wall", "stars", "blur"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A kind of place."""

    ground: str
    """Texture of the ground, a key of the painter's table."""
    grounds: tuple[Rgb, ...]
    """sRGB colours that the ground may have."""
    backdrop: Backdrop
    """What is behind the ground."""
    backdrops: tuple[Rgb, ...]
    """sRGB colours of the wall, or of the sky overhead."""
    phrases: tuple[str, ...]
    """How a caption says where it is."""
    titles: tuple[str, ...]
    """Words of a shop or an album for such pictures; used by noisy captions."""


SETTINGS: Mapping[str, Setting] = {
    "grass": Setting(
        ground="grass",
        grounds=((0.28, 0.46, 0.15), (0.36, 0.50, 0.18), (0.22, 0.38, 0.14)),
        backdrop="sky",
        backdrops=((0.30, 0.53, 0.85), (0.50, 0.66, 0.86), (0.62, 0.70, 0.78)),
        phrases=("on the grass", "on a green lawn", "in a grassy field", "outdoors on grass"),
        titles=("garden", "park", "summer"),
    ),
    "beach": Setting(
        ground="sand",
        grounds=((0.82, 0.72, 0.52), (0.76, 0.65, 0.46), (0.87, 0.80, 0.64)),
        backdrop="sky",
        backdrops=((0.27, 0.55, 0.88), (0.46, 0.68, 0.90), (0.70, 0.76, 0.82)),
        phrases=("on the sand", "on a sandy beach", "on the beach"),
        titles=("beach", "holiday", "seaside"),
    ),
    "snow": Setting(
        ground="snow",
        grounds=((0.90, 0.92, 0.96), (0.84, 0.88, 0.95)),
        backdrop="sky",
        backdrops=((0.60, 0.68, 0.78), (0.45, 0.62, 0.85), (0.74, 0.76, 0.80)),
        phrases=("in the snow", "on snowy ground", "on a snowy field"),
        titles=("winter", "snow", "december"),
    ),
    "street": Setting(
        ground="asphalt",
        grounds=((0.33, 0.33, 0.35), (0.42, 0.41, 0.40), (0.26, 0.27, 0.29)),
        backdrop="blur",
        backdrops=((0.45, 0.45, 0.47), (0.52, 0.44, 0.38), (0.38, 0.44, 0.50)),
        phrases=("on the street", "on asphalt", "on a gray road"),
        titles=("city", "street", "urban"),
    ),
    "night": Setting(
        ground="asphalt",
        grounds=((0.30, 0.31, 0.36), (0.26, 0.27, 0.30)),
        backdrop="stars",
        backdrops=((0.03, 0.04, 0.10), (0.05, 0.04, 0.08)),
        phrases=("at night", "outside at night", "under a night sky"),
        titles=("night", "midnight", "after dark"),
    ),
    "room": Setting(
        ground="planks",
        grounds=((0.55, 0.38, 0.23), (0.66, 0.50, 0.33), (0.40, 0.27, 0.17)),
        backdrop="wall",
        backdrops=((0.84, 0.80, 0.72), (0.70, 0.76, 0.78), (0.78, 0.68, 0.64), (0.62, 0.68, 0.56)),
        phrases=("on a wooden floor", "on the floor of a room", "in a room with a wooden floor"),
        titles=("home", "living room", "interior"),
    ),
    "tiles": Setting(
        ground="tiles",
        grounds=((0.72, 0.72, 0.70), (0.62, 0.68, 0.72), (0.74, 0.64, 0.56)),
        backdrop="wall",
        backdrops=((0.86, 0.88, 0.88), (0.66, 0.78, 0.80), (0.82, 0.78, 0.70)),
        phrases=("on a tiled floor", "on floor tiles", "on tiles in front of a wall"),
        titles=("kitchen", "bathroom", "indoor"),
    ),
    "carpet": Setting(
        ground="carpet",
        grounds=((0.50, 0.22, 0.22), (0.28, 0.33, 0.46), (0.58, 0.52, 0.44), (0.30, 0.40, 0.34)),
        backdrop="wall",
        backdrops=((0.82, 0.76, 0.66), (0.58, 0.62, 0.70), (0.74, 0.74, 0.72)),
        phrases=("on a carpet", "on the carpet", "on a rug"),
        titles=("bedroom", "hotel", "cosy"),
    ),
    "table": Setting(
        ground="cloth",
        grounds=((0.86, 0.84, 0.80), (0.70, 0.78, 0.84), (0.84, 0.72, 0.68)),
        backdrop="blur",
        backdrops=((0.40, 0.33, 0.28), (0.55, 0.52, 0.46), (0.28, 0.32, 0.34)),
        phrases=("on a tablecloth", "on a table", "on a covered table"),
        titles=("dining", "kitchen", "breakfast"),
    ),
    "studio": Setting(
        ground="plain",
        grounds=((0.74, 0.74, 0.74), (0.82, 0.79, 0.74), (0.58, 0.62, 0.66), (0.34, 0.34, 0.36)),
        backdrop="wall",
        backdrops=((0.78, 0.78, 0.78), (0.84, 0.82, 0.78), (0.60, 0.64, 0.68), (0.36, 0.36, 0.38)),
        phrases=("in a studio", "against a plain background", "in front of a plain backdrop"),
        titles=("studio", "product", "isolated"),
    ),
}
"""Places by name."""
