"""A folder a class: what torchvision's ImageFolder, datasets' imagefolder and most released train scripts read."""

from __future__ import annotations

import json
from collections.abc import Iterator

from raydistill.exporters.base import CARD, Product
from raydistill.exporters.cards import card_of
from raydistill.exporters.names import folder_names
from raydistill.registry import register


@register("exporter", "imagefolder")
def files(product: Product) -> Iterator[tuple[str, bytes]]:
    """train/CLASS_ID/SLOT.png, train/metadata.jsonl (a line an image: label, weight, soft label...), classes.json."""
    folders = folder_names([c.class_id for c in product.classes])
    lines = []
    for item in product.items():
        name = f"{folders[item.label]}/{item.slot:05d}.png"
        info = product.classes[item.label]
        lines.append(
            json.dumps(
                {
                    "file_name": name,
                    "label": item.label,
                    "class_id": info.class_id,
                    "class_name": info.class_name,
                    **item.fields,
                }
            )
        )
        yield f"train/{name}", item.image
    yield "train/metadata.jsonl", ("\n".join(lines) + "\n").encode()
    yield "classes.json", product.class_list(folders)
    yield CARD, card_of(product, "train/**")


files.version = 2  # type: ignore[attr-defined]
