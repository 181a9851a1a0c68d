"""The card of an exported set: its metrics, its terms, and a snippet that trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from test_exporters import CLASSES, FORMATS, contents, load
from test_exporters import run as run  # the fixtures
from test_exporters import softly as softly

from raydistill.exporters.write import export
from raydistill.report import front
from raydistill.store import seals
from raydistill.store.location import Location


def test_hf_fills_the_metrics_in_and_the_product_stays_without(tmp_path: Path, run: Path) -> None:
    before = contents(run / "distilled")
    told = {"accuracy/convnet/mean": 0.8791, "accuracy/random/convnet/mean": 0.5, "time/encode_s": 3.0}
    seals.write(Location.of(str(run)), "result.json", json.dumps(told).encode())
    export(str(run), "hf", str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| accuracy/convnet/mean | 0.8791 |" in card and "time/" not in card
    assert yaml.safe_load(card.split("---\n")[1])["configs"] and card.index("## Metrics") < card.index("## Licence")
    assert contents(run / "distilled") == before and "## Metrics" not in before["README.md"].decode()


def test_numbers_of_an_earlier_product_are_left_out(tmp_path: Path, run: Path, capsys: Any) -> None:
    location = Location.of(str(run))
    shard = seals.find(location, "distilled/data/train-00000-of-00001.parquet")
    for of, there in ((shard.made_from, True), ("another", False)):
        seals.write(location, "result.json", b'{"fid": 1.0}', f"{of}-stamp")
        export(str(run), "hf", str(tmp_path / of[:7] / "out"))
        assert ("## Metrics" in (tmp_path / of[:7] / "out" / "README.md").read_text()) == there
    assert "is of an earlier product and is left out" in capsys.readouterr().err


@pytest.mark.parametrize("form", [f for f in FORMATS if f != "hf"])
def test_terms_and_provenance_travel_with_other_formats(tmp_path: Path, run: Path, form: str) -> None:
    export(str(run), form, str(tmp_path / "out"))
    head, told = front.parted((tmp_path / "out" / "README.md").read_text())
    assert told.startswith("# Six classes") and "| images | not stated" in told and "## Provenance" in told
    assert "parquet" not in told.lower() and "```python" not in told
    assert head["task_categories"] == ["image-classification"] and head["source_datasets"] == ["extended|other-shapes"]
    assert "dataset_info" not in head, "the columns are those of the Parquet layout"


@pytest.mark.parametrize("form", FORMATS)
def test_what_students_came_to_is_in_the_yaml_of_every_card(tmp_path: Path, run: Path, form: str) -> None:
    told = {"accuracy/convnet/mean": 0.87, "accuracy/convnet/std": 0.01, "accuracy/resnet18/mean": 0.9}
    told |= {"accuracy/random/convnet/mean": 0.5, "fid": 3.0}
    seals.write(Location.of(str(run)), "result.json", json.dumps(told).encode())
    export(str(run), form, str(tmp_path / "out"))
    head, text = front.parted((tmp_path / "out" / "README.md").read_text())
    of = {"task": "image-classification", "metric": "accuracy"}
    assert head["results"] == [
        of | {"student": "convnet", "value": 0.87, "std": 0.01},
        of | {"student": "resnet18", "value": 0.9},
    ]
    assert "| fid | 3 |" in text


@pytest.mark.parametrize("form", ["hf", "imagefolder", "webdataset"])
def test_datasets_reads_the_folder_by_its_card(tmp_path: Path, run: Path, form: str) -> None:
    pytest.importorskip("datasets")
    export(str(run), form, str(tmp_path / "out"))
    assert len(load(tmp_path, str(tmp_path / "out"))) == 18


def test_the_card_says_what_the_shards_hold(tmp_path: Path, softly: Any) -> None:
    """Also a column that came to the shards later."""
    run, _ = softly
    assert "soft_label" not in [f["name"] for f in info(run / "distilled")["features"]]
    export(str(run), "hf", str(tmp_path / "out"))
    told = info(tmp_path / "out")
    assert told["splits"] == [{"name": "train", "num_examples": 18}]
    schema = pq.read_schema(next((tmp_path / "out" / "data").iterdir()))
    assert [f["name"] for f in told["features"]] == schema.names
    assert told["features"][-1] == {"name": "soft_label", "list": "float32"}
    names = told["features"][1]["dtype"]["class_label"]["names"]
    assert list(names.values()) == [c.class_name for c in CLASSES]


def info(folder: Path) -> dict[str, Any]:
    return front.parted((folder / "README.md").read_text())[0]["dataset_info"]


def test_pandas_and_datasets_read_the_product_with_whatever_lies_beside(tmp_path: Path, run: Path) -> None:
    pandas = pytest.importorskip("pandas")
    (run / "distilled" / "notes.txt").write_text("mine")
    (run / "distilled" / "train-00000-of-00001.parquet.mine-0123").write_text("mine")
    table = pandas.read_parquet(run / "distilled" / "data")
    assert len(table) == 18 and list(table["label"]) == sorted(table["label"])
    assert len(load(tmp_path, str(run / "distilled"))) == 18


def test_its_snippet_trains(tmp_path: Path, run: Path) -> None:
    pytest.importorskip("datasets")
    snippet = (run / "distilled" / "README.md").read_text().split("```python\n")[2].split("```")[0]
    assert "steps = 300" in snippet
    env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", snippet.replace("steps = 300", "steps = 20")],
        env=env,
        cwd=run / "distilled",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("loss ") and done.stdout.endswith("on 18 images of 6 classes\n")
