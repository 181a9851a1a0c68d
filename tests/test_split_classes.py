"""Classes of one split only are named with their images, in both directions; what a refusal says to do works."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from running import write_digits
from samples import coloured_png, config, write_parquet

from raydistill import config as configuration
from raydistill.errors import BadInput
from raydistill.pipeline.preflight import prepare
from raydistill.pretraining.plan import make_plan
from raydistill.sources.base import open_splits


def refusal(folder: Path) -> str:
    with pytest.raises(BadInput) as caught:
        open_splits(config("imagefolder", folder))
    return str(caught.value)


def stray(folder: Path, split: str, name: str, images: int = 3) -> None:
    (folder / split / name).mkdir()
    for i in range(images):
        (folder / split / name / f"{i}.png").write_bytes(coloured_png((9, 9, 9), i))


class TestClassesThatOnlyValidationHas:
    def test_are_named_with_their_images_and_left_out(self, tiny_folder: Path) -> None:
        (tiny_folder / "classes.json").write_text(json.dumps({"dirs": ["azure"], "names": ["Azur"]}))
        stray(tiny_folder, "val", "azure")
        stray(tiny_folder, "val", "olive", 1)
        splits = open_splits(config("imagefolder", tiny_folder))
        assert splits.left_out == (
            "classes 'azure' (Azur, 3 images), 'olive' (1 image) are in split 'val' but not in 'train'"
        )
        assert len(splits.test) == 6

    def test_are_said_in_a_run_and_in_a_training(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = write_digits(tmp_path / "images")
        stray(folder, "val", "odd")
        keys = ["source.kind=imagefolder", f"source.path={folder}", "ipc=1", "evaluate.baselines=[]"]
        prepare(configuration.load("quickstart", [*keys, f"run_dir={tmp_path / 'run'}"]))
        said = "class 'odd' (3 images) is in split 'val' but not in 'train'"
        assert f"{said}: nothing is tested on their images" in capsys.readouterr().err
        plan = make_plan(configuration.load("quickstart", [*keys, f"pretrain.out={tmp_path / 'out'}"]))
        assert plan.left_out == said

    def test_are_not_if_the_classes_are_picked_or_have_no_image(self, tiny_folder: Path, tmp_path: Path) -> None:
        stray(tiny_folder, "val", "azure")
        assert open_splits(config("imagefolder", tiny_folder, classes=["red", "blue"])).left_out == ""
        for seed, (split, names) in enumerate((("train", ["a", "b"]), ("val", ["a", "b", "c"]))):
            image = coloured_png((9, 9, 9), seed)
            write_parquet(tmp_path / "shards" / f"{split}-0.parquet", [(image, 0), (image, 1)], names)
        assert open_splits(config("parquet", tmp_path / "shards")).left_out == ""


class TestClassesThatOnlyTrainingHas:
    def test_both_directions_are_in_one_line(self, tiny_folder: Path) -> None:
        (tiny_folder / "val" / "green").rename(tiny_folder / "val" / "olive")
        line = refusal(tiny_folder)
        assert line.startswith("source: 2 of the 3 training classes are in both splits: class 'green' (4 images)")
        assert "class 'green' (4 images) is in split 'train' but not in 'val'" in line
        assert "class 'olive' (2 images) is in split 'val' but not in 'train'" in line

    def test_the_classes_to_pick_are_given_as_they_can_be_typed(self, tiny_folder: Path) -> None:
        for old, new in (("red", "it's 10, red"), ("blue", "010")):
            for split in ("train", "val"):
                (tiny_folder / split / old).rename(tiny_folder / split / new)
        (tiny_folder / "val" / "green").rename(tiny_folder / "elsewhere")
        typed = re.search(r"pick classes with (.*)$", refusal(tiny_folder))
        assert typed is not None
        overrides = ["source.kind=imagefolder", f"source.path={tiny_folder}", *shlex.split(typed[1])]
        splits = open_splits(configuration.load("quickstart", overrides).source)
        assert [c.class_id for c in splits.train.classes] == ["010", "it's 10, red"] and len(splits.test) == 4

    def test_no_class_in_common_shows_both_sides_and_a_way_out(self, tiny_folder: Path) -> None:
        for i, name in enumerate(("blue", "green", "red")):
            (tiny_folder / "val" / name).rename(tiny_folder / "val" / str(i))
        line = refusal(tiny_folder)
        assert (
            "none of the 3 training classes are in both splits: classes 'blue' (4 images), 'green' (4 images)" in line
        )
        assert "'0' (2 images), '1' (2 images), '2' (2 images)" in line and "source.val=split:0.2" in line
        assert open_splits(config("imagefolder", tiny_folder, val="split:0.2")).test.counts.min() > 0

    def test_many_are_counted(self, tmp_path: Path) -> None:
        image = coloured_png((9, 9, 9), 0)
        names = [f"class{i:02d}" for i in range(30)]
        write_parquet(tmp_path / "train-0.parquet", [(image, i) for i in range(30)], names)
        write_parquet(tmp_path / "val-0.parquet", [(image, i) for i in range(10)], names[:10])
        with pytest.raises(BadInput, match=r"'class10' \(1 image\), .*'class21' \(1 image\) and 8 more are in split"):
            open_splits(config("parquet", tmp_path))

    def test_an_empty_one_is_named_with_its_training_images(self, tmp_path: Path) -> None:
        image = coloured_png((9, 9, 9), 0)
        write_parquet(tmp_path / "train-0.parquet", [(image, i % 3) for i in range(9)])
        write_parquet(tmp_path / "val-0.parquet", [(coloured_png((9, 9, 9), 1), 0)])
        with pytest.raises(
            BadInput, match=r"classes 'green' \(3 images\), 'red' \(3 images\) have no image in the test"
        ):
            open_splits(config("parquet", tmp_path))
