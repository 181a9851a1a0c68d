"""What a training takes of memory, from its plan: no weight is made, no image is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from raydistill.config.reads import SIZES
from raydistill.errors import BadInput
from raydistill.machine import memory
from raydistill.models.checkpoint import tensors, weights_name
from raydistill.pretraining.class_rows import is_table
from raydistill.pretraining.plan import Plan

FLOAT = 4


@dataclass(frozen=True)
class Size:
    """Of one worker: numbers of weights and of those that are trained; bytes of its images or latents."""

    weights: int
    trained: int
    data: int

    @property
    def network(self) -> int:
        """Bytes of weights and their average, and of gradients and Adam's two moments of the trained ones."""
        return FLOAT * (2 * self.weights + 3 * self.trained)


def of(plan: Plan) -> Size:
    """Raises BadInput for sizes that cannot work."""
    side, images = plan.config.source.image_size, len(plan.listing)
    data = 2 * math.prod(plan.latent_shape) if plan.vae is not None else 3 * side * side
    if plan.origin is not None and plan.origin.spec is not None:
        folder = plan.origin.spec.path / "transformer"
        file = folder / weights_name(folder)
        rows = plan.origin.rows
        shapes = {n: t.shape for n, t in tensors(file, "pretrain.init").items()}
        if rows is not None:
            shapes |= {n: (len(rows) + 1, *s[1:]) for n, s in shapes.items() if is_table(n)}
    else:
        with torch.device("meta"):
            shapes = {n: tuple(p.shape) for n, p in plan.blank().named_parameters()}
    vectors = plan.config.pretrain.trainable == "vectors"
    new = {n for n in shapes if vectors and plan.origin is not None and plan.origin.rows is not None and is_table(n)}
    trained = [math.prod(s) for n, s in shapes.items() if not vectors or len(s) <= 1 or n in new]
    return Size(sum(map(math.prod, shapes.values())), sum(trained), images * data)


def check(plan: Plan, gpu: int | None) -> None:
    """Raises BadInput for a training that cannot fit: its workers together into this machine, or each on its GPU.

    `gpu`: bytes of the smallest GPU; None if the workers have none. What a step computes comes on top of it.
    """
    size, workers = of(plan), plan.config.pretrain.workers
    need, have, where = workers * (size.network + size.data), memory(), "this machine has"
    if gpu is not None:
        need, have, where = size.network, gpu, "its GPU has"
    if need <= have:
        return
    if gpu is None and size.data > size.network:
        remedy = "take fewer images with source.classes, or smaller ones with source.image_size"
    elif plan.origin is None:
        remedy = f"lower pretrain.vae_channels={plan.config.pretrain.vae_channels}"
    elif plan.origin.spec is None:
        remedy = "lower " + ", ".join(f"pretrain.{k}={getattr(plan.config.pretrain, k)}" for k in SIZES[:3])
    else:
        remedy = "give a smaller pretrain.init, or set pretrain.trainable=vectors"
    fewer = ", or lower pretrain.workers" if gpu is None and workers > 1 else ""
    raise BadInput(
        f"pretrain: {size.weights / 1e6:,.1f} million weights take {_gib(size.network)} to train (with their average, "
        f"gradients and Adam's moments), beside {_gib(size.data)} of {'latents' if plan.vae else 'images'}, for each "
        f"of {workers} worker{'s' if workers > 1 else ''}; {where} {_gib(have)}; {remedy}{fewer}"
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
