"""What a scene contains, before any pixel: objects with attributes, camera, light, setting, and how objects relate.

    plan = layout(seed=0, index=7)     # a function of the two numbers alone
    plan.main.phrase                   # "large red striped ball"

Captions, labels and depth come from here, so they are the same at every size of the picture, and a corpus can be
described (for balance, or for captions from another image) without rendering it, in a fraction of a millisecond.

World: metres, x right, y up, z away from the camera, the ground at y = 0, the camera at (0, height, 0), looking down
by `pitch`. The picture is square and one unit wide; a point at depth t along the camera's axis is `focal / t` tall.
The main object is `objects[0]`: the nearest, never covered, and the largest in the picture.
"""

import math
import random
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from mobileclip.data.scene_shapes import REACH
from mobileclip.data.scene_solids import Rgb
from mobileclip.data.scene_words import COLOURS, SETTINGS, SHAPES, SIZES
from mobileclip.errors import DataError

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Light:
    """The sun or the lamp."""

    towards: tuple[float, float, float]
    """Unit vector from the scene to the light."""
    colour: Rgb
    """Linear RGB strength of the direct light."""
    ambient: Rgb
    """Linear RGB strength of the light from all sides."""
    warmth: Literal["warm", "neutral", "cool"]
    """Its tint in words."""
    brightness: Literal["bright", "normal", "dim"]
    """Its strength in words."""

    @property
    def side(self) -> str:
        """Where it comes from, as the camera sees it: "left", "right" or "above"."""
        x = self.towards[0]
        return "right" if x > 0.4 else "left" if x < -0.4 else "above"


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole over the origin."""

    height: float
    """Metres over the ground."""
    pitch: float
    """Radians that it looks down."""
    focal: float
    """Focal length, in widths of the picture."""

    def ray(self, u: float, v: float) -> tuple[float, float, float]:
        """Direction through a point of the picture (u right, v down, 0 at the middle), one unit deep."""
        sin, cos = math.sin(self.pitch), math.cos(self.pitch)
        y = -v / self.focal
        return u / self.focal, y * cos - sin, y * sin + cos

    def project(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """A point of the world -> u, v and depth."""
        sin, cos = math.sin(self.pitch), math.cos(self.pitch)
        y -= self.height
        depth = max(z * cos - y * sin, 1e-3)
        return x / depth * self.focal, -(y * cos + z * sin) / depth * self.focal, depth


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object as planned: what a caption may say of it, and where it stands."""

    shape: str
    """One of `SHAPES`."""
    colour: str
    """One of `COLOURS`."""
    material: str
    """One of `MATERIALS`."""
    size: str
    """One of `SIZES`."""
    rgb: Rgb
    """Its own sRGB colour."""
    second: Rgb
    """sRGB of its stripes, squares or dots."""
    place: tuple[float, float]
    """x and z of its foot, metres."""
    scale: tuple[float, float, float]
    """Metres that the unit of its shape is wide, tall and deep."""
    yaw: float
    """Turned about its y axis, radians."""
    variant: tuple[float, float]
    """Two numbers in 0..1 for its proportions."""
    phase: tuple[float, float, float]
    """Shift of its surface pattern."""
    depth: float
    """Metres along the camera's axis to its foot."""
    extent: tuple[float, float, float, float]
    """Bounds in the picture of the box around the whole object: u0, v0, u1, v1; beyond -0.5..0.5 is outside."""

    @property
    def phrase(self) -> str:
        """All of its attributes and its name, without an article."""
        size = () if self.size == "medium" else (self.size,)
        return " ".join((*size, self.colour, self.material, self.shape))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A scene without pixels."""

    seed: int
    """Of the corpus."""
    index: int
    """Of the scene in it."""
    setting: str
    """One of `SETTINGS`."""
    ground: Rgb
    """sRGB of the ground."""
    backdrop: Rgb
    """sRGB of the wall or the sky."""
    wall: float
    """Metres along z to the wall; of the sky, far."""
    light: Light
    """One light, one ambient."""
    camera: Camera
    """Where it is seen from."""
    things: tuple[Thing, ...]
    """Objects, the main one first, then by depth."""

    @property
    def main(self) -> Thing:
        """The nearest and largest object."""
        return self.things[0]

    @property
    def label(self) -> int:
        """Class of the scene: the position of the main object's shape in `SHAPES`."""
        return SHAPES.index(self.main.shape)


