"""Captions of procedural scenes at three graded qualities, and class names and templates for zero-shot evaluation.

    captions(plan, "quality", 4)    # true: all objects, attributes, relations; four wordings
    captions(plan, "short", 4)      # true: the main object alone
    captions(plan, "alt", 1)        # as the web would have it: partial, wrong, boilerplate, of another image

Unusual: what goes wrong in `alt`, and how often, are arguments (`AltNoise`), and `alt_caption` says what went wrong in
each, so a filter or a caption policy can be scored against the truth. Everything follows from (seed, index, quality,
number of the wording): no order of calls matters.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, TypeVar

from mobileclip.data.scene_layout import CAPTION, Layout, Thing, layout, relations, stream
from mobileclip.data.scene_words import COLOURS, SETTINGS, SHAPES
from mobileclip.errors import DataError, UnknownName

_T = TypeVar("_T")

Quality = Literal["alt", "short", "quality"]
QUALITIES: tuple[Quality, ...] = ("alt", "short", "quality")
"""From worst to best."""

RELATIONS: Mapping[str, tuple[str, ...]] = {
    "left": ("to the left of", "left of", "on the left side of"),
    "right": ("to the right of", "right of", "on the right side of"),
    "behind": ("behind", "farther away than", "further back than"),
    "front": ("in front of", "closer than", "nearer than"),
}
"""How captions say what `relations` finds."""

WORDS: Mapping[str, tuple[str, ...]] = {
    "small": ("small", "little"),
    "large": ("large", "big"),
    "matte": ("matte", "plain"),
    "shiny": ("shiny", "glossy"),
    "metal": ("metal", "metallic"),
    "glass": ("glass",),
    "striped": ("striped",),
    "checkered": ("checkered", "checked"),
    "dotted": ("dotted", "spotted"),
    "wooden": ("wooden",),
}
"""Words of sizes and materials; names of colours and shapes have no others."""


@dataclass(frozen=True, kw_only=True)
class AltNoise:
    """How often a web text is bad, and how. The first six exclude one another; what remains describes the main object.

    Defaults follow what was measured on the alt text of LAION samples (12 % boilerplate, 1.6 % of two words or fewer,
    0.8 % beyond 77 tokens, one in six with capitals); shares of wrong text are of the order that caption filters find.
    """

    other_image: float = 0.08
    """Share that describes another scene of the corpus."""
    no_content: float = 0.05
    """Share that says nothing of any picture."""
    file_name: float = 0.07
    """Share that is a file's name, of a camera or with the shape in it."""
    background_only: float = 0.10
    """Share that names the place alone."""
    side_object: float = 0.10
    """Share that describes an object which is not the main one, where there is one."""
    terse: float = 0.02
    """Share of one or two words."""
    wrong_shape: float = 0.06
    """Share of the remaining texts that name another shape."""
    wrong_colour: float = 0.12
    """Share of the remaining texts that name another colour, if they name one."""
    no_colour: float = 0.45
    """Share of the remaining texts that name no colour."""
    no_material: float = 0.80
    """Share of the remaining texts that name no material."""
    boilerplate: float = 0.12
    """Share of all texts with a shop's, an agency's or a site's phrase added."""
    title_case: float = 0.30
    """Share of all texts in title case."""
    long: float = 0.008
    """Share of all texts drowned in tags, beyond 77 tokens."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise DataError(f"noise {field.name} is {value}: a share of 0 to 1 is allowed; give such a number.")
        total = sum(getattr(self, name) for name in _EXCLUSIVE)
        if total > 1 + 1e-9:
            raise DataError(
                f"noise shares {', '.join(_EXCLUSIVE)} add up to {total:g}: they exclude one another, so at most 1 is "
                "allowed; lower some."
            )


_EXCLUSIVE = ("other_image", "no_content", "file_name", "background_only", "side_object", "terse")


class Alt(NamedTuple):
    """A web text and what is wrong with it."""

    text: str
    """As a page had it."""
    kind: str
    """A field of `AltNoise` for the first six, else "described"."""
    faults: tuple[str, ...]
    """Further fields of `AltNoise` that apply: "wrong_shape", "wrong_colour", "boilerplate", ..."""


def class_names(*, fine: bool = False) -> list[str]:
    """Names of the classes in the order of `Layout.label`, or with `fine` of `fine_label`: "ball", or "red ball"."""
    return [f"{colour} {shape}" for shape in SHAPES for colour in COLOURS] if fine else list(SHAPES)


def fine_label(plan: Layout) -> int:
    """Class of a scene among `class_names(fine=True)`."""
    return SHAPES.index(plan.main.shape) * len(COLOURS) + tuple(COLOURS).index(plan.main.colour)


def templates() -> list[str]:
    """Sentences for zero-shot classification; `{}` is the name of a class."""
    return [
        "a photo of a {}.",
        "a picture of a {}.",
        "a {} in the foreground.",
        "there is a {}.",
        "a photo of the {}.",
        "a {} on the ground.",
    ]


def captions(
    scene: Layout, quality: Quality, count: int = 1, *, noise: AltNoise | None = None, corpus: int | None = None
) -> list[str]:
    """`count` wordings of one quality, different ones where the scene has enough to say.

    `corpus` is the number of scenes that a caption "from another image" may come from, default 2^20.

    Raises:
        UnknownName: no such quality.
        DataError: `count` is less than 1.
    """
    if quality not in QUALITIES:
        raise UnknownName("caption quality", quality, QUALITIES)
    if count < 1:
        raise DataError(f"{count} captions: at least 1 is allowed; ask for one or more.")
    if quality == "alt":
        return [alt_caption(scene, number, noise=noise, corpus=corpus).text for number in range(count)]
    found: list[str] = []
    for number in range(count):
        for attempt in range(6):
            rng = _stream(scene, quality, number, attempt)
            text = _short(rng, scene) if quality == "short" else _full(rng, scene)
            if text not in found:
                break
        found.append(text)
    return found


def alt_caption(scene: Layout, number: int = 0, *, noise: AltNoise | None = None, corpus: int | None = None) -> Alt:
    """Web text `number` of a scene, and what is wrong with it."""
    noise = noise or AltNoise()
    rng = _stream(scene, "alt", number, 0)
    draw, kind = rng.random(), "described"
    for name in _EXCLUSIVE:
        draw -= getattr(noise, name)
        if draw < 0:
            kind = name
            break
    if kind == "side_object" and len(scene.things) == 1:
        kind = "described"
    faults: list[str] = []
    if kind == "other_image":
        other = rng.randrange(corpus or 1 << 20)
        source = layout(scene.seed, other if other != scene.index else other + 1)
        text = _web(rng, source, source.main, noise, [])
    elif kind == "no_content":
        text = _pick(rng, _NOTHING).format(n=rng.randrange(1, 999))
    elif kind == "file_name":
        text = _file_name(rng, scene)
    elif kind == "background_only":
        text = _pick(rng, ("{0} {1}", "{1} {0}", "{1}", "{0}, {1} view", "my {0} {1}")).format(
            _pick(rng, SETTINGS[scene.setting].titles), _pick(rng, ("photo", "scene", "day", "picture", "background"))
        )
    elif kind == "terse":
        text = _pick(rng, (scene.main.shape, f"{scene.main.colour} {scene.main.shape}", "photo", "image"))
    else:
        thing = scene.main if kind == "described" else _pick(rng, scene.things[1:])
        text = _web(rng, scene, thing, noise, faults)
    if rng.random() < noise.boilerplate:
        faults.append("boilerplate")
        text = _pick(rng, _BOILERPLATE).format(text, n=rng.randrange(100, 99_999))
    if rng.random() < noise.long:
        faults.append("long")
        text = ", ".join((text, *(_pick(rng, _TAGS) for _ in range(60))))
    if rng.random() < noise.title_case:
        text = text.title()
    return Alt(text, kind, tuple(faults))


def _stream(scene: Layout, quality: Quality, number: int, attempt: int) -> random.Random:
    """Its own random numbers for each wording, as `stream` takes purposes below 256."""
    rng = stream(scene.seed, scene.index, CAPTION)
    return random.Random(rng.getrandbits(64) ^ (QUALITIES.index(quality) << 56 | number << 16 | attempt))


def _pick(rng: random.Random, items: tuple[_T, ...]) -> _T:
    return items[int(rng.random() * len(items))]


def _name(rng: random.Random, thing: Thing, *, size: bool = True, material: bool = True, article: str = "a") -> str:
    """A thing in words: "a big red striped ball"."""
    words = [thing.colour]
    if material:
        words.append(_pick(rng, WORDS[thing.material]))
    words.append(thing.shape)
    if size and thing.size in WORDS:
        words.insert(0, _pick(rng, WORDS[thing.size]))
    if article == "a" and words[0][0] in "aeiou":
        article = "an"
    return " ".join((article, *words) if article else words)


def _short(rng: random.Random, scene: Layout) -> str:
    """The main object in one sentence."""
    what = _name(rng, scene.main, size=rng.random() < 0.5, material=rng.random() < 0.7)
    where = _pick(rng, SETTINGS[scene.setting].phrases)
    return _pick(
        rng,
        (
            f"{what}.",
            f"a photo of {what}.",
            f"{what} {where}.",
            f"a picture of {what} {where}.",
            f"there is {what} {where}.",
            f"{what} in the foreground.",
            f"a close view of {what}.",
        ),
    )


def _full(rng: random.Random, scene: Layout) -> str:
    """All objects with all attributes, how they stand to one another, the place and the light."""
    main, others = scene.main, list(scene.things[1:])
    where = _pick(rng, SETTINGS[scene.setting].phrases)
    light = _pick(rng, _lights(scene))
    names = {id(thing): _name(rng, thing) for thing in scene.things}
    first = names[id(main)]
    if not others:
        opening = (
            f"{first} {where}{light}.",
            f"a photo of {first} {where}{light}.",
            f"there is {first} {where}{light}, and nothing else.",
            f"a single object {where}: {first}{light}.",
        )
        return _pick(rng, opening)
    if rng.random() < 0.3:
        rng.shuffle(others)
    clauses, last = [], main
    for thing in others:
        anchor = main if rng.random() < 0.7 else last
        true = relations(thing, anchor)
        if true:
            relation = _pick(rng, RELATIONS[_pick(rng, true)])
            clauses.append(f"{names[id(thing)]} {relation} {_again(rng, scene, anchor)}")
        else:
            clauses.append(names[id(thing)])
        last = thing
    listed = clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])} and {clauses[-1]}"
    if rng.random() < 0.2 and len(others) <= 3:  # begin with another object
        side = relations(main, others[-1])
        if side:
            relation = _pick(rng, RELATIONS[_pick(rng, side)])
            rest = "".join(f", with {clause}" for clause in clauses[:-1])
            return f"{first} is {relation} {names[id(others[-1])]} {where}{rest}{light}."
    return _pick(
        rng,
        (
            f"{first} {where}, with {listed}{light}.",
            f"{first} {where}{light}, {listed}.",
            f"a photo of {first} {where}, {listed}{light}.",
            f"{where}, there is {first}, and {listed}{light}.",
            f"in the foreground {first} {where}; also {listed}{light}.",
        ),
    )


def _again(rng: random.Random, scene: Layout, thing: Thing) -> str:
    """A thing that was or will be named, briefly: by its shape where no other has it, else by its colour, too."""
    alone = sum(other.shape == thing.shape for other in scene.things) == 1
    return f"the {thing.shape}" if alone and rng.random() < 0.6 else f"the {thing.colour} {thing.shape}"


def _lights(scene: Layout) -> tuple[str, ...]:
    light = scene.light
    out = ["", ""]
    if light.warmth != "neutral":
        out.append(f", in {light.warmth} light")
    if light.brightness != "normal":
        out.append(f", in {light.brightness} light")
    if light.side != "above":
        out.append(f", lit from the {light.side}")
    return tuple(out)


def _web(rng: random.Random, scene: Layout, thing: Thing, noise: AltNoise, faults: list[str]) -> str:
    """A thing as a page would have it; what is wrong is added to `faults`."""
    shape, words = thing.shape, []
    if rng.random() < noise.wrong_shape:
        faults.append("wrong_shape")
        shape = _other(rng, SHAPES, tuple(other.shape for other in scene.things))
    if rng.random() >= noise.no_colour:
        if rng.random() < noise.wrong_colour:
            faults.append("wrong_colour")
            words.append(_other(rng, tuple(COLOURS), (thing.colour,)))
        else:
            words.append(thing.colour)
    else:
        faults.append("no_colour")
    if rng.random() >= noise.no_material:
        words.append(_pick(rng, WORDS[thing.material]))
    else:
        faults.append("no_material")
    what = " ".join((*words, shape))
    title = _pick(rng, SETTINGS[scene.setting].titles)
    return _pick(rng, _WEB).format(
        what, title, maker=_pick(rng, _MAKERS), n=rng.randrange(2, 400), year=rng.randrange(2004, 2025)
    )


def _other(rng: random.Random, items: tuple[str, ...], but: tuple[str, ...]) -> str:
    return _pick(rng, tuple(item for item in items if item not in but))


def _file_name(rng: random.Random, scene: Layout) -> str:
    number = rng.randrange(1, 9_999)
    stem = _pick(
        rng,
        (
            f"IMG_{number:04d}",
            f"DSC{number:05d}",
            f"image{number}",
            f"{scene.main.shape}-{number}",
            f"{scene.main.colour}_{scene.main.shape}_{number % 10}",
            f"{rng.getrandbits(32):08x}",
        ),
    )
    return stem + _pick(rng, (".jpg", ".JPG", ".png", "_small.jpg", ""))


_MAKERS = ("Zenko", "Altera", "Nordvik", "Casa Lima", "Fenwick", "Orbita", "Mirelle", "Tokari", "Bramble & Co", "Uvex")
_WEB = (
    "{0}",
    "{0}",
    "{0} {1}",
    "{1} {0}",
    "{maker} {0}",
    "{0} by {maker}",
    "the {0} from our {1} collection",
    "{0} - {1} {year}",
    "{maker} {1} {0}, {n} cm",
    "how to paint a {0}",
    "our {1} with a {0}",
    "{0} (#{n})",
    "{0} | {maker}",
    "new {0} for your {1}",
)
_NOTHING = (
    "image may contain: indoor",
    "photo {n}",
    "untitled",
    "click to enlarge",
    "loading...",
    "image not available",
    "page {n} of gallery",
    "posted by admin",
    "slide {n}",
)
_BOILERPLATE = (
    "{0} stock photo",
    "{0} - royalty free image {n}",
    "buy {0} online, free shipping",
    "{0} | best price guaranteed",
    "{0} wallpaper hd download",
    "{0} for sale, item {n}",
    "shutterstock {n}: {0}",
    "{0} - click here to see more",
    "{0}. All rights reserved",
)
_TAGS = (
    "sale",
    "free shipping",
    "best offer",
    "new arrival",
    "gift idea",
    "4k",
    "vintage",
    "handmade",
    "trending",
    "home decor",
)
