"""A planned scene to pixels: rays against solids, shaded, with shadows on the ground, and full ground truth.

    scene = render(seed=0, index=7, size=128)
    scene.image        # uint8 [128, 128, 3]
    scene.mask         # uint8 [128, 128]: 1 + position in SHAPES, 0 background

Unusual: plain numpy, a few milliseconds a scene. Each part of an object is traced only inside its bounds in the
picture, one ray through the middle of a pixel; rays to the light use the same intersections at half the resolution.
What is nearest is settled first and shaded once, for all objects together, so image, mask, instances and depth agree
exactly. Outlines are softened by the lens, as in a photo, not by more rays.

Deterministic bit for bit on one machine and one numpy; another processor may differ in the last bit of a sine.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from mobileclip.data import scene_surfaces as surfaces
from mobileclip.data.scene_layout import PAINT, SENSOR, Layout, Thing, layout, stream
from mobileclip.data.scene_rays import Body, Seen, View, bodies_of, local, trace, union, visible
from mobileclip.data.scene_solids import FAR, Array, Vec
from mobileclip.data.scene_words import SETTINGS, SHAPES
from mobileclip.errors import DataError

MAX_DEPTH = 60.0
"""Metres at which the depth map ends; the sky is there. Fits 16 bits of millimetres."""
MAX_SIZE = 2_048
"""Largest side of a rendering."""


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One object as it is seen at one size of the picture."""

    thing: Thing
    """Its attributes and where it stands."""
    label: int
    """Position of its shape in `SHAPES`; its mask value is one more."""
    instance: int
    """Its value in `instances`."""
    box: tuple[int, int, int, int]
    """x0, y0, x1, y1 around its visible pixels, ends exclusive; zeros when none is visible."""
    pixels: int
    """How many of its pixels are visible."""
    visible: float
    """The share of its pixels inside the picture that nothing nearer covers."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A rendering and its truth."""

    plan: Layout
    """What is in it: camera, light, setting, objects."""
    image: NDArray[np.uint8]
    """[S, S, 3] RGB."""
    mask: NDArray[np.uint8]
    """[S, S] class ids; 0 is the background."""
    instances: NDArray[np.uint8]
    """[S, S] `SceneObject.instance`; 0 is the background."""
    depth: Array
    """[S, S] metres along the camera's axis, at most `MAX_DEPTH`."""
    objects: tuple[SceneObject, ...]
    """The main one first, then by depth."""

    @property
    def label(self) -> int:
        """Class of the scene: that of the main object."""
        return self.plan.label


def render(seed: int, index: int, size: int) -> Scene:
    """The scene at `index` of the corpus `seed`, `size` x `size` pixels; its content is the same at every size.

    Raises:
        DataError: a number is out of range.
    """
    if not 16 <= size <= MAX_SIZE:
        raise DataError(f"a scene of {size} pixels: 16 to {MAX_SIZE} a side is allowed; choose such a size.")
    plan = layout(seed, index)
    view = View(plan, size)
    with np.errstate(all="ignore"):  # rays that miss divide by zero and take roots of what is not there
        bodies = bodies_of(plan, size)
        image, depth = _background(plan, view, bodies)
        seen = visible(plan, view, bodies)
        if len(seen.at):
            light, cover = _shade(plan, view, bodies, seen)
            for plane, channel in zip(image.reshape(3, -1), light, strict=True):  # [S * S], [N]
                under = plane.take(seen.at)
                plane[seen.at] = under + (channel - under) * cover
            depth.ravel()[seen.at] = seen.t
        pixels = _develop(plan, image)
    np.minimum(depth, MAX_DEPTH, out=depth)
    labels = np.array([0, *(SHAPES.index(thing.shape) + 1 for thing in plan.things)], np.uint8)
    objects = tuple(
        _seen(thing, k, seen.instances, whole)
        for k, (thing, whole) in enumerate(zip(plan.things, seen.whole, strict=True))
    )
    return Scene(
        plan=plan,
        image=pixels,
        mask=labels[seen.instances],
        instances=seen.instances,
        depth=depth,
        objects=objects,
    )