def stream(seed: int, index: int, purpose: int) -> random.Random:
    """Random numbers of one scene for one purpose, independent of all others; the same on every machine.

    Raises:
        DataError: a number is negative or beyond 63 bits.
    """
    for name, value in (("seed", seed), ("index", index)):
        if not 0 <= value < 2**63:
            raise DataError(f"{name} is {value}: 0 to 2^63 - 1 is allowed; give such a number.")
    return random.Random((seed << 72 | index << 8 | purpose) + (1 << 140))


LAYOUT, PAINT, SENSOR, CAPTION = range(4)
"""Purposes of `stream`."""

_TURNS = {  # radians from facing the camera, from and to
    "ring": (0.0, 0.6),
    "disc": (0.4, 0.9),
    "star": (0.0, 0.6),
    "heart": (0.0, 0.6),
    "house": (0.1, 0.8),
    "mug": (0.0, 0.7),
    "car": (0.0, 0.6),
    "table": (0.1, 0.7),
    "chair": (0.3, 1.2),
}
_COUNTS = (1, 1, 1, 2, 2, 2, 3, 3, 4, 5)
_SURFACES = (
    *("matte",) * 5,
    *("shiny",) * 4,
    *("metal", "wooden", "striped") * 2,
    *("glass", "checkered", "dotted"),
)  # those that hide the shape are rarer


def layout(seed: int, index: int) -> Layout:
    """The scene at `index` of the corpus `seed`.

    Raises:
        DataError: a number is negative or beyond 63 bits.
    """
    rng = stream(seed, index, LAYOUT)
    camera, main = _main(rng)
    for _ in range(4):  # the main object should stand out from its ground a little
        setting = _choose(rng, tuple(SETTINGS))
        place = SETTINGS[setting]
        ground, backdrop = (_vary(rng, _choose(rng, kinds), 0.05) for kinds in (place.grounds, place.backdrops))
        if sum(abs(a - b) for a, b in zip(main.rgb, ground, strict=True)) > 0.4:
            break
    light = _light(rng, night=place.backdrop == "stars", outdoors=place.backdrop in ("sky", "stars"))
    things = [main]
    for _ in range(_choose(rng, _COUNTS) - 1):
        attributes = _attributes(rng)
        for _ in range(12):
            thing = _other(rng, attributes, camera, things)
            if thing is not None and _fits(thing, things):
                things.append(thing)
                break
    things[1:] = sorted(things[1:], key=lambda thing: thing.depth)
    farthest = max(thing.place[1] for thing in things)
    wall = farthest + rng.uniform(0.8, 3.0) if place.backdrop == "wall" else 45.0
    return Layout(
        seed=seed,
        index=index,
        setting=setting,
        ground=ground,
        backdrop=backdrop,
        wall=wall,
        light=light,
        camera=camera,
        things=tuple(things),
    )


def relations(first: Thing, second: Thing) -> tuple[str, ...]:
    """What is true of `first` towards `second` beyond doubt: of "left", "right", "front", "behind"."""
    middle = [(thing.extent[0] + thing.extent[2]) / 2 for thing in (first, second)]
    found = []
    if abs(middle[0] - middle[1]) > 0.12:
        found.append("left" if middle[0] < middle[1] else "right")
    if abs(first.depth - second.depth) > 0.35:
        found.append("front" if first.depth < second.depth else "behind")
    return tuple(found)


def _choose(rng: random.Random, items: tuple[_T, ...]) -> _T:
    return items[int(rng.random() * len(items))]


def _vary(rng: random.Random, rgb: Rgb, amount: float) -> Rgb:
    """A colour moved by up to `amount` in brightness, and half of that in each channel."""
    all_, red, green, blue = (rng.uniform(-amount, amount) for _ in range(4))
    moved = (c + all_ + part / 2 for c, part in zip(rgb, (red, green, blue), strict=True))
    r, g, b = (float(min(max(c, 0.01), 0.99)) for c in moved)
    return r, g, b


