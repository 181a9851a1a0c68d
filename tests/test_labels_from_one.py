"""Labels that are numbers, beside a generator whose classes are 0 to 9: what can be known is refused or said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from samples import coloured_png, write_parquet

from raydistill import config as configuration
from raydistill.errors import BadInput
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.sources.base import open_splits
from raydistill.stages.runner import serial
from raydistill.state import Prepared

SECTION = "docs/bring-your-own.md#labels-that-are-numbers"
START = "the classes are numbers without names, and start at 1"


def numbered(path: Path, labels: range) -> Path:
    for seed, split in enumerate(("train", "val")):
        image = coloured_png((9, 99, 200), seed)
        write_parquet(path / f"{split}-0.parquet", [(image, i) for i in labels for _ in range(2)], names=None)
    return path


def prepared(path: Path, *more: str) -> Prepared:
    overrides = ["source.kind=parquet", f"source.path={path}", "ipc=1", "evaluate.baselines=[]", f"run_dir={path}/run"]
    return prepare(configuration.load("quickstart", [*overrides, *more]))


def test_a_class_beyond_the_generators_is_refused_with_both_sides(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        prepared(numbered(tmp_path, range(1, 11)))
    line = str(caught.value)
    assert "class '10' is not one of the generator's 10 classes" in line
    assert "it knows '0', '1', '2'" in line and "the images are of '1', '2', '3'" in line and "'10'; " in line
    assert SECTION in line and "source.classes" not in line, "leaving class 10 out would shift the nine others"


def test_the_remedy_gives_labels_from_one_the_classes_of_the_generator(tmp_path: Path) -> None:
    """As the section says: one entry more in classes.json, and the classes without it."""
    numbered(tmp_path, range(1, 11))
    ids = [str(i) for i in range(10)]
    (tmp_path / "classes.json").write_text(json.dumps({"dirs": ids, "names": ids}))
    with pytest.raises(BadInput, match=r"label 10, outside the 10 classes of classes.json, which counts from 0; see "):
        prepared(tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps({"dirs": ["none", *ids], "names": ["none", *ids]}))
    train = prepared(tmp_path, f"source.classes={json.dumps(ids)}").splits.train
    first = train.ids.to_pylist()[:2]
    assert [c.class_id for c in train.classes] == ids
    assert first == ["train-0.parquet#0", "train-0.parquet#1"] and train.labels[:2].tolist() == [0, 0], "label 1 is 0"


@pytest.mark.parametrize("method", ["mgd3", "random"])
def test_numbers_that_start_at_one_are_said(tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them may be the generator's: a subset of its classes looks the same."""
    prepared(numbered(tmp_path, range(1, 10)), f"method={method}")
    said = [line for line in capsys.readouterr().err.splitlines() if START in line]
    assert len(said) == 1 and said[0].startswith("source ") and SECTION in said[0]


def test_numbers_from_zero_and_names_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(numbered(tmp_path / "zero", range(10)))
    prepare(configuration.load("quickstart", ["source.classes=[1,2]", f"run_dir={tmp_path / 'run'}"]))
    assert START not in capsys.readouterr().err


def test_another_unknown_class_is_still_left_out_by_the_old_remedy(tmp_path: Path) -> None:
    numbered(tmp_path, range(12))
    with pytest.raises(BadInput, match=r"class '10' is not one of .* nor is 1 more: .*leave it out with source"):
        prepared(tmp_path)
    kept = json.dumps([str(i) for i in range(10)])
    assert len(prepared(tmp_path, f"source.classes={kept}").splits.train.classes) == 10


@pytest.mark.parametrize("first", [0, 1])
def test_images_of_the_class_beside_are_seen_after_sampling(
    tmp_path: Path, first: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The digits 0 to 8 under the labels 1 to 9, all of which the generator knows; and under their own."""
    digits = open_splits(configuration.load("quickstart", []).source)
    for listing, split in ((digits.train, "train"), (digits.test, "val")):
        chosen = [i for c in range(9) for i in (listing.labels == c).nonzero()[0][:8]]
        images = digits.source.read(listing.split, [listing.ids[int(i)].as_py() for i in chosen])
        rows = [(image, int(listing.labels[i]) + first) for image, i in zip(images, chosen, strict=True)]
        write_parquet(tmp_path / f"{split}-0.parquet", rows, names=None)
    overrides = ("method=dit", "sampler.steps=20", "sample.device=cpu", "encode.device=cpu")
    for _ in range(2):  # finished, it says so again
        done = job.run(prepared(tmp_path, *overrides), "sample", serial)
        warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning ")]
        if first == 0:
            assert not warned and done.checks["dit"].hits >= 6
        else:
            assert len(warned) == 1 and "of 9 syntheses lie nearest to the real mean of their own class" in warned[0]
            assert "lie one class on, as if the numbers began elsewhere" in warned[0]
    assert not done.computed