def _background(plan: Layout, view: View, bodies: list[Body]) -> tuple[Array, Array]:
    """Ground with shadows, and what is behind it: linear image [3, S, S] and depth [S, S]."""
    size, camera = view.size, plan.camera
    rng = stream(plan.seed, plan.index, PAINT)
    dx, dy, dz = view.rays(view.middles, view.middles)  # [S] columns, rows, rows
    far = np.float32(plan.wall) / dz
    reach = np.where(dy < 0, np.float32(camera.height) / -dy, FAR)
    top = int((reach >= far).sum())  # rows of the wall or the sky come first
    image = np.empty((3, size, size), np.float32)
    depth = np.empty((size, size), np.float32)
    kind = SETTINGS[plan.setting].backdrop
    depth[:top] = (far if kind == "wall" else np.full_like(far, MAX_DEPTH))[:top, None]
    depth[top:] = reach[top:, None]
    ambient, direct = (surfaces.column(rgb)[:, None] for rgb in (plan.light.ambient, plan.light.colour))
    _, ly, lz = plan.light.towards
    if top and kind == "wall":
        x, y = far[:top, None] * dx, np.float32(camera.height) + (far * dy)[:top, None]
        image[:, :top] = surfaces.wall(plan, x, y, rng) * (ambient + direct * max(-lz, 0.15))
    elif top:
        up = np.float32(-camera.focal * np.tan(camera.pitch)) - view.middles[:top, None]
        painter = {"sky": surfaces.sky, "stars": surfaces.stars, "blur": surfaces.blur}[kind]
        image[:, :top] = painter(plan, view.middles, up, rng) * (1.0 if kind == "stars" else ambient + direct * 0.5)
    if top < size:
        t = reach[top:, None]
        covers = t * t / np.float32(camera.height * camera.focal * size)  # metres of ground that a pixel is deep
        fade = 1 / (1 + np.square(covers * 18))
        colour = surfaces.ground(plan, t * dx, (reach * dz)[top:, None], fade, rng)
        dark, close = _shadows(plan, view, bodies, top)
        colour *= direct * ly * dark + ambient * close
        if kind != "wall":  # the far ground fades into the air
            haze = (1 - np.exp(np.minimum(t, MAX_DEPTH) / -40)) * np.float32(0.7)
            air = image[:, max(top - 1, 0)].mean(axis=1)[:, None, None] if top else surfaces.plane(plan.backdrop)
            colour += (air - colour) * haze
        image[:, top:] = colour
    return image, depth


