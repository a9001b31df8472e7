"""The figures that describe captions as a whole, how each is read, and what it came to on published captions.

Source: measured for this project on the captions that `REFERENCE` names.
"""

from dataclasses import dataclass

from mobileclip.tokenizer import CONTEXT

REFERENCE = "CapsFusion's 10,000 example triples: LAION-2B alt texts, LAION-COCO captions by BLIP, both fused by LLaMA"
"""What the reference values of `METRICS` were measured on."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure."""

    name: str
    """Key in `Measured.values`."""
    label: str
    """What it is."""
    form: str
    """"number", "share", or "mean"."""
    reading: str
    """How it is read."""
    reference: tuple[float | None, float | None, float | None] = (None, None, None)
    """Of alt texts, synthetic captions and fused ones, on `REFERENCE`."""


METRICS: tuple[Metric, ...] = tuple(
    Metric(name=name, label=label, form=form, reference=reference, reading=reading)
    for name, label, form, reference, reading in (
        ("words", "words, mean", "mean", (11.0, 8.9, 23.2), "length"),
        ("words_p5", "words, 5th percentile", "number", (3, 6, 12), "spread of length is itself a signal"),
        ("words_p95", "words, 95th percentile", "number", (27, 13, 41), "spread of length is itself a signal"),
        ("short", "at most 2 words", "share", (0.016, 0, 0.001), "DataComp's basic rule drops them"),
        ("distinct_1", "distinct words", "share", (0.221, 0.092, 0.107), "of all running words"),
        ("distinct_2", "distinct word pairs", "share", (0.827, 0.391, 0.526), "of all; low: templates"),
        ("distinct_3", "distinct word triples", "share", (0.965, 0.653, 0.791), "of all; low: templates"),
        ("vocabulary", "vocabulary", "number", (19_942, 7_792, 13_374), "the best single alarm for collapse"),
        ("trigrams", "unique word triples", "number", (87_000, 45_000, 167_000), "number of different phrases"),
        ("boilerplate", "boilerplate", "share", (0.122, 0.005, 0.103), "shops' and agencies' phrases"),
        ("openings", "ten openings", "share", (0.005, 0.115, 0.049), "begin with one of the ten commonest 3 words"),
        ("duplicates", "exact duplicates", "share", (0, 0.0061, 0), "of another image's caption: false negatives"),
        ("idf", "specificity (content-word IDF)", "mean", (7.04, 5.74, 6.31), "rare words; natural logarithm"),
        ("digits", "digits", "share", (0.032, 0.002, 0.013), "of characters"),
        ("upper", "upper case", "share", (0.172, 0.044, 0.063), "of characters"),
        ("stop", "function words", "share", (0.129, 0.403, 0.343), "high: sentences, low: lists of words"),
        ("sentence", "end like a sentence", "share", (0.08, 0.89, 0.95), "high: sentences"),
        ("concept", "name a concept", "share", (0.71, 0.94, 0.98), "coverage of the list; reference: ImageNet's words"),
        ("concepts", "concepts a caption", "mean", (1.39, 2.31, 3.31), "coverage of the list"),
        ("entropy", "entropy of concepts, bits", "mean", (None, None, None), "low: few concepts dominate"),
        ("head", "ten commonest concepts", "share", (None, None, None), "of all mentions: the head"),
        ("tail", "beyond the 100 commonest", "share", (None, None, None), "of all mentions: the tail"),
        ("recall", "content words of the alt text kept", "share", (None, 0.204, 0.890), "knowledge that stays"),
        ("nouns", "names of the alt text kept", "share", (None, 0.061, 0.699), "the reason to keep alt texts"),
        ("invented", "words that no source has", "share", (None, None, 0.286), "upper bound: paraphrases count"),
        ("tokens", "CLIP tokens, mean", "mean", (18.1, 12.3, 31.5), "start and end included"),
        ("tokens_p99", "CLIP tokens, 99th percentile", "number", (72, 20, 70), "start and end included"),
        ("long", f"more than {CONTEXT} tokens", "share", (0.0080, 0, 0.0012), "cut by the text tower"),
        ("repetition", "repeated triples inside a caption", "share", (None, None, None), "of its triples, mean"),
        ("diversity", "difference of an image's captions", "share", (None, None, None), "1 - Jaccard of their words"),
    )
)
"""All figures, in the order in which they are shown."""
