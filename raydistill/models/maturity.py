"""How far a generator was trained, by what its training.json says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MATURE = 1_000_000  # images seen; DiT-XL/2 saw 1.8 thousand million
PASSES = 200  # over the training images, of a small set
FALLING = 0.98  # of the validation loss before: below it the training ended while it still learned


def half_trained(training: Mapping[str, Any]) -> str | None:
    """Why a generator is far from trained, in words; None if it is not, or nothing is known of it."""
    seen, steps = training.get("images_seen"), training.get("steps")
    if "fine_tuned_from" not in training and isinstance(seen, int) and seen < min(MATURE, PASSES * _images(training)):
        in_steps = f" in {steps:,} steps" if isinstance(steps, int) else ""
        return f"it saw {seen:,} images{in_steps}, where a million is little"
    losses = _losses(training.get("validation_loss"))
    if len(losses) > 1 and losses[-1] < FALLING * losses[-2]:
        return f"its validation loss still fell when its training ended, from {losses[-2]:.4g} to {losses[-1]:.4g}"
    return None


def _images(training: Mapping[str, Any]) -> int:
    """How many images it was trained on; many where nothing says it."""
    source = training.get("source")
    count = source.get("images") if isinstance(source, dict) else None
    return count if isinstance(count, int) else MATURE


def _losses(pairs: Any) -> list[float]:
    """Of [step, loss] pairs; what a checkpoint says otherwise is of no use here."""
    try:
        return [float(loss) for _, loss in pairs]
    except (TypeError, ValueError, OverflowError):
        return []
