"""Hard labels, as IDC (Kim et al. 2022) set it up and Minimax diffusion, MGD3, ManifoldGD, IGD and LGD use it."""

from __future__ import annotations

from raydistill.evaluation.recipe import Recipe, Setting
from raydistill.registry import register

EPOCHS = ((1, 3000), (10, 2000), (50, 1500), (200, 1000), (500, 500))
MANY_EPOCHS = 300


@register("protocol", "hard")
def hard(setting: Setting) -> Recipe:
    """SGD, learning rate x 0.2 at 2/3 and 5/6; crops, flips, colour jitter, lighting, CutMix always; 100 tests.

    Exactly 100 classes take two thirds of the epochs; more than 100 a larger learning rate and batch.
    """
    epochs = next((e for ipc, e in EPOCHS if setting.ipc <= ipc), MANY_EPOCHS)
    if setting.classes == 100:
        epochs = epochs * 2 // 3 // 100 * 100
    many = setting.classes > 100
    return Recipe(
        protocol="hard",
        epochs=epochs,
        batch=128 if many else 64,
        optimiser="sgd",
        lr=0.1 if many else 0.01,
        momentum=0.9,
        weight_decay=1e-4 if many else 5e-4,
        schedule="multistep",
        crop_scale=0.5,
        flip=True,
        jitter=0.4,
        lighting=0.1,
    )
