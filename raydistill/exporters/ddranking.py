"""DD-Ranking: the tensors that its evaluators' compute_metrics takes, one torch.save'd file each."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from raydistill.exporters.base import CARD, Product
from raydistill.exporters.cards import card_of
from raydistill.registry import register

if TYPE_CHECKING:
    from torch import Tensor


@register("exporter", "ddranking")
def files(product: Product) -> Iterator[tuple[str, bytes]]:
    """images.pt (N, 3, S, S) float32 in [0, 1], labels.pt (N,) int64, weights.pt (N,) float32, by class, then slot.

    soft_labels.pt (N, C) float32 is there if the product has soft labels. The images are not normalised: DD-Ranking
    takes a tensor as it is, so subtract the mean and divide by the deviation of its data set first. The whole tensor
    is held in memory.
    """
    import torch  # here: the other exporters, found with this one, start without it

    images, labels, weights, soft = [], [], [], []
    for item in product.items():
        images.append(torch.from_numpy(_pixels(item.image)).permute(2, 0, 1))
        labels.append(item.label)
        weights.append(item.fields["weight"])
        if item.fields.get("soft_label") is not None:
            soft.append(np.asarray(item.fields["soft_label"], np.float32))
    yield "images.pt", _saved(torch.stack(images).float() / 255)
    yield "labels.pt", _saved(torch.tensor(labels))
    yield "weights.pt", _saved(torch.tensor(weights, dtype=torch.float32))
    if soft:
        yield "soft_labels.pt", _saved(torch.from_numpy(np.stack(soft)))
    yield "classes.json", product.class_list()
    yield CARD, card_of(product, "")


files.version = 2  # type: ignore[attr-defined]


def _pixels(png: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png)).convert("RGB"))


def _saved(tensor: Tensor) -> bytes:
    import torch

    sink = io.BytesIO()
    torch.save(tensor.contiguous(), sink)
    return sink.getvalue()
