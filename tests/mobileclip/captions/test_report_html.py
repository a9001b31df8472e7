"""Parts of the report: elements whose text is escaped, figures, tables, histograms and their pictures."""

from html.parser import HTMLParser
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip.captions.report.data import MEASURES
from mobileclip.captions.report.html import el, foreign, number, page, seconds, size, table
from mobileclip.captions.report.plots import Histogram, distributions


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_text_stays_text(text: str) -> None:
    class One(HTMLParser):
        found: ClassVar[list[str]] = []

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            assert tag in ("p", "span")
            self.found = [value for name, value in attrs if name == "title"] or self.found

    parser = One()
    parser.feed(el("p", foreign(text), text, title=text).encode("utf-8").decode())
    parser.close()
    assert len(parser.found) == 1


def test_elements_and_figures() -> None:
    assert (
        el("a", "<", class_="x", aria_label='"', hidden=True, href=None)
        == '<a class="x" aria-label="&quot;" hidden>&lt;</a>'
    )
    assert [number(value, "share") for value in (0, 0.001, 0.5, 1)] == ["0%", "0.10%", "50.0%", "100%"]
    assert [number(value, "mean") for value in (0.0, 1.0, -0.1234, 1234.5)] == ["0", "1.00", "−0.123", "1,234"]
    assert (number(None), number(float("nan")), number(12_345)) == ("–", "–", "12,345")
    assert [seconds(value) for value in (0.5, 90, 9_000)] == ["0.5 s", "1.5 min", "2.5 h"]
    assert [size(value) for value in (12, 1_200, 2.5e12, 1e15)] == ["12 B", "1 kB", "2.5 TB", "1,000.0 TB"]
    assert table(["a"], []) == ""
    assert "hollow" not in table(["a", "hollow", "c"], [["x", "", "1"], ["y", "", "2"]])
    assert page("t", []).startswith("<!doctype html>\n<html")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=200), st.floats(0.01, 1))
def test_quantiles_are_those_of_the_values(values: list[float], share: float) -> None:
    histogram = Histogram(*MEASURES["clip"])
    histogram.add(values[: len(values) // 2])
    histogram.add([*values[len(values) // 2 :], float("nan")])
    assert histogram.count == len(values)
    assert histogram.mean == pytest.approx(np.mean(values), abs=1e-9)
    exact = float(np.quantile(values, share, method="inverted_cdf"))
    assert histogram.quantile(share) == pytest.approx(exact, abs=0.0021)
    assert histogram.between(-1, 1, 7).sum() == pytest.approx(len(values))


def test_a_distribution_is_a_picture_with_words() -> None:
    histogram = Histogram(0, 1, 100)
    histogram.add([0.2, 0.3, 0.4])
    found = distributions("quality", {"coca": histogram, "hollow": Histogram(0, 1, 100)})
    assert 'aria-label="quality, coca: median 0.300, from 0.200 to 0.400"' in found
    assert "hollow" not in found
    assert distributions("quality", {}) == ""


def test_what_cannot_be_seen_is_shown() -> None:
    shown = {
        "a\u202eb": 'a<span class="code">U+202E</span>b',
        "a\nb": 'a<span class="code">U+000A</span>b',
        "half \ud800 pair": "half \ufffd pair",
        "e" + "\u0301" * 50: "e\u0301\u0301…",
        "family \N{MAN}\u200d\N{WOMAN}": "family \N{MAN}\u200d\N{WOMAN}",
        "x" * 700: "x" * 600 + ' … <span class="code">700 characters</span>',
        "<b>": "&lt;b&gt;",
    }
    for text, expected in shown.items():
        assert foreign(text) == f'<span dir="auto" class="foreign">{expected}</span>'
