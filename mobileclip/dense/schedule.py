"""The learning rate of a step, before it is multiplied by its group's scale (`groups`).

t is the share of the run after warm-up that is behind, 0 at its first step; nothing is kept between steps.
"""

import math

from mobileclip.dense.plan import Finetune


def learning_rate(recipe: Finetune, step: int, pictures: int) -> float:
    """Of a step, counted from 0.

    Args:
        recipe: with its `steps` known.
        step: 0 to `recipe.steps` - 1.
        pictures: of an epoch.
    """
    scale = recipe.batch / recipe.lr_batch if recipe.lr_batch else 1.0
    peak, low = recipe.lr * scale, recipe.end_lr * scale
    if step < recipe.warmup:  # mmengine's LinearLR: the first step has the factor, the last one of warm-up the peak
        share = step / max(recipe.warmup - 1, 1) if recipe.warmup > 1 else 1.0
        return peak * (recipe.warmup_factor + (1 - recipe.warmup_factor) * share)
    t = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    if recipe.schedule == "poly":
        return low + (peak - low) * math.pow(1 - t, recipe.power)
    if recipe.schedule == "cosine":
        return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * t))
    if recipe.schedule == "drops":
        epoch = step * recipe.batch / pictures
        return peak * math.pow(0.1, sum(epoch >= drop for drop in recipe.drops))
    if recipe.schedule == "up_down":  # MIM-Depth-Estimation, train.py: the rate of the step just begun
        turn = 2 * (step + 1) / recipe.steps
        if turn < 1:
            return low + (peak - low) * math.pow(turn, recipe.power)
        return max(low, peak - (peak - low) * math.pow(turn - 1, recipe.power))
    return peak
