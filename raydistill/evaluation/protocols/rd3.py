"""One protocol for all sets with soft labels, as RD3 (Zhong et al. 2026) proposes: RDED's for longer, with Adam.

Read in notes on the paper, not in its code. Its batch, length, optimiser, schedule, augmentation and teacher are stated
there. Weight decay is none; temperature, CutMix and tests are RDED's: our reading.
"""

from __future__ import annotations

from raydistill.evaluation.recipe import Recipe, Setting, trains
from raydistill.registry import register

SMOOTHED_ONCE = ("resnet18", "resnet18_bn", "timm:resnet18")  # whose cosine ends at 0; that of others at one half


@register("protocol", "rd3")
@trains("resnet18_bn")
def rd3(setting: Setting) -> Recipe:
    """A teacher (ResNet-18 in the paper) labels every mixed batch; 400 epochs, batches of 50 whatever the IPC."""
    return Recipe(
        protocol="rd3",
        epochs=400,
        batch=50,
        optimiser="adam",
        lr=1e-3,
        momentum=0.0,
        weight_decay=0.0,
        schedule="cosine" if setting.student in SMOOTHED_ONCE else "half_cosine",
        patches=2,
        crop_scale=1 / (setting.patches or 2),
        flip=True,
        labels="teacher",
        temperature=20.0,
        evaluations=8,
        tested_from=0.8,
        test_crop=224 / 256,
    )
