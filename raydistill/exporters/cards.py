"""The card of an export: README.md with the YAML of its layout, and what the run came to."""

from __future__ import annotations

from raydistill.exporters.base import Product
from raydistill.report import front
from raydistill.report.card import with_metrics

PARQUET_SECTIONS = ("Load it", "Train on it", "Columns")  # of the card


def card_of(product: Product, files: str | None = None) -> bytes:
    """Of the Parquet layout, or without its sections of a layout whose images are in `files` ("" = in no files that
    `datasets` reads).
    """
    tree, text = front.parted(product.card())
    tree = {key: value for key, value in tree.items() if key not in ("configs", "dataset_info")}
    if files is None:
        tree |= {"configs": front.configs(front.SHARDS), "dataset_info": product.dataset_info()}
    else:
        tree |= {"configs": front.configs(files)} if files else {}
        text = _without_parquet(text)
    if rows := front.results(product.metrics):
        tree["results"] = rows
    return with_metrics(front.written(tree) + text, product.metrics).encode()


def _without_parquet(text: str) -> str:
    first, *sections = text.split("\n## ")
    return "\n## ".join([first, *(s for s in sections if s.partition("\n")[0] not in PARQUET_SECTIONS)])
