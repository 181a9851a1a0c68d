"""The YAML at the head of a card, by which the Hugging Face hub and `datasets` know a distilled set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import yaml

from raydistill.errors import one_line

SHARDS = "data/*.parquet"
OWN = re.compile(r"accuracy/(?P<student>[^/]+)/mean")  # of students of this set, not of another one beside it


def front_matter(title: str, schema: pa.Schema, images: int, synthetic: bool, source: str, on_hub: bool) -> str:
    """Of a card in a folder of Parquet shards in data/. `source` is an id of the hub, or what the images are called."""
    slug = re.sub(r"[^a-z0-9]+", "-", source.lower()).strip("-") or "images"
    return written(
        {
            "pretty_name": one_line(title),
            "license": "other",
            "license_name": "inherits-from-source-and-generator",
            "task_categories": ["image-classification"],
            "source_datasets": [source if on_hub else f"extended|other-{slug}"],
            "tags": ["dataset-distillation", "raydistill", *(["synthetic"] if synthetic else [])],
            "size_categories": [_size(images)],
            "configs": configs(SHARDS),
            "dataset_info": dataset_info(schema, images),
        }
    )


def written(tree: Mapping[str, Any]) -> str:
    """The head of a card, with the empty line behind it. Where a letter is none to be seen all are escaped."""
    head = yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, width=1000)
    if not head.replace("\n", "").isprintable():
        head = yaml.safe_dump(dict(tree), sort_keys=False, width=1000)
    return f"---\n{head}---\n\n"


def parted(card: str) -> tuple[dict[str, Any], str]:
    """The YAML of a card, empty if it has none, and its text."""
    if not card.startswith("---\n"):
        return {}, card
    head, _, text = card.removeprefix("---\n").partition("\n---\n")
    return yaml.safe_load(head), text.lstrip("\n")


def configs(files: str) -> list[dict[str, Any]]:
    """One configuration with one split, in these files."""
    return [{"config_name": "default", "data_files": [{"split": "train", "path": files}]}]


def dataset_info(schema: pa.Schema, images: int) -> dict[str, Any]:
    """The columns as the shards' own metadata give them, and the images of the one split."""
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    return {
        "features": [{"name": name, **_feature(feature)} for name, feature in features.items()],
        "splits": [{"name": "train", "num_examples": images}],
    }


def results(metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """What students of this set come to on real images: mean and deviation as in result.json."""
    rows = []
    for name, value in sorted(metrics.items()):
        if match := OWN.fullmatch(name):
            spread = metrics.get(f"{name.removesuffix('mean')}std")
            row = {"task": "image-classification", "student": match["student"], "metric": "accuracy", "value": value}
            rows.append(row if spread is None else row | {"std": spread})
    return rows


def _feature(feature: Mapping[str, Any]) -> dict[str, Any]:
    """A feature as `datasets` writes it in YAML."""
    kind = feature["_type"]
    if kind == "ClassLabel":
        return {"dtype": {"class_label": {"names": {str(i): n for i, n in enumerate(feature["names"])}}}}
    if kind == "List":
        return {"list": _feature(feature["feature"])["dtype"]}
    return {"dtype": "image" if kind == "Image" else feature["dtype"]}


def _size(images: int) -> str:
    """The Hub's names for sizes."""
    steps = (1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")
    return next((name for limit, name in steps if images < limit), "1M<n<10M")
