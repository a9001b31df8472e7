"""Colours of surfaces: the materials of objects, the grounds, and what is behind them. All linear RGB, float32.

Unusual: every texture is a function of a place in the world (one 512 x 512 noise tile, looked up with bilinear
weights), so the same scene looks the same at every size; its finest detail fades where a pixel covers more than it.

Legend: N points of an object, R rows, S columns. Colours come first ([3, N], [3, R, S]): numpy's inner loops are then
long, which is several times faster than over three channels.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mobileclip.data.scene_layout import Layout, Thing
from mobileclip.data.scene_solids import Array, Rgb, Vec
from mobileclip.data.scene_words import SETTINGS

_SIDE = 512


@dataclass(frozen=True, kw_only=True)
class Finish:
    """How a material answers light."""

    specular: float
    """Strength of the highlight."""
    gloss: float
    """How tight the highlight is: about the exponent of the cosine."""
    mirror: float
    """Share of the surroundings that it reflects facing the camera."""
    rim: float
    """Further share at a grazing angle."""
    opacity: float = 1.0
    """How much of what is behind is covered."""
    tinted: bool = False
    """Reflections take the colour of the surface, as those of metals."""


FINISHES: Mapping[str, Finish] = {
    "shiny": Finish(specular=0.75, gloss=50.0, mirror=0.06, rim=0.5),
    "metal": Finish(specular=1.1, gloss=28.0, mirror=0.72, rim=0.25, tinted=True),
    "glass": Finish(specular=1.0, gloss=110.0, mirror=0.1, rim=0.6, opacity=0.6),
    "wooden": Finish(specular=0.1, gloss=16.0, mirror=0.0, rim=0.05),
}
"""Material -> its finish; the others reflect nothing."""


def linear(rgb: Rgb) -> Array:
    """sRGB 0..1 -> linear [3, 1], with a gamma of 2: exactly undone by the square root that ends a rendering."""
    return column(rgb) ** 2


def column(numbers: tuple[float, ...]) -> Array:
    """K numbers as float32 [K, 1]."""
    return np.array(numbers, np.float32)[:, None]


def plane(rgb: Rgb) -> Array:
    """sRGB 0..1 -> linear [3, 1, 1]."""
    return linear(rgb)[:, None]


@lru_cache(maxsize=1)
def _tile() -> Array:
    """[513, 513] noise of seven octaves, mean 0, standard deviation 1, last row and column as the first."""
    rng = np.random.Generator(np.random.Philox(key=20))
    total = np.zeros((_SIDE, _SIDE))
    for octave, strength in ((8, 1.0), (16, 0.9), (32, 0.8), (64, 0.7), (128, 0.6), (256, 0.5), (512, 0.4)):
        lattice = rng.uniform(-1, 1, (octave, octave))
        for axis in (0, 1):
            at = np.arange(_SIDE) * octave / _SIDE
            low = at.astype(int)
            share = (at - low) ** 2 * (3 - 2 * (at - low))
            share = share[:, None] if axis == 0 else share[None]
            first, second = lattice.take(low, axis), lattice.take((low + 1) % octave, axis)
            lattice = first + (second - first) * share
        total += strength * lattice
    total = (total - total.mean()) / total.std()
    return np.ascontiguousarray(np.pad(total, (0, 1), mode="wrap").astype(np.float32))


def noise(x: Any, y: Any) -> Array:
    """Smooth noise at places that broadcast; it repeats after 1 unit, its finest grain is 1/512."""
    tile = _tile().ravel()
    x, y = x * np.float32(_SIDE), y * np.float32(_SIDE)
    left, top = np.floor(x), np.floor(y)
    fx, fy = x - left, y - top
    at = (top.astype(np.intp) & (_SIDE - 1)) * (_SIDE + 1) + (left.astype(np.intp) & (_SIDE - 1))
    a, b = tile.take(at), tile.take(at + 1)
    a += (b - a) * fx
    at += _SIDE + 1
    c, d = tile.take(at), tile.take(at + 1)
    c += (d - c) * fx
    a += (c - a) * fy
    return np.asarray(a, np.float32)


def _zigzag(x: Any) -> Any:
    """0.25 at whole numbers, -0.25 half-way between them."""
    return np.abs(x - np.floor(x) - np.float32(0.5)) - np.float32(0.25)


def albedo(thing: Thing, point: Vec, normal: Vec, grain: float) -> Array:
    """Colour of an object at points of its shape, [3, N].

    `point` and `normal` are in the shape's own frame; `grain` is what a pixel covers there.
    """
    main, second = linear(thing.rgb), linear(thing.second)
    x, y, z = point
    px, py, pz = (np.float32(phase) for phase in thing.phase)
    pattern = _PATTERNS.get(thing.material)
    if pattern is not None:
        share = pattern(x, y, z, normal, thing.phase, grain)
        return np.asarray(main + (second - main) * share, np.float32)
    if thing.material == "wooden":
        rings = _zigzag((x * x + z * z) * 9 + y * 0.7 + 0.25 * noise(x * 0.5 + px, y * 0.25 + z * 0.5 + py))
        fibre = noise((x + z) * 0.9 + pz, y * 0.08 + px)
        tone = 0.78 + 0.7 * rings + 0.13 * fibre
        wood = 0.82 * main + 0.18 * linear((0.6, 0.42, 0.26))
        return np.asarray(wood * np.maximum(tone, 0.2), np.float32)
    worn = 0.05 if thing.material in ("shiny", "glass") else 0.09
    return np.asarray(main * (1 + worn * noise(x * 0.4 + z * 0.3 + px, y * 0.4 + py)), np.float32)


def _stripes(x: Array, y: Array, z: Array, normal: Vec, phase: tuple[float, float, float], grain: float) -> Array:
    count = 3.0 + 2.5 * phase[1]
    along = y if phase[0] < 0.6 else (x + y) * 0.75
    share = (-0.04 - _zigzag(along * count + phase[2])) / (grain * count + 0.02) + 0.5
    return np.asarray(np.clip(share, 0, 1), np.float32)


def _unrolled(x: Array, y: Array, z: Array, normal: Vec) -> tuple[Array, Array]:
    """Two coordinates on the surface: those across the axis that it faces most."""
    nx, ny, nz = (np.abs(part) for part in normal)
    a = np.where((nx > ny) & (nx > nz), z, x)
    return a, np.where((ny > nx) & (ny > nz), z, y)


def _squares(x: Array, y: Array, z: Array, normal: Vec, phase: tuple[float, float, float], grain: float) -> Array:
    count, (a, b) = 2.6 + 1.4 * phase[1], _unrolled(x, y, z, normal)
    soft = 1 / (grain * count + 0.02)
    a, b = (np.clip(_zigzag(c * count + p) * soft, -0.5, 0.5) for c, p in ((a, phase[0]), (b, phase[2])))
    return np.asarray(2 * a * b + 0.5, np.float32)


def _dots(x: Array, y: Array, z: Array, normal: Vec, phase: tuple[float, float, float], grain: float) -> Array:
    count, (a, b) = 4.2 + 1.5 * phase[1], _unrolled(x, y, z, normal)
    a, b = a * count + phase[0], b * count + phase[2]
    column = np.floor(a)
    b += np.float32(0.5) * (column % 2)
    a, b = a - column - np.float32(0.5), b - np.floor(b) - np.float32(0.5)
    share = (0.3 - np.sqrt(a * a + b * b)) / (grain * count + 0.02) + 0.5
    return np.asarray(np.clip(share, 0, 1), np.float32)


_PATTERNS: Mapping[str, Callable[[Array, Array, Array, Vec, tuple[float, float, float], float], Array]] = {
    "striped": _stripes,
    "checkered": _squares,
    "dotted": _dots,
}


Tones = tuple[Any, Any]
"""Brightness of each place, and the share of a second colour there: [R, S] each, or numbers."""


def ground(plan: Layout, x: Array, z: Array, fade: Array, rng: random.Random) -> Array:
    """Colour of the ground at x [R, S] and z [R, 1] metres; `fade` [R, 1] is how much fine detail a pixel resolves."""
    tone, share = _GROUNDS[SETTINGS[plan.setting].ground](x, z, fade, rng)
    colour: Array = plane(plan.ground) * np.maximum(tone, np.float32(0.05))
    if not isinstance(share, float):
        colour += (plane(_choose(rng, _SECONDS)) - colour) * share
    return colour


_SECONDS: tuple[Rgb, ...] = (
    (0.28, 0.30, 0.34),
    (0.45, 0.30, 0.25),
    (0.36, 0.46, 0.52),
    (0.86, 0.84, 0.78),
    (0.30, 0.42, 0.36),
)


def _fine(x: Array, z: Array, fade: Array, rng: random.Random, strength: float) -> Array:
    scale = np.float32(0.35)
    return noise(x * scale + np.float32(rng.random()), z * scale) * (fade * np.float32(strength))


def _speckled(strength: float) -> Callable[..., Tones]:
    def tones(x: Array, z: Array, fade: Array, rng: random.Random) -> Tones:
        return _fine(x, z, np.sqrt(fade), rng, strength) + 1, 0.0

    return tones


def _planks(x: Array, z: Array, fade: Array, rng: random.Random) -> Tones:
    wide = rng.uniform(0.12, 0.26)
    across = x / np.float32(wide) + np.float32(rng.random())
    board = np.floor(across)
    own = np.array([rng.uniform(0.8, 1.18) for _ in range(64)], np.float32)
    joint = np.clip((np.abs(across - board - np.float32(0.5)) - np.float32(0.46)) * 25, 0, 1) * fade
    grain = noise(x * np.float32(1.4), z * np.float32(0.08) + board * np.float32(0.37))
    return own[board.astype(np.int32) & 63] * (1 + np.float32(0.15) * grain) * (1 - np.float32(0.5) * joint), 0.0


def _tiles(x: Array, z: Array, fade: Array, rng: random.Random) -> Tones:
    wide = np.float32(rng.uniform(0.22, 0.45))
    a, b = x / wide + np.float32(rng.random()), z / wide + np.float32(rng.random())
    da, db = np.floor(a), np.floor(b)
    gap = np.maximum(np.abs(a - da - np.float32(0.5)), np.abs(b - db - np.float32(0.5)))
    grout = np.clip((gap - np.float32(0.465)) * 40, 0, 1) * fade
    share: Any = ((da + db) % 2) * np.float32(0.75) if rng.random() < 0.4 else 0.0
    return (1 + _fine(x, z, fade, rng, 0.06)) * (1 - np.float32(0.35) * grout), share


def _carpet(x: Array, z: Array, fade: Array, rng: random.Random) -> Tones:
    wide = np.float32(rng.uniform(0.3, 0.7))
    a, b = x / wide, z / wide + np.float32(rng.random())
    share: Any = 0.0
    if rng.random() < 0.6:
        share = np.clip((_zigzag(a + b) * _zigzag(a - b) - np.float32(0.02)) * 60, 0, np.float32(0.5)) * fade
    return 1 + _fine(x, z, fade, rng, 0.22), share


def _cloth(x: Array, z: Array, fade: Array, rng: random.Random) -> Tones:
    wide = np.float32(rng.uniform(0.1, 0.22))
    share: Any = 0.0
    if rng.random() < 0.6:
        a = np.clip(_zigzag(x / wide) * 12, -0.5, 0.5)
        b = np.clip(_zigzag(z / wide) * 12, -0.5, 0.5)
        share = (a + b + 1) * (np.sqrt(fade) * np.float32(0.42))
    return 1 + _fine(x, z, fade, rng, 0.07), share


def _choose(rng: random.Random, items: tuple[Rgb, ...]) -> Rgb:
    return items[int(rng.random() * len(items))]


_GROUNDS: Mapping[str, Callable[..., Tones]] = {
    "grass": _speckled(0.36),
    "sand": _speckled(0.16),
    "snow": _speckled(0.08),
    "asphalt": _speckled(0.25),
    "plain": _speckled(0.03),
    "planks": _planks,
    "tiles": _tiles,
    "carpet": _carpet,
    "cloth": _cloth,
}


def sky(plan: Layout, u: Array, up: Array, rng: random.Random) -> Array:
    """Sky with clouds and hills: u [S] right of the middle, up [R, 1] over the horizon, in pictures -> [3, R, S]."""
    high = plane(plan.backdrop)
    low = high * 0.45 + plane((0.88, 0.90, 0.92)) * 0.55
    share = np.clip(up / 0.5, 0, 1)
    out: Array = (low + (high - low) * share) * np.ones_like(u)
    ox, oy = rng.random(), rng.random()
    clouds = np.clip(noise(u * 0.22 + ox, up * 0.55 + oy) * 0.45 - rng.uniform(-0.1, 0.5), 0, 0.85)
    out += (np.float32(0.9) - out) * clouds
    if rng.random() < 0.75:
        tops = rng.uniform(0.01, 0.07) + rng.uniform(0.01, 0.05) * noise(u * rng.uniform(0.1, 0.5) + ox, np.float32(oy))
        hills = np.clip((tops - up) * 90, 0, 1)
        kinds = ((0.34, 0.42, 0.36), (0.45, 0.50, 0.58), (0.28, 0.36, 0.25), (0.56, 0.52, 0.48))
        out += (plane(_choose(rng, kinds)) * 0.8 + low * 0.12 - out) * hills
    return out


def stars(plan: Layout, u: Array, up: Array, rng: random.Random) -> Array:
    """Night: a dark sky and distant lights out of focus."""
    high = plane(plan.backdrop)
    out: Array = (high + plane((0.16, 0.14, 0.18)) * np.clip(0.3 - up, 0, 1)) * np.ones_like(u)
    for _ in range(rng.randrange(6, 22)):
        tint = plane(_choose(rng, ((1.0, 0.8, 0.5), (1.0, 0.95, 0.85), (0.7, 0.85, 1.0), (1.0, 0.45, 0.35))))
        _disc(out, u, up, rng.uniform(-0.5, 0.5), abs(rng.gauss(0.0, 0.12)), rng.uniform(0.006, 0.03), tint * 0.7)
    return out


def blur(plan: Layout, u: Array, up: Array, rng: random.Random) -> Array:
    """Surroundings far out of focus."""
    base = plane(plan.backdrop)
    ox, oy = rng.random(), rng.random()
    soft = noise(u * 0.04 + ox, up * 0.05 + oy)
    out: Array = base * np.maximum(1 + 0.35 * soft, 0.1)
    for _ in range(rng.randrange(3, 9)):
        tint = (
            base
            * rng.uniform(0.4, 2.0)
            * np.array([rng.uniform(0.6, 1.4) for _ in range(3)], np.float32).reshape(3, 1, 1)
        )
        _disc(out, u, up, rng.uniform(-0.6, 0.6), rng.uniform(0, 0.5), rng.uniform(0.04, 0.16), tint, edge=0.04)
    return out


def _disc(out: Array, u: Array, up: Array, x: float, y: float, radius: float, tint: Array, edge: float = 0.008) -> None:
    """Paints a soft disc, touching only the pixels around it."""
    reach = radius + edge
    columns = np.nonzero(np.abs(u - x) < reach)[0]
    rows = np.nonzero(np.abs(up[:, 0] - y) < reach)[0]
    if not len(columns) or not len(rows):
        return
    box = (slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    far = np.sqrt(np.square(u[box[2]] - np.float32(x)) + np.square(up[box[1]] - np.float32(y)))
    out[box] += (tint - out[box]) * np.clip((reach - far) / (2 * edge), 0, 0.8)


def wall(plan: Layout, x: Array, y: Array, rng: random.Random) -> Array:
    """A wall at x [R, S], y [R, 1] metres -> [3, R, S]: bare, papered, of bricks, or with a picture on it."""
    base = plane(plan.backdrop)
    tone: Any = 1 + 0.035 * noise(x * 0.15 + rng.random(), y * 0.15 + rng.random())
    kind = rng.random() if plan.setting != "studio" else 1.0
    if kind < 0.2:
        wide = rng.uniform(0.12, 0.4)
        tone = tone * (1 - 0.16 * np.clip(_zigzag(x / wide) * 20 + 0.5, 0, 1))
    elif kind < 0.4:
        rows = y / 0.09
        row = np.floor(rows)
        across = x / 0.26 + 0.5 * (row % 2)
        joint = np.maximum(np.abs(across - np.floor(across) - 0.5) - 0.04, np.abs(rows - row - 0.5)) > 0.43
        tone = tone * (0.82 + 0.08 * noise(np.floor(across) * 0.31, row * 0.17)) * (1 + np.float32(0.16) * joint)
    out: Array = base * tone
    if plan.setting != "studio":
        low = int((y[:, 0] > 0.11).sum())  # rows above the skirting board
        board = np.clip((0.09 - y[low:]) * 60, 0, 1) * np.float32(0.8)
        out[:, low:] += (plane((0.86, 0.85, 0.82)) * 0.9 - out[:, low:]) * board
        if kind > 0.55:
            _frame(out, x, y, rng)
    return out


def _frame(out: Array, x: Array, y: Array, rng: random.Random) -> None:
    """A picture or a window on the wall."""
    cx, cy = rng.uniform(-1.6, 1.6), rng.uniform(0.9, 1.7)
    w, h = rng.uniform(0.25, 0.6), rng.uniform(0.2, 0.5)
    rows = np.flatnonzero(np.abs(y[:, 0] - cy) < h + 0.07)
    columns = np.flatnonzero((np.abs(x - cx) < w + 0.07).any(axis=0))  # a wall is as wide in every row, nearly
    if not len(rows) or not len(columns):
        return
    here = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    x, y, out = x[here], y[here[0]], out[:, *here]
    beyond = np.maximum(np.abs(x - cx) - w, np.abs(y - cy) - h)
    rim = plane(_choose(rng, ((0.2, 0.16, 0.12), (0.9, 0.9, 0.88), (0.5, 0.4, 0.2))))
    inner = plane((rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.9)))
    out += (rim - out) * np.clip((0.05 - beyond) * 60, 0, 1)
    scene = inner * (1 + 0.3 * noise(x * 0.5 + cx, y * 0.5 + cy))
    out += (scene - out) * np.clip(-beyond * 60, 0, 1)
