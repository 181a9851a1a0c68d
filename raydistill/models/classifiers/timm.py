"""Any classifier of timm by its name, with or without the tag of its weights: `timm:resnet18.a1_in1k`."""

from __future__ import annotations

from torch import Tensor, nn

from raydistill.models.classifiers.library import LibraryNetwork, check_known, library, three
from raydistill.registry import register


@register("classifier", "timm:")
def named(name: str) -> LibraryNetwork:
    """timm's model `name`; image size and colours are those of its tag, or of its default weights.

    The embedding is what timm calls pre-logits. Raises BadInput for a name that timm does not know, and without timm.
    """
    timm = library("timm", name)
    check_known("timm", name, [*timm.list_models(), *timm.list_pretrained()])
    data = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())

    def build(classes: int) -> nn.Module:
        net = timm.create_model(name, pretrained=False, num_classes=classes)

        def features_of(x: Tensor) -> Tensor:
            return net.forward_head(net.forward_features(x), pre_logits=True)

        net.features_of = features_of
        return net

    return LibraryNetwork(build, data["input_size"][-1], three(data["mean"]), three(data["std"]))