def _light(rng: random.Random, *, night: bool, outdoors: bool) -> Light:
    turn = rng.uniform(-math.pi, math.pi)
    rise = rng.uniform(0.55, 1.25)  # radians over the horizon; lower ones throw shadows out of the picture
    if math.cos(turn) > 0.2:
        rise = max(rise, 1.0)  # a low light from behind leaves nothing but silhouettes
    towards = (math.cos(rise) * math.sin(turn), math.sin(rise), math.cos(rise) * math.cos(turn))
    warmth: Literal["warm", "neutral", "cool"] = _choose(rng, ("warm", "neutral", "neutral", "cool"))
    tint = {"warm": (1.12, 0.98, 0.74), "neutral": (1.0, 1.0, 0.98), "cool": (0.82, 0.96, 1.16)}[warmth]
    brightness: Literal["bright", "normal", "dim"] = _choose(rng, ("bright", "normal", "normal", "dim"))
    if night:
        brightness = "dim"
    power = {"bright": 1.3, "normal": 0.95, "dim": 0.6}[brightness] * rng.uniform(0.92, 1.08)
    direct = rng.uniform(0.62, 0.8) if outdoors else rng.uniform(0.5, 0.7)
    sky = (0.85, 0.95, 1.12) if outdoors else (1.0, 1.0, 1.0)
    red, green, blue = (float(power * direct * t) for t in tint)
    low = 1.2 if night else 1.0  # or black things would be lost
    ar, ag, ab = (float(power * low * (1 - direct) * (0.5 + 0.5 * t) * s) for t, s in zip(tint, sky, strict=True))
    return Light(towards=towards, colour=(red, green, blue), ambient=(ar, ag, ab), warmth=warmth, brightness=brightness)


def _main(rng: random.Random) -> tuple[Camera, Thing]:
    """The camera is put where the main object fills half of the picture or more, standing in its lower part."""
    thing = _attributes(rng)
    reach = REACH[thing["shape"]]
    longest = max(thing["scale"][1] * reach[1], thing["scale"][0] * 2 * reach[0])
    focal, horizon, tall = rng.uniform(1.0, 1.5), rng.uniform(-0.45, -0.2), rng.uniform(0.48, 0.74)
    foot = rng.uniform(max(0.26, tall - 0.42), 0.42)
    depth = (focal / tall + 0.35) * longest
    pitch = math.atan2(-horizon, focal)
    camera = Camera(height=0.0, pitch=pitch, focal=focal)
    u = rng.uniform(-0.15, 0.15)
    camera = Camera(height=-depth * camera.ray(u, foot)[1], pitch=pitch, focal=focal)
    return camera, _stand(thing, camera, u, depth)


def _other(rng: random.Random, thing: dict[str, Any], camera: Camera, things: list[Thing]) -> Thing | None:
    """An object behind the main one, and smaller in the picture; None where it would touch another."""
    main = things[0]
    near = main.depth + 0.4 * max(main.scale)
    depth = near * rng.uniform(1.1, 2.8)
    most = 0.6 * max(main.scale) * depth / main.depth
    if max(thing["scale"]) > most:
        thing = thing | _sized(rng, thing["shape"], "small" if most < 0.7 else "medium")
    u = rng.uniform(-0.45, 0.45)
    left, right = main.extent[0], main.extent[2]
    if left < u < right and rng.random() < 0.75:  # beside the main object rather than behind it
        u = (
            rng.uniform(-0.45, left)
            if rng.random() < (left + 0.45) / (left + 0.9 - right)
            else rng.uniform(right, 0.45)
        )
    place, wide = _foot(camera, u, depth), max(thing["scale"][0], thing["scale"][2])
    for other in things:
        if math.dist(place, other.place) < 0.5 * (wide + max(other.scale[0], other.scale[2])):
            return None
        if (thing["colour"], thing["shape"]) == (other.colour, other.shape):
            return None
    return _stand(thing, camera, u, depth)


