"""Hard labels on small images, as the DC benchmark evaluates published sets: DC with DSA, DM, MTT."""

from __future__ import annotations

from raydistill.evaluation.dsa_strategy import PUBLISHED
from raydistill.evaluation.recipe import Recipe, Setting
from raydistill.registry import register


@register("protocol", "dsa")
def dsa(setting: Setting) -> Recipe:
    """SGD, learning rate x 0.1 behind the middle; the published DSA, CIFAR's statistics; tested at the end."""
    return Recipe(
        protocol="dsa",
        epochs=1001,
        batch=256,
        optimiser="sgd",
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="middle",
        crop_scale=1.0,
        flip=False,
        cutmix=0.0,
        dsa=PUBLISHED,
        statistics="cifar",
        evaluations=1,
    )


dsa.version = 2  # type: ignore[attr-defined]
