"""The shapes that scenes are made of, each of one or several solids.

    parts = SOLIDS["mug"](0.3, 0.7)            # two numbers in 0..1 vary the proportions

Every shape stands on y = 0, is centred on the y axis, has x and z within -0.5..0.5 and y within 0..1, and its front
is at -z.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from mobileclip.data.scene_solids import Array, Ball, Box, Cutout, Hull, Part, Solid, Torus, Tube


def _star(x: Array, y: Array) -> Array:
    """Five points, outer radius 0.52, inner 0.23: distance to one edge line after folding the plane to one wedge."""
    x, y = np.abs(x), y - np.float32(0.43)
    for kx in (_FOLD[0], -_FOLD[0]):
        over: Array = np.maximum(kx * x + _FOLD[1] * y, 0) * np.float32(2)
        x, y = x - over * kx, y - over * _FOLD[1]
    return np.asarray((y - np.float32(0.52)) * _EDGE[0] + np.abs(x) * _EDGE[1], np.float32)


_FOLD = (np.float32(math.cos(math.pi / 5)), np.float32(-math.sin(math.pi / 5)))  # mirrors between neighbouring points
_EDGE = (np.float32(0.23 * math.sin(math.pi / 5)), np.float32(0.52 - 0.23 * math.cos(math.pi / 5)))


def _heart(x: Array, y: Array) -> Array:
    """(x^2 + y^2 - 1)^3 < x^2 y^3."""
    x, y = np.square(x * np.float32(2.3)), y * np.float32(2.3) - np.float32(1.02)
    square = y * y
    over = x + square - 1
    return np.asarray(over * over * over - x * square * y, np.float32)


def _plate(outline: Callable[[Array, Array], Array], tall: float, depth: float) -> tuple[Part, ...]:
    box = Box(centre=(0.0, tall / 2, 0.0), half=(0.5, tall / 2, depth))
    return (Part(solid=Cutout(outline=outline, depth=depth, box=box)),)


def _wedge(half: tuple[float, float], low: float, high: float, *, ridge: bool) -> Hull:
    """A roof (its ridge along x) or a pyramid over the rectangle of half sides `half`, from `low` to `high`."""
    rise = high - low
    planes = [(0.0, -1.0, 0.0, -low)]
    for sign in (-1.0, 1.0):
        planes.append((0.0, half[1], sign * rise, half[1] * high))
        planes.append((sign, 0.0, 0.0, half[0]) if ridge else (sign * rise, half[0], 0.0, half[0] * high))
    return Hull(planes=tuple(planes), box=(-half[0], low, -half[1], half[0], high, half[1]))


def _gem(a: float, b: float) -> tuple[Part, ...]:
    """A cut diamond on its tip: six facets below the girdle, six above it, and a flat top."""
    girdle, crown = 0.58 + 0.08 * a, 0.26 + 0.06 * b
    planes = [(0.0, 1.0, 0.0, 0.98)]
    for k in range(6):
        x, z = math.cos(math.pi * (k + 0.5) / 3), math.sin(math.pi * (k + 0.5) / 3)
        planes.append((x * girdle, -0.46, z * girdle, 0.0))
        slope = 0.46 - crown
        rise = 0.98 - girdle
        planes.append((x * rise, slope, z * rise, 0.46 * rise + slope * girdle))
    return (Part(solid=Hull(planes=tuple(planes), box=(-0.5, 0.0, -0.5, 0.5, 0.98, 0.5))),)


def _mug(a: float, b: float) -> tuple[Part, ...]:
    top, radius = 0.74 + 0.16 * a, 0.32
    hole = Tube(ends=(top - 0.02, top + 0.004), radii=(radius - 0.05, radius - 0.05), centre=(-0.15, 0.0))
    body = Tube(ends=(0.0, top), radii=(radius - 0.06 * b, radius), centre=(-0.15, 0.0))
    handle = Torus(centre=(0.2, top * 0.52, 0.0), radius=0.19, tube=0.055)
    return (Part(solid=body), Part(solid=handle), Part(solid=hole, paint=(0.13, 0.11, 0.1), casts=False))


def _bottle(a: float, b: float) -> tuple[Part, ...]:
    wide, shoulder = 0.17 + 0.06 * a, 0.5 + 0.12 * b
    return (
        Part(solid=Tube(ends=(0.0, shoulder), radii=(wide, wide))),
        Part(solid=Tube(ends=(shoulder, shoulder + 0.18), radii=(wide, 0.07))),
        Part(solid=Tube(ends=(shoulder + 0.18, 0.93), radii=(0.07, 0.065))),
        Part(solid=Tube(ends=(0.92, 1.0), radii=(0.085, 0.085)), paint=(0.22, 0.2, 0.18), casts=False),
    )


def _lamp(a: float, b: float) -> tuple[Part, ...]:
    low = 0.52 + 0.1 * a
    return (
        Part(solid=Tube(ends=(low, 0.98), radii=(0.4, 0.2 + 0.12 * b)), glow=0.35),
        Part(solid=Tube(ends=(0.05, low + 0.03), radii=(0.035, 0.035)), paint=(0.3, 0.27, 0.24)),
        Part(solid=Tube(ends=(0.0, 0.06), radii=(0.24, 0.2)), paint=(0.3, 0.27, 0.24)),
    )


def _tree(a: float, b: float) -> tuple[Part, ...]:
    trunk = Part(solid=Tube(ends=(0.0, 0.3), radii=(0.075, 0.06)), paint=(0.36, 0.25, 0.16))
    if b < 0.5:
        tiers = ((0.2, 0.56, 0.42), (0.42, 0.78, 0.33), (0.63, 1.0, 0.24))
        return (trunk, *(Part(solid=Tube(ends=(y0, y1), radii=(r, 0.02))) for y0, y1, r in tiers))
    lobes = (
        ((0.0, 0.72, 0.0), 0.27),
        ((-0.2, 0.5, -0.05), 0.22 + 0.04 * a),
        ((0.21, 0.53, 0.04), 0.22),
        ((0.02, 0.47, -0.16), 0.22),
    )
    return (trunk, *(Part(solid=Ball(centre=centre, radii=(r, r, r))) for centre, r in lobes))


def _house(a: float, b: float) -> tuple[Part, ...]:
    wall = 0.5 + 0.12 * a
    roof = ((0.42, 0.2, 0.16), (0.3, 0.3, 0.33), (0.35, 0.26, 0.2))[int(b * 2.999)]
    parts = [
        Part(solid=Box(centre=(0.0, wall / 2, 0.0), half=(0.42, wall / 2, 0.34))),
        Part(solid=_wedge((0.47, 0.41), wall - 0.04, 0.98, ridge=True), paint=roof),
        Part(solid=Box(centre=(-0.14, 0.15, -0.34), half=(0.075, 0.15, 0.012)), paint=(0.25, 0.17, 0.12), casts=False),
        Part(solid=Box(centre=(0.19, 0.3, -0.34), half=(0.1, 0.085, 0.012)), paint=(0.62, 0.76, 0.86), casts=False),
        Part(solid=Box(centre=(0.24, 0.88, 0.1), half=(0.05, 0.12, 0.05)), paint=roof),
    ]
    return tuple(parts)


def _mushroom(a: float, b: float) -> tuple[Part, ...]:
    rise = 0.3 + 0.06 * a
    return (
        Part(solid=Ball(centre=(0.0, 0.66, 0.0), radii=(0.46, rise, 0.46))),
        Part(solid=Tube(ends=(0.0, 0.6), radii=(0.17 + 0.04 * b, 0.11)), paint=(0.9, 0.86, 0.77)),
    )


def _legs(x: float, z: float, top: float, thick: float) -> list[Part]:
    half = (thick, top / 2, thick)
    return [Part(solid=Box(centre=(sx * x, top / 2, sz * z), half=half)) for sx in (-1, 1) for sz in (-1, 1)]


def _chair(a: float, b: float) -> tuple[Part, ...]:
    seat = 0.42 + 0.08 * a
    back = Box(centre=(0.0, (seat + 1.0) / 2, 0.27), half=(0.32, (1.0 - seat) / 2, 0.045))
    plate = Box(centre=(0.0, seat, 0.0), half=(0.32, 0.045, 0.31))
    return (Part(solid=plate), Part(solid=back), *_legs(0.27, 0.26, seat, 0.045 + 0.015 * b))


def _table(a: float, b: float) -> tuple[Part, ...]:
    top = 0.52 + 0.1 * a
    return (
        Part(solid=Box(centre=(0.0, top, 0.0), half=(0.5, 0.045, 0.36))),
        *_legs(0.43, 0.29, top, 0.04 + 0.02 * b),
    )


def _car(a: float, b: float) -> tuple[Part, ...]:
    wheels = [
        Tube(ends=(z - 0.05, z + 0.05), radii=(0.105, 0.105), centre=(x, 0.105), lies=True)
        for x in (-0.3, 0.29)
        for z in (-0.2, 0.2)
    ]
    cabin = (-0.02 + 0.08 * b, 0.4)
    return (
        Part(solid=Box(centre=(0.0, 0.21, 0.0), half=(0.5, 0.115, 0.22))),
        Part(solid=Box(centre=(cabin[0], cabin[1] + 0.02, 0.0), half=(0.26 + 0.04 * a, 0.1, 0.19))),
        Part(
            solid=Box(centre=(cabin[0], cabin[1], 0.0), half=(0.225 + 0.04 * a, 0.065, 0.2)),
            paint=(0.16, 0.19, 0.24),
            casts=False,
        ),
        *(Part(solid=wheel, paint=(0.08, 0.08, 0.08)) for wheel in wheels),
    )


def _one(solid: Solid) -> tuple[Part, ...]:
    return (Part(solid=solid),)


SOLIDS: Mapping[str, Callable[[float, float], tuple[Part, ...]]] = {
    "ball": lambda a, b: _one(Ball(centre=(0.0, 0.5, 0.0), radii=(0.5, 0.5, 0.5))),
    "cube": lambda a, b: _one(Box(centre=(0.0, 0.4, 0.0), half=(0.4, 0.4, 0.4))),
    "cylinder": lambda a, b: _one(Tube(ends=(0.0, 0.75 + 0.25 * a), radii=(0.26 + 0.1 * b, 0.26 + 0.1 * b))),
    "cone": lambda a, b: _one(Tube(ends=(0.0, 0.8 + 0.2 * a), radii=(0.36 + 0.1 * b, 0.0))),
    "pyramid": lambda a, b: _one(_wedge((0.44, 0.44), 0.0, 0.72 + 0.2 * a, ridge=False)),
    "ring": lambda a, b: _one(Torus(centre=(0.0, 0.5, 0.0), radius=0.385 - 0.04 * a, tube=0.115 + 0.04 * a)),
    "disc": lambda a, b: _one(
        Tube(ends=(-0.05 - 0.03 * a, 0.05 + 0.03 * a), radii=(0.5, 0.5), centre=(0.0, 0.5), lies=True)
    ),
    "star": lambda a, b: _plate(_star, 0.96, 0.1 + 0.05 * a),
    "heart": lambda a, b: _plate(_heart, 0.97, 0.11 + 0.06 * a),
    "gem": _gem,
    "mug": _mug,
    "bottle": _bottle,
    "lamp": _lamp,
    "tree": _tree,
    "house": _house,
    "mushroom": _mushroom,
    "chair": _chair,
    "table": _table,
    "car": _car,
}
"""Shape -> its parts, varied by two numbers in 0..1. The order is that of the class ids."""

_WHOLE = (0.5, 1.0, 0.5)
REACH: Mapping[str, tuple[float, float, float]] = dict.fromkeys(SOLIDS, _WHOLE) | {
    "cube": (0.4, 0.8, 0.4),
    "cylinder": (0.36, 1.0, 0.36),
    "cone": (0.46, 1.0, 0.46),
    "pyramid": (0.44, 0.92, 0.44),
    "ring": (0.5, 1.0, 0.155),
    "disc": (0.5, 1.0, 0.08),
    "star": (0.5, 0.96, 0.15),
    "heart": (0.5, 0.97, 0.17),
    "gem": (0.5, 0.98, 0.5),
    "mug": (0.48, 0.91, 0.32),
    "bottle": (0.24, 1.0, 0.24),
    "lamp": (0.4, 0.98, 0.4),
    "tree": (0.48, 1.0, 0.42),
    "house": (0.47, 1.0, 0.41),
    "mushroom": (0.46, 1.02, 0.46),
    "chair": (0.32, 1.0, 0.32),
    "table": (0.5, 0.68, 0.36),
    "car": (0.5, 0.53, 0.25),
}
"""Shape -> how far its parts reach: half of x, all of y, half of z."""
