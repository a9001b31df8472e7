"""Which part of which object each pixel of a scene shows, and how far away it is.

    view = View(plan, size)
    seen = visible(plan, view, bodies_of(plan, size))

Unusual: each part of an object is traced only inside its bounds in the picture; the bounds of all parts and of their
shadows are projected in one go.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobileclip.data.scene_layout import Layout, Thing
from mobileclip.data.scene_shapes import SOLIDS
from mobileclip.data.scene_solids import FAR, Array, Part, Vec

_CORNERS = ((0, 3, 0, 3, 0, 3, 0, 3), (1, 1, 4, 4, 1, 1, 4, 4), (2, 2, 2, 2, 5, 5, 5, 5))  # of bounds: x, y, z
_FOOT = (-0.5, 0.0, -0.5, 0.5, 0.0, 0.5)  # ground that an object keeps in the dark


class View:
    """Rays through the middles of pixels; as the camera does not roll, y and z depend on the row alone."""

    def __init__(self, plan: Layout, size: int) -> None:
        camera = plan.camera
        self.size = size
        self.camera = camera
        self.sin, self.cos = (np.float32(f(camera.pitch)) for f in (np.sin, np.cos))
        self.focal = np.float32(camera.focal)
        self.middles = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size) - np.float32(0.5)

    def rays(self, u: Any, v: Any) -> Vec:
        """Directions, one unit deep, through places of the picture."""
        rise = -v / self.focal
        tiny = np.float32(1e-7)  # no component is exactly zero, which a slab test would divide by
        return u / self.focal + tiny, rise * self.cos - self.sin + tiny, rise * self.sin + self.cos


Rect = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, ends exclusive."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """An object's parts, and which pixels they and their shadows can cover."""

    thing: Thing
    """What it is."""
    parts: tuple[Part, ...]
    """Those with a paint of their own come last."""
    rects: list[Rect]
    """Of each part, in the picture."""
    shadows: list[Rect]
    """Of the shadow of each part, in a picture of half the size."""
    foot: Rect
    """Of the ground under it, in a picture of half the size."""


