"""The hub's layout: the Parquet shards of distilled/ as they are, and the card with what the run came to."""

from __future__ import annotations

from collections.abc import Iterator

from raydistill.exporters.base import CARD, DATA, Product
from raydistill.exporters.cards import card_of
from raydistill.registry import register


@register("exporter", "hf")
def files(product: Product) -> Iterator[tuple[str, bytes]]:
    """data/train-*.parquet, README.md (ready for the Hub), classes.json with the class ids by label."""
    for name in product.shards:
        yield f"{DATA}/{name.rpartition('/')[2]}", product.read(name)
    yield CARD, card_of(product)
    yield "classes.json", product.class_list()


files.version = 2  # type: ignore[attr-defined]
