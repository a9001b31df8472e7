"""MCi2 with structure in its weights, for studies of fewer bits on a machine that has no trained checkpoint.

    mobileclip pack scenes scenes --count 2000 --size 64 --no-dense
    python -m benchmarks.trained --shards scenes/train --out runs/mci2
    python -m benchmarks compressed --model runs/mci2 --images scenes/val/images

The image tower is MCi2 as it is deployed, at 256 px; the text tower is the nano models', since no study here looks at
it. It trains on small pictures, a sixteenth of the work, and its BatchNorms then see some of its own size. That gives
weights and activations whose channels differ as those of trained models do, and no good model.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from mobileclip.checkpoint import save
from mobileclip.config import MODELS, ModelConfig
from mobileclip.data.augment import normalise
from mobileclip.data.corpus import corpus
from mobileclip.data.loader import Loader
from mobileclip.models import build
from mobileclip.recipes import Recipe, recipe_of
from mobileclip.train_step import Stepper

CONFIG: ModelConfig = replace(
    MODELS["mobileclip_s2"], name="mci2_scenes", text=MODELS["nano"].text, embed_dim=512, open_clip=None
)
"""MCi2 behind 512 numbers, as in MobileCLIP-S2, with a small text tower."""
STATISTICS, EACH = 24, 8
"""Batches of the tower's own size that BatchNorms see at the end, and pictures of one: with a momentum of 0.1 they are
nine tenths of the statistics."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and write a checkpoint."""
    parser = argparse.ArgumentParser(prog="benchmarks.trained", description=__doc__.partition("\n")[0])
    parser.add_argument("--shards", required=True, help="packed pairs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=64, help="side of the pictures that it trains on")
    parser.add_argument("--config", default=CONFIG.name, help="another model, by name")
    args = parser.parse_args(argv)
    values = {"steps": args.steps, "batch": args.batch, "warmup": args.steps // 10, "lr": 1e-3}
    recipe = recipe_of("nano-scenes", values | {"shards": (args.shards,), "tensorboard": False})
    train(CONFIG if args.config == CONFIG.name else MODELS[args.config], recipe, args.size, args.out)
    return 0


def train(config: ModelConfig, recipe: Recipe, size: int, out: Path) -> Path:
    """Run a recipe on pictures of `size` px for a model of `config`, and write its checkpoint."""
    torch.manual_seed(recipe.seed)
    stepper = Stepper(build(config), recipe, torch.device("cpu"))
    losses: list[float] = []
    for step, batch in enumerate(_batches(recipe, size, recipe.batch, recipe.steps)):
        losses.append(float(stepper.step(batch, step).loss))
        if step % recipe.log_every == 0:
            print(f"step {step}: loss {losses[-1]:.3f}", flush=True)
    with torch.no_grad():
        for batch in _batches(recipe, config.preprocess.size, EACH, STATISTICS):
            stepper.clip.encode_image(normalise(batch.images, config.preprocess))
    model = build(config)
    model.load_state_dict(stepper.clip.state_dict())
    last = sum(losses[-10:]) / len(losses[-10:])
    record = {"recipe": recipe.as_dict(), "size": size, "loss": {"first": losses[0], "last ten": last}}
    save(model.eval(), out, record=record)
    print(f"{out}: loss {losses[0]:.3f} to {last:.3f}")
    return out


def _batches(recipe: Recipe, size: int, batch: int, steps: int) -> Loader:
    pairs = corpus(recipe.shards)
    return Loader(pairs, size=size, batch=batch, policy=recipe.captions, seed=recipe.seed, steps=steps)


if __name__ == "__main__":
    sys.exit(main())
