"""Solids that rays meet: where a ray enters a solid, and which way the surface faces there.

    ball = Ball(centre=(0.0, 0.5, 0.0), radii=(0.5, 0.5, 0.5))
    t = ball.hit(origin, direction)    # float32, the ray's parameter; inf where it misses

Unusual: origin and direction are three arrays (or numbers) each that broadcast against one another, so the same code
serves rays of the camera (one origin, many directions) and rays to the sun (many origins, one direction). Normals are
worked out from the point alone, and only for points that were hit. [N] is a number of rays.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Vec = tuple[Any, Any, Any]
"""x, y, z: float32 [N] or numbers."""
Rgb = tuple[float, float, float]

FAR = np.float32(np.inf)


class Solid(Protocol):
    """A closed surface."""

    def hit(self, origin: Vec, direction: Vec) -> Array:
        """Smallest positive t with `origin + t * direction` on the surface, inf without one. Origins are outside."""
        ...

    def normal(self, point: Vec) -> Vec:
        """Outward direction at points of the surface, of any length."""
        ...

    def bounds(self) -> tuple[float, float, float, float, float, float]:
        """A box around it: low x, y, z, high x, y, z."""
        ...


@dataclass(frozen=True, kw_only=True)
class Part:
    """One solid of a shape."""

    solid: Solid
    """Its surface."""
    paint: Rgb | None = None
    """Own sRGB colour, 0..1; None is the colour and material of the object."""
    glow: float = 0.0
    """Light that it gives off, as a share of its colour."""
    casts: bool = True
    """Whether it throws a shadow of its own; details on another part do not."""


@dataclass(frozen=True, kw_only=True)
class Ball:
    """An ellipsoid."""

    centre: tuple[float, float, float]
    """Metres before scaling, as all lengths here."""
    radii: tuple[float, float, float]
    """Half axes along x, y, z."""

    def hit(self, origin: Vec, direction: Vec) -> Array:
        ox, oy, oz = ((o - c) / r for o, c, r in zip(origin, self.centre, self.radii, strict=True))
        dx, dy, dz = (d / r for d, r in zip(direction, self.radii, strict=True))
        a = dx * dx + dy * dy + dz * dz
        b = ox * dx + oy * dy + oz * dz
        room = b * b - a * (ox * ox + oy * oy + oz * oz - 1)
        t = (-b - np.sqrt(np.maximum(room, 0))) / a
        return np.where((room > 0) & (t > 0), t, FAR)

    def normal(self, point: Vec) -> Vec:
        x, y, z = ((p - c) / (r * r) for p, c, r in zip(point, self.centre, self.radii, strict=True))
        return x, y, z

    def bounds(self) -> tuple[float, float, float, float, float, float]:
        return _around(self.centre, self.radii)


@dataclass(frozen=True, kw_only=True)
class Box:
    """A cuboid along the axes."""

    centre: tuple[float, float, float]
    """Its middle."""
    half: tuple[float, float, float]
    """Half its sides."""

    def span(self, origin: Vec, direction: Vec) -> tuple[Array, Array]:
        """Where rays enter and leave; they meet the box where entry < exit."""
        near: Any = np.float32(-np.inf)
        far: Any = FAR
        for o, d, c, h in zip(origin, direction, self.centre, self.half, strict=True):
            inverse = 1 / d
            middle, reach = (c - o) * inverse, h * np.abs(inverse)
            near, far = np.maximum(near, middle - reach), np.minimum(far, middle + reach)
        return near, far

    def hit(self, origin: Vec, direction: Vec) -> Array:
        near, far = self.span(origin, direction)
        return np.where((near < far) & (near > 0), near, FAR)

    def normal(self, point: Vec) -> Vec:
        q = [(p - c) / h for p, c, h in zip(point, self.centre, self.half, strict=True)]
        sizes = [np.abs(part) for part in q]
        most = np.maximum(np.maximum(sizes[0], sizes[1]), sizes[2])
        x, y, z = (np.sign(part) * (size >= most) for part, size in zip(q, sizes, strict=True))
        return x, y, z

    def bounds(self) -> tuple[float, float, float, float, float, float]:
        return _around(self.centre, self.half)


@dataclass(frozen=True, kw_only=True)
class Tube:
    """A cylinder, cone or cut cone with both caps, along y, or along z when `lies`."""

    ends: tuple[float, float]
    """Where it begins and ends on its axis."""
    radii: tuple[float, float]
    """Radius at either end."""
    centre: tuple[float, float] = (0.0, 0.0)
    """Where the axis passes: x and z, or x and y when `lies`."""
    lies: bool = False
    """Along z instead of y."""

    def _turned(self, v: Vec, *, place: bool = True) -> Vec:
        x, y, z = (v[0], v[2], v[1]) if self.lies else v
        return (x - self.centre[0], y, z - self.centre[1]) if place else (x, y, z)

    def hit(self, origin: Vec, direction: Vec) -> Array:
        ox, oy, oz = self._turned(origin)
        dx, dy, dz = self._turned(direction, place=False)
        (y0, y1), (r0, r1) = self.ends, self.radii
        k = np.float32((r1 - r0) / (y1 - y0))
        m = np.float32(r0) + k * (oy - np.float32(y0))
        a = dx * dx + dz * dz
        b = ox * dx + oz * dz
        if k:
            a = a - np.square(k * dy)
            b = b - k * m * dy
        inverse = 1 / a
        b = b * inverse
        room = b * b - (ox * ox + oz * oz - m * m) * inverse
        root = np.sqrt(room)  # NaN where the ray misses, which no comparison below holds for
        near, far = -b - root, root - b
        if k:  # a steep ray leaves the double cone for good, or never came into it
            steep, widens = a < 0, k * dy > 0
            near, far = (
                np.where(steep, np.where(widens, far, -FAR), near),
                np.where(steep, np.where(widens, FAR, near), far),
            )
        fall = 1 / dy
        low, high = (np.float32(y0) - oy) * fall, (np.float32(y1) - oy) * fall
        near = np.maximum(near, np.minimum(low, high))
        far = np.minimum(far, np.maximum(low, high))
        return np.where((near < far) & (near > 0), near, FAR)

    def normal(self, point: Vec) -> Vec:
        x, y, z = self._turned(point)
        (y0, y1), (r0, r1) = self.ends, self.radii
        k = (r1 - r0) / (y1 - y0)
        rho = np.sqrt(x * x + z * z) + 1e-9
        side = np.abs(rho - r0 - k * (y - y0))
        top, bottom = np.abs(y1 - y), np.abs(y - y0)
        cap = np.minimum(top, bottom) < side
        nx, nz = np.where(cap, 0, x / rho), np.where(cap, 0, z / rho)
        ny = np.where(cap, np.where(top < bottom, np.float32(1), np.float32(-1)), np.float32(-k))
        return (nx, nz, ny) if self.lies else (nx, ny, nz)

    def bounds(self) -> tuple[float, float, float, float, float, float]:
        (a, b), r, (x, y) = self.ends, max(self.radii), self.centre
        return (x - r, y - r, a, x + r, y + r, b) if self.lies else (x - r, a, y - r, x + r, b, y + r)


@dataclass(frozen=True, kw_only=True)
class Hull:
    """A convex solid between planes."""

    planes: tuple[tuple[float, float, float, float], ...]
    """Outward normal and its distance from the origin, `n . p <= w` inside."""
    box: tuple[float, float, float, float, float, float]
    """Its bounds."""

    def hit(self, origin: Vec, direction: Vec) -> Array:
        near: Any = np.float32(-np.inf)
        far: Any = FAR
        for nx, ny, nz, w in self.planes:
            along = ny * direction[1]
            along = along + nx * direction[0] if nx else along
            along = along + nz * direction[2] if nz else along
            t = (w - (nx * origin[0] + ny * origin[1] + nz * origin[2])) / along
            enters = along < 0
            near = np.maximum(near, np.where(enters, t, -FAR))
            far = np.minimum(far, np.where(enters, FAR, t))
        return np.where((near < far) & (near > 0), near, FAR)

    def normal(self, point: Vec) -> Vec:
        out = [np.array([nx * point[0] + ny * point[1] + nz * point[2] - w]) for nx, ny, nz, w in self.planes]
        which = np.concatenate(out).argmax(axis=0)
        table = np.asarray(self.planes, np.float32)
        return table[which, 0], table[which, 1], table[which, 2]

    def bounds(self) -> tuple[float, float, float, float, float, float]:
        return self.box


@dataclass(frozen=True, kw_only=True)
class Torus:
    """A ring whose axis is z (it stands, and one looks through it)."""

    centre: tuple[float, float, float]
    """Its middle."""
    radius: float
    """From the middle to the middle of the tube."""
    tube: float
    """Radius of the tube."""

    def hit(self, origin: Vec, direction: Vec) -> Array:
        reach = self.radius + self.tube
        near, far = Box(centre=self.centre, half=(reach, reach, self.tube)).span(origin, direction)
        out = np.full(np.shape(near), FAR, np.float32)
        chosen = np.nonzero((near < far) & (near > 0))
        ox, oy, oz = (_pick(o, chosen, out.shape) - c for o, c in zip(origin, self.centre, strict=True))
        dx, dy, dz = (_pick(d, chosen, out.shape) for d in direction)
        t, last = near[chosen], far[chosen]
        pace = 1 / np.sqrt(dx * dx + dy * dy + dz * dz)
        alive, found = np.arange(len(t)), np.full(len(t), FAR, np.float32)
        for step in range(13):  # sphere tracing (Hart 1996): the distance to the surface is a safe step
            x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
            rho = np.sqrt(x * x + y * y) - np.float32(self.radius)
            gap = np.sqrt(rho * rho + z * z) - np.float32(self.tube)
            t = t + gap * pace
            if step in (3, 6):  # most rays are there by then, or have left
                found[alive] = np.where(gap < np.float32(0.01 * self.radius), t, FAR)
                on = np.flatnonzero((gap >= np.float32(0.003 * self.radius)) & (t < last))
                alive, t, last = alive[on], t[on], last[on]
                ox, oy, oz, dx, dy, dz, pace = (c[on] if np.ndim(c) else c for c in (ox, oy, oz, dx, dy, dz, pace))
                gap = gap[on]
        found[alive] = np.where(gap < np.float32(0.02 * self.radius), t, FAR)
        out[chosen] = found
        return out

    def normal(self, point: Vec) -> Vec:
        x, y, z = (p - c for p, c in zip(point, self.centre, strict=True))
        scale = 1 - self.radius / (np.sqrt(x * x + y * y) + 1e-9)
        return x * scale, y * scale, z

    def bounds(self) -> tuple[float, float, float, float, float, float]:
        reach = self.radius + self.tube
        return _around(self.centre, (reach, reach, self.tube))


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """A plate cut along an outline, front and back flat."""

    outline: Callable[[Array, Array], Array]
    """x, y -> a smooth number, negative inside."""
    depth: float
    """Half its thickness."""
    box: Box
    """What the plate lies in."""

    def hit(self, origin: Vec, direction: Vec) -> Array:
        near, far = self.box.span(origin, direction)
        out = np.full(np.shape(near), FAR, np.float32)
        chosen = np.nonzero((near < far) & (near > 0))
        ox, oy = (_pick(o, chosen, out.shape) for o in origin[:2])
        dx, dy = (_pick(d, chosen, out.shape) for d in direction[:2])
        start, reach = near[chosen], (far - near)[chosen]
        found = np.where(self.outline(ox + start * dx, oy + start * dy) < 0, start, FAR)
        rest = np.flatnonzero(found == FAR)  # past the front face: through the wall of the cut, or not at all
        ox, oy, dx, dy = (c[rest] if np.ndim(c) else c for c in (ox, oy, dx, dy))
        start, reach = start[rest], reach[rest]
        share = np.full(len(rest), FAR, np.float32)
        for step in (1.0, 0.6, 0.3, 0.12):
            t = start + np.float32(step) * reach
            share[self.outline(ox + t * dx, oy + t * dy) < 0] = step
        on = np.flatnonzero(share < FAR)  # the wall lies between this step and the one before
        before, after = share[on] * np.float32(0.4), share[on]
        x, y, dx, dy = (c[on] if np.ndim(c) else c for c in (ox, oy, dx, dy))
        for _ in range(4):
            middle = (before + after) / 2
            t = start[on] + middle * reach[on]
            inside = self.outline(x + t * dx, y + t * dy) < 0
            before, after = np.where(inside, before, middle), np.where(inside, middle, after)
        share[on] = after
        found[rest] = start + share * reach
        out[chosen] = found
        return out

    def normal(self, point: Vec) -> Vec:
        x, y, z = point
        flat = np.abs(z) > 0.985 * self.depth
        step = 1e-3
        gx = self.outline(x + step, y) - self.outline(x - step, y)
        gy = self.outline(x, y + step) - self.outline(x, y - step)
        length = np.sqrt(gx * gx + gy * gy) + 1e-12
        bevel = 0.25 * np.sign(z) * ~flat
        return np.where(flat, 0, gx / length), np.where(flat, 0, gy / length), np.where(flat, np.sign(z), bevel)

    def bounds(self) -> tuple[float, float, float, float, float, float]:
        return self.box.bounds()


def _around(
    centre: tuple[float, float, float], half: tuple[float, float, float]
) -> tuple[float, float, float, float, float, float]:
    (x, y, z), (a, b, c) = centre, half
    return x - a, y - b, z - c, x + a, y + b, z + c


def _pick(values: Any, chosen: tuple[NDArray[np.intp], ...], shape: tuple[int, ...]) -> Any:
    return np.broadcast_to(values, shape)[chosen] if np.ndim(values) else values
