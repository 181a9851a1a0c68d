"""Soft labels that are stored, as SRe2L (Yin et al. 2023) relabels with FKD and D4M does after it.

Stored is a label of each (image, view), not of each batch: CutMix mixes two of them by the area of its box, where the
release stores the teacher's answer to the mixed batch.
"""

from __future__ import annotations

from raydistill.evaluation.recipe import Recipe, Setting, trains
from raydistill.registry import register

EPOCHS = 300


@register("protocol", "fkd")
@trains("resnet18_bn")
def fkd(setting: Setting) -> Recipe:
    """AdamW with a cosine to 0; crops from 0.08 of the area, flips; one view an epoch."""
    return Recipe(
        protocol="fkd",
        epochs=EPOCHS,
        batch=1024,
        optimiser="adamw",
        lr=1e-3,
        momentum=0.0,
        weight_decay=0.01,
        schedule="cosine",
        crop_scale=0.08,
        flip=True,
        labels="stored",
        views=EPOCHS,
        temperature=20.0,
        evaluations=30,
        test_crop=224 / 256,
    )
