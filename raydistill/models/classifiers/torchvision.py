"""Any classifier of torchvision by its name: `torchvision:resnet18`, the teacher of most of the field's tables."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.models.classifiers.library import LibraryNetwork, check_known, library, three
from raydistill.registry import register

AS_PUBLISHED: dict[str, dict[str, Any]] = {  # what torchvision sets where it loads its weights, and not otherwise
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": False},
    "inception_v3": {"transform_input": True, "init_weights": False},
}


@register("classifier", "torchvision:")
def named(name: str) -> LibraryNetwork:
    """torchvision's model `name`; image size and colours are those of its default weights.

    The embedding is what the head sees, its spatial mean where the head is a convolution. Raises BadInput for a name
    that torchvision does not know, and without torchvision.
    """
    models = library("torchvision", name).models
    check_known("torchvision", name, models.list_models(module=models))
    data = models.get_model_weights(name).DEFAULT.transforms()
    size = data.crop_size[0]
    options = AS_PUBLISHED.get(name, {}) | ({"image_size": size} if name.startswith("vit_") else {})

    def build(classes: int) -> nn.Module:
        wanted = torch.get_default_device()
        with torch.device("cpu") if name.startswith("regnet_") else nullcontext():  # its widths are read off a tensor
            net = models.get_model(name, weights=None, num_classes=classes, **options).to(wanted)

        def features_of(x: Tensor) -> Tensor:
            return seen_by_head(net, x)

        net.features_of = features_of
        return net

    return LibraryNetwork(build, size, three(data.mean), three(data.std))


def seen_by_head(net: nn.Module, x: Tensor) -> Tensor:
    """(B, 3, S, S) -> (B, D): the input of the last linear layer or convolution, which in torchvision is the head."""
    head = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    inputs: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        net(x)
    finally:
        hook.remove()
    return inputs[0].mean((2, 3)) if isinstance(head, nn.Conv2d) else inputs[0]
