"""The card that travels with a distilled set."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from test_report import NAUGHTY, png

from raydistill.report import front
from raydistill.report.card import COLUMNS, card
from raydistill.sources.base import ClassInfo
from raydistill.store.schemas import distilled


def make_card(generator: str | None = "/data/models/dit-nette") -> str:
    classes = [ClassInfo("n01", "tench|fish"), ClassInfo("n02", NAUGHTY)]
    fields = {"vae": "/home/me/taesd", "generator_digest": "ab12", "run": ["s3://bucket/run", {"steps": 50}]}
    return card(
        "Nette: 10 | each",
        "mgd3",
        10,
        0,
        classes,
        128,
        "parquet",
        generator,
        fields,
        {"images": "CC BY 4.0", "generator": None} if generator else {"images": None},
    )


def test_card_front_matter_and_text() -> None:
    page = make_card()
    head = yaml.safe_load(page.split("---\n")[1])
    assert head["task_categories"] == ["image-classification"] and head["size_categories"] == ["n<1K"]
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
    assert head["source_datasets"] == ["extended|other-parquet"]
    assert head["dataset_info"]["splits"] == [{"name": "train", "num_examples": 20}]
    assert head["pretty_name"] == "Nette: 10 | each" and "synthetic" in head["tags"]
    assert "20 images in 2 classes" in page and "`dit-nette`" in page and '"generator_digest": "ab12"' in page
    assert "tench\\|fish" in page and "&lt;b&gt;" in page
    assert "stricter ones hold" in page and "| images | CC BY 4.0 |" in page
    assert "| generator | not stated: ask" in page
    assert page == make_card()
    assert not re.search(r"/home|/data|s3:|\b20\d\d-\d\d", page)
    real = make_card(None)
    assert "synthetic" not in yaml.safe_load(real.split("---\n")[1])["tags"] and "none was synthesised" in real


def test_a_name_that_ends_as_the_head_does_ends_nothing() -> None:
    tree = {"names": ["tench ---", "---", "jay"], "license": "other"}
    assert front.parted(front.written(tree) + "# Mine\n\n---\n") == (tree, "# Mine\n\n---\n")
    assert front.parted("# Mine\n") == ({}, "# Mine\n")


def test_card_documents_every_column_and_its_snippet_runs(tmp_path: Path) -> None:
    schema = distilled(["a", "b"], ["n01", "n02"])
    assert list(COLUMNS) == schema.names
    page = make_card()
    assert all(f"| `{name}` |" in page for name in schema.names)
    row = {
        "image": {"bytes": png(3), "path": "0.png"},
        "label": 1,
        "class_name": "b",
        "weight": 0.5,
        "slot": 0,
        "prototype_id": 0,
        "method": "mgd3",
        "seed_key": "k",
        "provenance": "{}",
    }
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist([row], schema), tmp_path / "data" / "train-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text(page)
    snippet = page.split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "b", "0", "0.5", "(8,", "8)"]
