"""Hard labels on CIFAR at 32 px, as IDC (Kim et al. 2022) trains: 1,000 epochs whatever the IPC."""

from __future__ import annotations

from raydistill.evaluation.dsa_strategy import IDC
from raydistill.evaluation.recipe import Recipe, Setting
from raydistill.registry import register

CIFAR100 = 100


@register("protocol", "hard_cifar")
def hard_cifar(setting: Setting) -> Recipe:
    """SGD, learning rate x 0.2 at 2/3 and 5/6; DSA, flips, CutMix on half of the batches, CIFAR's statistics; one test.

    Exactly 100 classes are augmented as CIFAR-100 there: flips, and shifts by up to an eighth of a side.
    """
    hundred = setting.classes == CIFAR100
    return Recipe(
        protocol="hard_cifar",
        epochs=1000,
        batch=64,
        optimiser="sgd",
        lr=0.01,
        momentum=0.9,
        weight_decay=5e-4,
        schedule="multistep",
        crop_scale=1.0,
        flip=True,
        shift=0.125 if hundred else 0.0,
        dsa=False if hundred else IDC,
        cutmix=0.5,
        statistics="cifar",
        evaluations=1,
    )


hard_cifar.version = 2  # type: ignore[attr-defined]