def bodies_of(plan: Layout, size: int) -> list[Body]:
    """Parts and bounds of all objects, projected in one go."""
    shapes = [
        tuple(sorted(SOLIDS[thing.shape](*thing.variant), key=lambda part: part.paint is not None))
        for thing in plan.things
    ]
    counts = [len(parts) + 1 for parts in shapes]
    bounds = np.array([row for parts in shapes for row in (*(part.solid.bounds() for part in parts), _FOOT)])
    rows = [(*thing.scale, math.sin(thing.yaw), math.cos(thing.yaw), *thing.place) for thing in plan.things]
    sx, sy, sz, sin, cos, px, pz = np.repeat(np.array(rows), counts, axis=0).T[:, :, None]
    x, y, z = bounds[:, _CORNERS[0]] * sx, bounds[:, _CORNERS[1]] * sy, bounds[:, _CORNERS[2]] * sz  # [P, 8]
    x, z = px + x * cos + z * sin, pz - x * sin + z * cos
    lx, ly, lz = plan.light.towards
    x, z = np.concatenate((x, x - y * (lx / ly))), np.concatenate((z, z - y * (lz / ly)))
    y = np.concatenate((y, 0 * y)) - plan.camera.height
    turn, tilt = math.cos(plan.camera.pitch), math.sin(plan.camera.pitch)
    depth = z * turn - y * tilt
    sizes = np.repeat((float(size), float((size + 1) // 2)), len(bounds))[:, None]
    scale = plan.camera.focal * sizes / np.maximum(depth, 0.05)
    across, down = x * scale + sizes / 2, sizes / 2 - (y * turn + z * tilt) * scale
    past = depth.min(axis=1) < 0.3  # a shadow that falls past the camera
    across[past, :2], down[past, 0] = (0, size), size
    corners = (across.min(axis=1) - 1, down.min(axis=1) - 1, across.max(axis=1) + 2, down.max(axis=1) + 2)
    rects = np.clip(np.stack(corners, axis=1), 0, sizes).astype(np.int64).tolist()
    bodies, at = [], 0
    for thing, parts in zip(plan.things, shapes, strict=True):
        here, there = rects[at : at + len(parts)], rects[len(bounds) + at : len(bounds) + at + len(parts) + 1]
        bodies.append(Body(thing=thing, parts=parts, rects=here, shadows=there[:-1], foot=there[-1]))
        at += len(parts) + 1
    return bodies


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The points where rays meet objects, sorted by object and part."""

    at: NDArray[np.intp]
    """[N] positions in the picture, row by row."""
    t: Array
    """[N] their depth."""
    runs: list[tuple[int, int, int, int]]
    """Object, part, and where its points begin and end."""
    instances: NDArray[np.uint8]
    """[S, S] object number plus one."""
    whole: list[int]
    """How many pixels each object would have were it alone."""


def visible(plan: Layout, view: View, bodies: list[Body]) -> Seen:
    """Which part of which object each pixel shows."""
    size = view.size
    nearest = np.full((size, size), FAR, np.float32)
    shown = np.full((size, size), 255, np.uint8)  # object * 16 + part
    whole = []
    for number, body in enumerate(bodies):
        thing = body.thing
        x0, y0, x1, y1 = around = union(body.rects)
        if x0 >= x1 or y0 >= y1:
            whole.append(0)
            continue
        ox, oy, oz = local(thing, (-thing.place[0], plan.camera.height, -thing.place[1]))
        rays = local(thing, view.rays(view.middles[None, x0:x1], view.middles[y0:y1, None]))
        eye = (np.float32(ox), np.float32(oy), np.float32(oz))
        near, which = trace(body.parts, eye, rays, body.rects, around)
        whole.append(int(np.count_nonzero(near < FAR)))
        here = (slice(y0, y1), slice(x0, x1))
        which += np.uint8(number * 16)
        np.copyto(shown[here], which, where=near < nearest[here])
        np.minimum(nearest[here], near, out=nearest[here])
    at = np.flatnonzero(shown != 255)
    keys = shown.ravel().take(at)
    order = np.argsort(keys, kind="stable")
    at, keys = at[order], keys[order]
    starts = [0, *(np.flatnonzero(keys[1:] != keys[:-1]) + 1).tolist(), len(at)] if len(at) else [0]
    runs = [(int(keys[a]) >> 4, int(keys[a]) & 15, a, b) for a, b in pairwise(starts)]
    instances: NDArray[np.uint8] = np.where(shown == 255, np.uint8(0), (shown >> np.uint8(4)) + np.uint8(1))
    return Seen(at=at, t=nearest.ravel().take(at), runs=runs, instances=instances, whole=whole)


def union(rects: list[Rect]) -> Rect:
    x0, y0, x1, y1 = zip(*rects, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def local(thing: Thing, v: Vec) -> Vec:
    """A vector of the world -> the frame of the shape."""
    sin, cos = math.sin(thing.yaw), math.cos(thing.yaw)
    sx, sy, sz = thing.scale
    return v[0] * (cos / sx) - v[2] * (sin / sx), v[1] / sy, v[0] * (sin / sz) + v[2] * (cos / sz)


def trace(
    parts: tuple[Part, ...], origin: Vec, direction: Vec, rects: list[Rect], around: Rect
) -> tuple[Array, NDArray[np.uint8]]:
    """The nearest part along each ray of the grid `around` [h, w]: its parameter (inf without one) and its number.

    Either vector may be three numbers; y may be the same along rows. `rects` are the parts' own columns and rows.
    """
    left, top, right, bottom = around
    near = np.full((bottom - top, right - left), FAR, np.float32)
    which = np.zeros(near.shape, np.uint8)
    for k, (part, (x0, y0, x1, y1)) in enumerate(zip(parts, rects, strict=True)):
        if x0 >= x1 or y0 >= y1:
            continue
        rows, columns = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
        v = [
            c if not isinstance(c, np.ndarray) or not c.ndim else c[rows, columns] if c.shape[1] > 1 else c[rows]
            for c in (*origin, *direction)
        ]
        t = part.solid.hit((v[0], v[1], v[2]), (v[3], v[4], v[5]))
        best = near[rows, columns]
        if k:
            np.copyto(which[rows, columns], np.uint8(k), where=t < best)
        np.minimum(best, t, out=best)
    return near, which
