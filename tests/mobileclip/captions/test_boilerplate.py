"""Boilerplate: what goes, and what a caption may say."""

import json
from pathlib import Path

import pytest

from mobileclip.captions.flags import Flag
from mobileclip.captions.text.boilerplate import is_general, trimmed, without
from mobileclip.captions.text.rules import settle
from mobileclip.captions.text.words import of_text
from mobileclip.data.scene_captions import alt_caption, captions
from mobileclip.data.scene_layout import layout


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Green vase - Stock Photo, Alamy", "Green vase"),
        ("Green vase | Getty Images", "Green vase"),
        ("Green Vase Royalty-Free Stock Image #123456", "Green Vase"),
        ("Stock illustration of a green vase", "a green vase"),
        ("iStockphoto 4711: green vase", "green vase"),
        ("Vase (free vector)", "Vase"),
        ("Premium Photo | green vase", "green vase"),
        ("Shop green vase online, free UK delivery on orders over 20", "green vase"),
        ("Green vase - Buy now at the lowest prices online", "Green vase"),
        ("Green vase, add to cart", "Green vase"),
        ("Only $5.99 - green vase", "green vase"),
        ("Green vase. Item no. A-4711", "Green vase."),
        ("Green vase [click to zoom in]", "Green vase"),
        ("Click on the image for more - green vase", "green vase"),
        ("Green vase - Amazon", "Green vase"),
        ("Green vase HD wallpapers for desktop", "Green vase"),
        ("A green vase on a table. Photo by Ann Smith", "A green vase on a table"),
        ("A green vase. © 2012 A. Smith", "A green vase."),
        ("Green vase | 12 reviews | Sold out", "Green vase"),
        ("Green vase (image 2 of 9)", "Green vase"),
        ("Green vase, see more details", "Green vase"),
    ],
)
def test_what_goes(text: str, wanted: str) -> None:
    assert without(text, of_text(text)) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "bananas are for sale at a market stall",
        "a man at a computer shopping online",
        "a photo by the window",
        "the Amazon river in Brazil",
        "a ship on the sea",
        "people in a shop, one of them pays in order to buy bread",
        "a bedroom with a floral wallpaper",
        "a stock car race",
        "cattle stock the field, a white cow in front",
        "Dr. Smith - Director of Research",
        "two signs, one says save the whales",
        "a return to the office, press conference",
        "a bag of apples by the door",
        "a page from a book on royalty",
    ],
)
def test_what_stays(text: str) -> None:
    assert without(text, of_text(text)) == text


def test_edges() -> None:
    assert trimmed("| - red ball -, ") == "red ball"
    assert trimmed("-5 degrees (cold)") == "-5 degrees (cold)"
    assert trimmed(" - | ; ") == ""


def test_general_words() -> None:
    assert is_general(of_text("Image not available"))
    assert is_general(of_text("page 3 of the gallery"))
    assert not is_general(of_text("picture of a dog"))


def test_known_boilerplate_is_found_and_true_captions_are_left_alone() -> None:
    """Hit rates on texts whose faults are known; the phrases there are not those of the tests above."""
    known = [alt_caption(layout(7, index)) for index in range(3_000)]
    found = settle([alt.text for alt in known])
    said = [bool(flags & Flag.BOILERPLATE) for flags in found.flags]
    hits = [one for one, alt in zip(said, known, strict=True) if "boilerplate" in alt.faults]
    clean = ("described", "side_object", "other_image")
    false = [
        one
        for one, alt in zip(said, known, strict=True)
        if alt.kind in clean and not {"boilerplate", "long"} & set(alt.faults)
    ]
    assert sum(hits) >= 0.97 * len(hits)
    assert not any(false)
    true = [text for index in range(500) for text in captions(layout(8, index), "quality", 2)]
    column = settle(true)
    assert column.texts == true
    assert not any(column.flags)


def test_captions_of_photos_are_left_alone(photos: Path) -> None:
    lines = (photos.parent / "captions.jsonl").read_text("utf-8").splitlines()
    texts = [" ".join(text.split()) for line in lines for text in json.loads(line)["captions"]]
    found = settle(texts)
    changed = [text for text, flags in zip(texts, found.flags, strict=True) if flags & ~Flag.LEAD_IN]
    assert len(texts) > 400
    assert len(changed) <= 0.005 * len(texts), changed
