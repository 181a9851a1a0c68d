"""Any model of timm by its name, untrained: `students=[timm:resnet18]`. timm is imported only when used."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from raydistill.errors import BadInput, one_line
from raydistill.registry import register


@register("student", "timm:")
def named(name: str) -> Callable[[int, int, int], nn.Module]:
    """The builder of timm's model `name`. `width` has no meaning there and is not used: the name fixes the network.

    Raises BadInput if timm cannot be imported, does not know the name, or cannot build it for the image size.
    """

    def build(classes: int, image_size: int, width: int) -> nn.Module:
        try:
            import timm
        except Exception as e:  # beside another build of torchvision its import raises RuntimeError
            raise BadInput(
                f"student 'timm:{name}': timm cannot be imported ({one_line(e)}); "
                'pip install "raydistill[timm]", with the torchvision that belongs to your torch'
            ) from None
        if not timm.is_model(name):
            raise BadInput(f"student 'timm:{name}': timm has no such model; see timm.list_models()")
        # Transformers are built for one size and are told it; convolutional networks take any and refuse the argument.
        fixed = timm.get_pretrained_cfg_value(name, "fixed_input_size")
        size = {"img_size": image_size} if fixed else {}
        try:
            return timm.create_model(name, pretrained=False, num_classes=classes, **size)
        except Exception as e:  # timm's models raise many kinds for what they cannot be built for
            raise BadInput(
                f"student 'timm:{name}': timm cannot build it for evaluate.protocol.image_size={image_size}: "
                f"{one_line(e)}; choose another size or model"
            ) from None

    return build