def _shadows(plan: Layout, view: View, bodies: list[Body], top: int) -> tuple[Array, Array]:
    """Shares of direct and of ambient light that objects leave the ground, from row `top` on; from half resolution."""
    half = (view.size + 1) // 2
    places = (np.arange(half, dtype=np.float32) * 2 + 1) / np.float32(view.size) - np.float32(0.5)
    shade = np.zeros((2, half, half), np.float32)
    height = np.float32(plan.camera.height)
    dx, dy, dz = view.rays(places, places)
    t = np.where(dy < 0, -height / dy, np.float32(MAX_DEPTH * 2))[:, None]
    x, z = t * dx, t * dz[:, None]
    for body in bodies:
        thing = body.thing
        casting = [(part, rect) for part, rect in zip(body.parts, body.shadows, strict=True) if part.casts]
        rects = [rect for _, rect in casting]
        x0, y0, x1, y1 = around = union([*rects, body.foot])
        if x0 >= x1 or y0 >= y1:
            continue
        here = (slice(y0, y1), slice(x0, x1))
        foot = (x[here] - np.float32(thing.place[0]), np.float32(0.0), z[y0:y1] - np.float32(thing.place[1]))
        origin = local(thing, foot)
        lx, ly, lz = local(thing, plan.light.towards)
        sun = (np.float32(lx), np.float32(ly), np.float32(lz))
        near, _ = trace(tuple(part for part, _ in casting), origin, sun, rects, around)
        dark = (near < FAR) * np.float32(0.6 if thing.material == "glass" else 1.0)
        np.maximum(shade[0][here], dark, out=shade[0][here])
        close = np.float32(0.6) - np.float32(2.4) * (origin[0] * origin[0] + origin[2] * origin[2])  # 0 at _FOOT
        np.maximum(shade[1][here], close, out=shade[1][here])
    shade = shade[:, top // 2 :].repeat(2, 1).repeat(2, 2)
    dark, close = 1 - _soften(shade)[:, top % 2 : top % 2 + view.size - top, : view.size]
    return dark, close


def _soften(x: Array) -> Array:
    """[1, 2, 1] / 4 along the last two axes, edges as they are."""
    out = x * np.float32(0.5)
    out[:, 1:-1] += (x[:, :-2] + x[:, 2:]) * np.float32(0.25)
    out[:, (0, -1)] *= 2
    x = out * np.float32(0.5)
    x[:, :, 1:-1] += (out[:, :, :-2] + out[:, :, 2:]) * np.float32(0.25)
    x[:, :, (0, -1)] *= 2
    return x


def _shade(plan: Layout, view: View, bodies: list[Body], seen: Seen) -> tuple[Array, Array]:
    """Light that leaves the seen points towards the camera: linear RGB [3, N], and how far they cover [N]."""
    count = len(seen.at)
    rows, columns = np.divmod(seen.at, view.size)
    dx, dy, dz = view.rays(view.middles, view.middles)
    ray = (dx.take(columns), dy.take(rows), dz.take(rows))
    y = seen.t * ray[1] + np.float32(plan.camera.height)
    world = (seen.t * ray[0], y, seen.t * ray[2])
    normal, colour = np.empty((3, count), np.float32), np.empty((3, count), np.float32)
    height = np.empty(count, np.float32)
    glossy = []
    for number, runs in groupby(seen.runs, key=itemgetter(0)):
        thing, parts, pieces = bodies[number].thing, bodies[number].parts, list(runs)
        whole = slice(pieces[0][2], pieces[-1][3])
        px, pz = np.float32(thing.place[0]), np.float32(thing.place[1])
        point = local(thing, (world[0][whole] - px, y[whole], world[2][whole] - pz))
        inner = np.empty((3, whole.stop - whole.start), np.float32)
        for _, k, start, stop in pieces:
            here = slice(start - whole.start, stop - whole.start)
            inner[:, here] = parts[k].solid.normal((point[0][here], point[1][here], point[2][here]))
        grain = thing.depth / (plan.camera.focal * view.size * max(thing.scale))
        colour[:, whole] = surfaces.albedo(thing, point, (inner[0], inner[1], inner[2]), grain)
        own = whole.start
        for _, k, start, stop in pieces:
            paint = parts[k].paint
            if paint is None:
                own = stop
            else:
                colour[:, start:stop] = surfaces.linear(paint)
        if thing.material in surfaces.FINISHES and own > whole.start:
            glossy.append((surfaces.FINISHES[thing.material], slice(whole.start, own)))
        inner *= 1 / surfaces.column(thing.scale)
        sin, cos = np.float32(math.sin(thing.yaw)), np.float32(math.cos(thing.yaw))
        normal[0, whole] = inner[0] * cos + inner[2] * sin
        normal[1, whole] = inner[1]
        normal[2, whole] = inner[2] * cos - inner[0] * sin
        height[whole] = point[1]
    normal *= 1 / np.sqrt((normal * normal).sum(axis=0) + np.float32(1e-12))
    out = _lit(plan, colour, normal, height)
    for number, k, start, stop in seen.runs:
        if bodies[number].parts[k].glow:
            out[:, start:stop] += colour[:, start:stop] * np.float32(bodies[number].parts[k].glow)
    cover = np.ones(count, np.float32)
    for finish, here in glossy:
        rays = (ray[0][here], ray[1][here], ray[2][here])
        cover[here] = _gloss(plan, finish, out[:, here], colour[:, here], normal[:, here], rays)
    return out, cover


def _lit(plan: Layout, colour: Array, normal: Array, height: Array) -> Array:
    """Diffuse light [3, N]: direct, from all sides (less near the ground), and what the ground throws back."""
    lx, ly, lz = (np.float32(part) for part in plan.light.towards)
    ambient, direct = surfaces.column(plan.light.ambient), surfaces.column(plan.light.colour)
    facing = np.maximum(normal[0] * lx + normal[1] * ly + normal[2] * lz, 0)
    low = np.clip(height * np.float32(1.3), 0, np.float32(0.4)) + np.float32(0.6)
    floor = surfaces.linear(plan.ground) * (ambient + direct * ly) * np.float32(0.16)
    out: Array = facing * direct
    out += low * (ambient * np.float32(0.72) + floor)
    out += low * normal[1] * (ambient * np.float32(0.28) - floor)
    out *= colour
    return out


def _gloss(plan: Layout, finish: surfaces.Finish, out: Array, colour: Array, normal: Array, ray: Vec) -> Array:
    """Adds reflections and highlights to `out` [3, N]; returns how far the points cover what is behind [N]."""
    ambient, direct = surfaces.column(plan.light.ambient), surfaces.column(plan.light.colour)
    (dx, dy, dz), (nx, ny, nz) = ray, normal
    lx, ly, lz = (np.float32(part) for part in plan.light.towards)
    unit = 1 / np.sqrt(dx * dx + dy * dy + dz * dz)
    head = (nx * dx + ny * dy + nz * dz) * unit  # negative: the surface faces the camera
    ry = dy * unit - 2 * head * ny
    shine = (dx * lx + dy * ly + dz * lz) * unit - 2 * head * (nx * lx + ny * ly + nz * lz)
    shine = np.exp((shine - 1) * np.float32(finish.gloss))  # close to a power of the cosine, and cheaper
    shine *= np.float32(finish.specular)
    mirror = np.float32(finish.mirror) + np.float32(finish.rim) * np.square(np.square(1 - np.minimum(np.abs(head), 1)))
    floor = surfaces.linear(plan.ground) * (ambient + direct * ly)
    sky = surfaces.linear(plan.backdrop) * (ambient + direct * np.float32(0.5))
    room = sky * (np.float32(0.8) + np.float32(0.9) * np.maximum(ry, 0)) - floor
    room *= np.clip(ry * 4 + np.float32(0.5), 0, 1)
    room += floor * np.float32(0.9)
    if finish.tinted:
        room *= colour * np.float32(1.45) + np.float32(0.136)
    room -= out
    room *= mirror
    out += room
    light = shine * direct
    out += light * colour if finish.tinted else light
    return np.asarray(np.minimum(finish.opacity + mirror * np.float32(1 - finish.opacity) + shine, 1), np.float32)


@lru_cache(maxsize=8)
def _radii(size: int) -> Array:
    """[S, S] squared distance from the middle of the picture."""
    at = np.square((np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size) - np.float32(0.5))
    return np.ascontiguousarray(at[:, None] + at[None])


@lru_cache(maxsize=1)
def _grain() -> Array:
    """[3, 512, 512] of a sensor's noise that repeats, mean 0, standard deviation 1."""
    bits = np.random.Generator(np.random.Philox(key=7)).integers(0, 256, (4, 3, 512, 512), np.uint8)
    return np.asarray((bits.sum(axis=0, dtype=np.float32) - 510) / np.float32(147.8), np.float32)  # of four uniforms


def _develop(plan: Layout, image: Array) -> NDArray[np.uint8]:
    """Lens and sensor: blur, vignette, white balance, exposure, gamma, noise; linear [3, S, S] -> uint8 [S, S, 3]."""
    size = image.shape[1]
    rng = stream(plan.seed, plan.index, SENSOR)
    soft = np.float32(rng.uniform(0.12, 0.2) if rng.random() < 0.8 else rng.uniform(0.2, 0.3))
    sharp = 1 - 2 * soft
    out = image * sharp
    out[:, 1:-1] += (image[:, :-2] + image[:, 2:]) * soft
    out[:, (0, -1)] += image[:, (0, -1)] * (2 * soft)
    image = out * sharp
    image[:, :, 1:-1] += (out[:, :, :-2] + out[:, :, 2:]) * soft
    image[:, :, (0, -1)] += out[:, :, (0, -1)] * (2 * soft)
    exposure = rng.uniform(0.82, 1.18) * 255**2
    gain = surfaces.column((rng.uniform(0.94, 1.06), rng.uniform(0.94, 1.06), rng.uniform(0.94, 1.06)))
    image *= gain[:, None] * np.float32(exposure)
    image *= 1 - np.float32(rng.uniform(0, 0.7)) * _radii(size)
    np.sqrt(np.maximum(image, 0, out=image), out=image)
    sigma = rng.uniform(1.0, 5.0) * (1.4 if plan.light.brightness == "dim" else 1.0)
    grain = _grain()
    top, left = rng.randrange(512), rng.randrange(512)
    for y in range(-top, size, 512):
        for x in range(-left, size, 512):
            here = image[:, max(y, 0) : y + 512, max(x, 0) : x + 512]
            here += grain[:, max(-y, 0) :, max(-x, 0) :][:, : here.shape[1], : here.shape[2]] * np.float32(sigma)
    np.minimum(np.maximum(image, 0, out=image), 255, out=image)
    return np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0))


def _seen(thing: Thing, number: int, instances: NDArray[np.uint8], whole: int) -> SceneObject:
    """Bounds of what is visible of one object."""
    own = instances == number + 1
    rows, columns = np.nonzero(own.any(axis=1))[0], np.nonzero(own.any(axis=0))[0]
    pixels = int(own.sum())
    box = (0, 0, 0, 0)
    if pixels:
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return SceneObject(
        thing=thing,
        label=SHAPES.index(thing.shape),
        instance=number + 1,
        box=box,
        pixels=pixels,
        visible=pixels / whole if whole else 0.0,
    )
