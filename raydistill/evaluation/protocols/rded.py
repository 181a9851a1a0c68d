"""Soft labels made on the fly, as RDED (Sun et al. 2024) validates and MGD3, Minimax diffusion, CaO2 and LGD do."""

from __future__ import annotations

from raydistill.errors import BadInput
from raydistill.evaluation.recipe import Recipe, Setting, trains
from raydistill.registry import register

BATCH = {1: 10, 10: 50, 50: 100}
TINY_IMAGENET, TINY_BATCH = 200, 100  # its classes, and its batch whatever the IPC
RATE = 1e-3
RATES = {"vgg11": 5e-4, "alexnet": 1e-4}  # of students that 0.001 is too much for
# timm's, by how their names begin: torchvision's vgg11, mobilenet_v2, efficientnet_b0, swin_v2_t and vit_b_16
FAMILIES = {
    "vgg11": 5e-4,
    "mobilenetv2": 2.5e-3,
    "efficientnet_b0": 2e-3,
    "tf_efficientnet_b0": 2e-3,
    "swin": 1e-4,
    "vit_": 1e-4,
}
EVALUATIONS = 6  # 300 epochs: after 250, 260, ... 300


def rate(student: str) -> float:
    """The learning rate that the released script gives a network."""
    family, colon, member = student.partition(":")
    if colon and family == "timm":
        return next((r for begins, r in FAMILIES.items() if member.startswith(begins)), RATE)
    return RATES.get(student, RATE)


def batch_of(setting: Setting) -> int:
    """The batch of the released script. Raises BadInput for an IPC of which it leaves it open."""
    if setting.batch is not None:
        return setting.batch
    if setting.classes == TINY_IMAGENET:
        return TINY_BATCH
    if setting.ipc not in BATCH:
        raise BadInput(
            f"protocol rded has batch sizes for ipc {', '.join(map(str, BATCH))}, not for ipc={setting.ipc}; "
            "give evaluate.protocol.batch"
        )
    return BATCH[setting.ipc] * (2 if setting.classes in (100, 1000) else 1)


@register("protocol", "rded")
@trains("convnet_bn", "resnet18_bn")
def rded(setting: Setting) -> Recipe:
    """A teacher labels every mixed batch; AdamW, a cosine that ends at one half; shuffled 2 x 2 patches, crops, flips.

    Raises BadInput as `batch_of` does.
    """
    return Recipe(
        protocol="rded",
        epochs=300,
        batch=batch_of(setting),
        optimiser="adamw",
        lr=rate(setting.student),
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
