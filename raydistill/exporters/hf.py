"""The Hugging Face layout: the Parquet shards of distilled/ as they are, and the card with the metrics of the run."""

from __future__ import annotations

from collections.abc import Iterator

from raydistill.exporters.base import CARD, Product
from raydistill.registry import register
from raydistill.report.card import with_metrics


@register("exporter", "hf")
def files(product: Product) -> Iterator[tuple[str, bytes]]:
    """train-*.parquet, README.md (ready for the Hub), classes.json with the class ids by label."""
    for name in product.shards:
        yield name, product.read(name)
    yield CARD, with_metrics(product.card(), product.metrics).encode()
    yield "classes.json", product.class_list()