def _attributes(rng: random.Random) -> dict[str, Any]:
    """What a thing is, all but where it stands."""
    shape, colour = _choose(rng, SHAPES), _choose(rng, tuple(COLOURS))
    a, b = _choose(rng, ((0, 1), (0, 2), (1, 2)))
    share = rng.random()
    first, last = COLOURS[colour][a], COLOURS[colour][b]
    rgb = (_mix(first[0], last[0], share), _mix(first[1], last[1], share), _mix(first[2], last[2], share))
    light = colour in ("white", "yellow", "pink")
    second = _choose(
        rng, ((0.20, 0.20, 0.22), (0.28, 0.22, 0.18)) if light else ((0.93, 0.92, 0.88), (0.85, 0.84, 0.78))
    )
    low, high = _TURNS.get(shape, (0.0, math.pi))
    yaw = rng.uniform(low, high) * _choose(rng, (-1, 1))
    if shape in ("mug", "car") and rng.random() < 0.5:
        yaw += math.pi
    return {
        "shape": shape,
        "colour": colour,
        "material": _choose(rng, _SURFACES),
        "rgb": _vary(rng, rgb, 0.035),
        "second": _vary(rng, second, 0.04),
        "yaw": yaw,
        "variant": (rng.random(), rng.random()),
        "phase": (rng.random(), rng.random(), rng.random()),
        **_sized(rng, shape, _choose(rng, ("small", "medium", "medium", "large"))),
    }


def _sized(rng: random.Random, shape: str, size: str) -> dict[str, Any]:
    longest = rng.uniform(*SIZES[size])
    spread = 0.05 if shape in ("ball", "cube", "disc", "ring") else 0.12
    return {"size": size, "scale": tuple(longest * rng.uniform(1 - spread, 1 + spread) for _ in range(3))}


def _mix(a: float, b: float, share: float) -> float:
    return a + (b - a) * share


def _stand(thing: dict[str, Any], camera: Camera, u: float, depth: float) -> Thing:
    """Puts a thing on the ground at depth `depth`, `u` right of the middle."""
    x, z = _foot(camera, u, depth)
    half, tall, deep = REACH[thing["shape"]]
    wide, high, long = thing["scale"]
    sin, cos = math.sin(thing["yaw"]), math.cos(thing["yaw"])
    us, vs = [], []
    for lx in (-half * wide, half * wide):
        for lz in (-deep * long, deep * long):
            for y in (0.0, tall * high):
                cu, cv, _ = camera.project(x + lx * cos + lz * sin, y, z - lx * sin + lz * cos)
                us.append(cu)
                vs.append(cv)
    return Thing(**thing, place=(x, z), depth=depth, extent=(min(us), min(vs), max(us), max(vs)))


def _foot(camera: Camera, u: float, depth: float) -> tuple[float, float]:
    """x and z on the ground at a depth, `u` right of the middle."""
    return u / camera.focal * depth, (depth - camera.height * math.sin(camera.pitch)) / math.cos(camera.pitch)


def _fits(new: Thing, others: list[Thing]) -> bool:
    """Whether it is mostly in the picture, and then nobody is mostly covered."""
    u0, v0, u1, v1 = new.extent
    inside = max(min(u1, 0.5) - max(u0, -0.5), 0) * max(min(v1, 0.5) - max(v0, -0.5), 0)
    if inside < 0.75 * (u1 - u0) * (v1 - v0) or u1 - u0 < 0.05:
        return False
    everyone = [*others, new]
    return all(_covered(thing, everyone) < 0.6 for thing in everyone)


def _covered(thing: Thing, everyone: list[Thing]) -> float:
    """At most this share of its bounds is behind the bounds of nearer ones."""
    u0, v0, u1, v1 = thing.extent
    hidden = 0.0
    for other in everyone:
        if other.depth < thing.depth:
            a0, b0, a1, b1 = other.extent
            hidden += max(min(u1, a1) - max(u0, a0), 0) * max(min(v1, b1) - max(v0, b0), 0)
    return hidden / ((u1 - u0) * (v1 - v0))
