"""A model as an encoder: the same embeddings, of unit length, and the model as it was before."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mobileclip.errors import MobileClipError
from mobileclip.evaluate.encoder import ModelEncoder, unit
from mobileclip.models import Clip, create
from mobileclip.preprocessing import preprocess
from mobileclip.tokenizer import tokenize


def test_unit_length() -> None:
    found = unit([[3, 4], [0, 0], [1e30, 1e30], [1e-30, 0], [np.inf, 1], [np.nan, 1]])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 0, 1, 1, np.nan, np.nan], rtol=1e-6)
    assert unit(np.zeros((0, 4))).shape == (0, 4)


def test_the_models_encoder_is_the_model(nano: Clip) -> None:
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (70 + n, 90, 3), np.uint8)) for n in range(5)]
    texts = ["a cat", "zwei Hunde", "", "word " * 200]
    encoder = ModelEncoder(nano, batch=2)
    with torch.no_grad():
        pixels = torch.stack([preprocess(nano)(image) for image in images])
        expected = nano.encode_image(pixels, True).numpy(), nano.encode_text(tokenize(texts), True).numpy()
    np.testing.assert_allclose(encoder.encode_images(iter(images)), expected[0], atol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(texts), expected[1], atol=1e-5)
    assert encoder.logit_scale == pytest.approx(1 / 0.07)
    assert encoder.name == "nano (seeded:nano:0)"
    assert encoder.encode_images([]).shape == (0, 32)
    assert encoder.encode_texts([]).shape == (0, 32)
    rough = ModelEncoder(nano, bf16=True).encode_images(images[:1])
    assert (rough * expected[0][:1]).sum(axis=1).min() > 0.99
    assert rough.dtype == np.float32


def test_statistics_of_a_model_that_wants_them() -> None:
    model = create("nano", seed=0)
    statistics = replace(model.config.preprocess, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    model.config = replace(model.config, preprocess=statistics)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8))
    with torch.no_grad():
        expected = model.encode_image(preprocess(model)(image).unsqueeze(0), True).numpy()
    np.testing.assert_allclose(ModelEncoder(model).encode_images([image]), expected, atol=1e-6)


def test_training_goes_on_as_it_was() -> None:
    model = create("nano", seed=0)
    model.train()
    model.image.stem.eval()  # a part that is frozen
    before = {name: module.training for name, module in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    encoder = ModelEncoder(model)
    image = Image.new("RGB", (64, 64), (220, 30, 30))
    first, second = encoder.encode_images([image] * 3), encoder.encode_images([image] * 3)
    np.testing.assert_array_equal(first, second)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(ZeroDivisionError):
        encoder.encode_images(Image.new("RGB", (1 // 0, 1)) for _ in range(2))
    assert {name: module.training for name, module in model.named_modules()} == before


def test_encoder_mistakes() -> None:
    with pytest.raises(MobileClipError, match="a batch of 0 holds nothing: give at least 1"):
        ModelEncoder(create("nano"), batch=0)
    with pytest.raises(MobileClipError, match="nano_swin has no text tower: evaluate a model with both towers"):
        ModelEncoder(create("nano_swin")).encode_texts(["a"])
