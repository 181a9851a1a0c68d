"""Soft labels made on the fly, as RDED (Sun et al. 2024) validates and MGD3, Minimax diffusion, CaO2 and LGD do."""

from __future__ import annotations

from raydistill.errors import BadInput
from raydistill.evaluation.recipe import Recipe, Setting
from raydistill.registry import register

BATCH = {1: 10, 10: 50, 50: 100}
RATES = {"vgg11": 5e-4, "alexnet": 1e-4}  # of students that 0.001 is too much for
EVALUATIONS = 6  # 300 epochs: after 250, 260, ... 300


@register("protocol", "rded")
def rded(setting: Setting) -> Recipe:
    """A teacher labels every mixed batch; AdamW, a cosine that ends at one half; shuffled 2 x 2 patches, crops, flips.

    Raises BadInput for an IPC whose batch the released script leaves open.
    """
    if setting.batch is None and setting.ipc not in BATCH:
        raise BadInput(
            f"protocol rded has batch sizes for ipc {', '.join(map(str, BATCH))}, not for ipc={setting.ipc}; "
            "give evaluate.protocol.batch"
        )
    batch = setting.batch or BATCH[setting.ipc] * (2 if setting.classes in (100, 1000) else 1)
    return Recipe(
        protocol="rded",
        epochs=300,
        batch=batch,
        optimiser="adamw",
        lr=RATES.get(setting.student, 1e-3),
        momentum=0.0,
        weight_decay=0.01,
        schedule="half_cosine",
        patches=2,
        crop_scale=1 / (setting.patches or 2),
        flip=True,
        labels="teacher",
        temperature=20.0,
        bn_pass=True,
        evaluations=EVALUATIONS,
        tested_from=0.8,
        test_crop=224 / 256,
    )
