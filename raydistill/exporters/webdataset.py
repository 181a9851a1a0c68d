"""WebDataset: tar shards of KEY.png, KEY.cls and KEY.json, with nothing in their headers but names and sizes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice

from raydistill.exporters.base import CARD, Item, Product
from raydistill.exporters.cards import card_of
from raydistill.registry import register

SHARD = 1000  # images


@register("exporter", "webdataset")
def files(product: Product) -> Iterator[tuple[str, bytes]]:
    """train-000000.tar and on, classes.json by label. KEY.json holds the class, the weight and the soft label."""
    left, number = product.items(), 0
    while items := list(islice(left, SHARD)):
        yield f"train-{number:06d}.tar", _tar(product, items)
        number += 1
    yield "classes.json", product.class_list()
    yield CARD, card_of(product, "train-*.tar")


files.version = 2  # type: ignore[attr-defined]


def _tar(product: Product, items: Sequence[Item]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for item in items:
            key, info = f"{item.label:05d}-{item.slot:05d}", product.classes[item.label]
            record = {"label": item.label, "class_id": info.class_id, "class_name": info.class_name, **item.fields}
            for suffix, data in (
                ("png", item.image),
                ("cls", str(item.label).encode()),
                ("json", json.dumps(record).encode()),
            ):
                member = tarfile.TarInfo(f"{key}.{suffix}")  # no time, owner 0, mode 644: the same bytes anywhere
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return sink.getvalue()
