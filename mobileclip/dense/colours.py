"""Colours of classes and of distances, made of formulas: the same on every machine, and with no package for them.

Both are chosen in Oklab (Ottosson, 2020, https://bottosson.github.io/posts/oklab/), where equal steps look equal.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Colours = npt.NDArray[np.uint8]

_GOLDEN = (3 - 5**0.5) * np.pi  # the angle that keeps any number of hues apart
_LIGHTNESS = (0.70, 0.52, 0.84, 0.61, 0.77)  # of classes one after the other, so that near hues differ
_CHROMA = (0.15, 0.13, 0.11, 0.17, 0.09)
_TO_CONES = np.array(  # Oklab -> cube roots of cone responses
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_TO_RGB = np.array(  # cone responses -> linear sRGB
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


@lru_cache
def palette(count: int) -> Colours:
    """[count, 3] RGB, a colour a class; the first ones are the same for every count."""
    place = np.arange(count, dtype=np.float64)
    lightness = np.array(_LIGHTNESS)[np.arange(count) % len(_LIGHTNESS)]
    chroma = np.array(_CHROMA)[np.arange(count) // 2 % len(_CHROMA)]
    return _fixed(_rgb(lightness, chroma, 0.5 + place * float(_GOLDEN)))


@lru_cache
def distances() -> Colours:
    """[256, 3] RGB from near to far: light yellow, red, violet, dark blue. Lightness falls evenly, so that it reads
    in grey too, and for those who do not tell red from green."""
    share = np.linspace(0, 1, 256)
    hue = np.pi * (0.58 - 1.1 * share)
    chroma = 0.05 + 0.13 * np.sin(np.pi * share) ** 0.8
    return _fixed(_rgb(0.95 - 0.73 * share, chroma, hue))


def depth_colours(
    metres: npt.NDArray[np.floating], low: float | None = None, high: float | None = None
) -> tuple[Colours, tuple[float, float]]:
    """Metres [H, W] -> RGB [H, W, 3] and the distances at the two ends of the colours.

    Args:
        low, high: in metres; the 2nd and 98th hundredth of what is known if left out. Beyond them the end's colour.

    What has no depth (0, or not finite) is black.
    """
    known = np.isfinite(metres) & (metres > 0)
    values = metres[known]
    if low is None:
        low = float(np.percentile(values, 2)) if values.size else 0.0
    if high is None:
        high = float(np.percentile(values, 98)) if values.size else 1.0
    share = (np.where(known, metres, low) - low) / max(high - low, 1e-6)
    out = distances()[(np.clip(share, 0, 1) * 255).round().astype(np.uint8)]
    out[~known] = 0
    return out, (low, high)


def _rgb(
    lightness: npt.NDArray[np.float64], chroma: npt.NDArray[np.float64], hue: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Oklab's cylinder form [N] each -> sRGB [N, 3], 0..1; chroma is reduced where the screen has no such colour."""
    out = np.zeros((len(lightness), 3))
    left = np.ones(len(lightness), bool)
    for part in np.linspace(1, 0, 41):
        lab = np.stack([lightness, chroma * part * np.cos(hue), chroma * part * np.sin(hue)], 1)
        linear = (lab @ _TO_CONES.T) ** 3 @ _TO_RGB.T
        fits = left & (linear >= -1e-6).all(1) & (linear <= 1 + 1e-6).all(1)
        out[fits] = linear[fits]
        left &= ~fits
    out = np.clip(out, 0, 1)
    return np.where(out <= 0.0031308, 12.92 * out, 1.055 * out ** (1 / 2.4) - 0.055)  # IEC 61966-2-1


def _fixed(colours: npt.NDArray[np.float64]) -> Colours:
    out = (colours * 255).round().astype(np.uint8)
    out.flags.writeable = False
    return out
