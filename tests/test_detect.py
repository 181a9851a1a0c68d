"""What lies at source.path is seen where nobody says it; what cannot be read is refused with a way on."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import config, parquet_set, remedied, rows, tar_set, write_folder, write_parquet, write_tar
from test_columns import save_to_disk

from raydistill.config import SourceConfig, load
from raydistill.errors import BadInput
from raydistill.pipeline.preflight import absolute
from raydistill.pretraining.plan import make_plan
from raydistill.sources import detect, leakage
from raydistill.sources.base import open_splits
from raydistill.store.location import Location


def kind(path: Path) -> str:
    return detect.kind_of(Location.of(str(path)))


def line(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        kind(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def configured(path: Path) -> Path:
    parquet_set(path / "plain_text")
    return path


def saved(path: Path) -> Path:
    """As save_to_disk lays its files out."""
    (path / "train").mkdir(parents=True)
    table = pa.table({"image": pa.array([b"?"], pa.binary()), "label": pa.array([0])})
    file = "data-00000-of-00001.arrow"
    with pa.OSFile(str(path / "train" / file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    state = {"_data_files": [{"filename": file}]}
    (path / "train" / "state.json").write_text(json.dumps(state))
    return path


@pytest.mark.parametrize(("make", "expected"), [
    (lambda p: write_folder(p, {"train": 2, "val": 1}), "imagefolder"),
    (lambda p: write_folder(p, {"train": 2}) / "train", "imagefolder"),
    (lambda p: write_folder(p / "a" / "b", {"train": 2}).parents[1], "imagefolder"),
    (parquet_set, "parquet"),
    (configured, "parquet"),
    (saved, "parquet"),
    (tar_set, "webdataset"),
], ids=["splits", "classes", "deeper", "parquet", "one folder down", "arrow", "tar"])  # fmt: skip
def test_every_kind_is_seen(make: Callable[[Path], Path], expected: str, tmp_path: Path) -> None:
    path = make(tmp_path / "set")
    assert kind(path) == expected


def test_a_picture_beside_the_tables_is_no_class(tmp_path: Path) -> None:
    parquet_set(tmp_path / "set")
    write_folder(tmp_path / "other", {"train": 1})
    shutil.copy(tmp_path / "other" / "train" / "red" / "000.png", tmp_path / "set" / "logo.png")
    assert kind(tmp_path / "set") == "parquet"


def test_two_kinds_are_not_chosen_between(tiny_folder: Path) -> None:
    parquet_set(tiny_folder)
    assert "source.kind=parquet or source.kind=imagefolder" in line(tiny_folder)


def test_a_run_and_a_training_keep_what_was_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, explicit = parquet_set(tmp_path / "set"), []
    for value in ("auto", "parquet"):
        overrides = [f"source.kind={value}", f"source.path={path}", "source.image_size=32"]
        plan = make_plan(load("quickstart", [*overrides, f"pretrain.out={tmp_path / 'out'}"]))
        assert plan.as_given.source.kind == plan.config.source.kind == "parquet"
        explicit.append((absolute(load("quickstart", overrides)).yaml(), plan.fingerprint))
    assert explicit[0] == explicit[1]
    assert f"{path} holds Parquet or Arrow tables: source.kind=parquet" in capsys.readouterr().err


@pytest.mark.parametrize("preset", ["cifar10", "nette128", "imagenette", "imagewoof", "imagenet100", "imagenet1k"])
def test_presets_take_whatever_lies_there(preset: str, tiny_folder: Path) -> None:
    for path, expected in ((tiny_folder, "imagefolder"), (parquet_set(tiny_folder.parent / "set"), "parquet")):
        assert absolute(load(preset, [f"source.path={path}"])).source.kind == expected


@pytest.mark.parametrize("name", ["data_batch_1", "images.pkl", "cifar-10-batches-py/batches.meta"])
def test_pickles_are_refused_with_a_way_on(name: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    (root / name).parent.mkdir(parents=True)
    (root / name).write_bytes(b"never opened")
    said = [line(root)]
    for known in ("parquet", "imagefolder", "webdataset"):
        with pytest.raises(BadInput) as caught:
            open_splits(config(known, root))
        said.append(str(caught.value))
    with pytest.raises(BadInput) as caught:
        detect.settled(config("auto", root / name))
    for text in (*said, str(caught.value)):
        assert f"{root / name} is a pickle" in text and "train/CLASS/*.png" in text and "hf download" in text
    write_folder(root, {"train": 2, "val": 1})
    (root / name).unlink()
    assert kind(root) == "imagefolder"


def test_what_holds_nothing_is_told_so(tmp_path: Path) -> None:
    assert "holds no images that are read" in line(tmp_path)
    (tmp_path / "set.zip").write_bytes(b"PK")
    assert "set.zip; unpack it" in line(tmp_path)


@pytest.mark.parametrize("place", ["", "train", "train/red"])
def test_a_name_that_is_not_utf_8_is_told(place: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {"train": 2}) / place
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"?")
    assert line(tmp_path / "set") == f"a name below {folder} is not UTF-8: '\\udcff.png'; rename it"
    (folder / os.fsdecode(b"\xff.png")).rename(folder / "y.png")
    assert kind(tmp_path / "set") == "imagefolder", "the remedy"


@pytest.mark.parametrize("uri", ["s3://", "gs:///", "file://", "s3://?region=x"])
def test_a_uri_that_names_nothing_is_told(uri: str) -> None:
    with pytest.raises(BadInput, match=f"^cannot open {re.escape(uri)}: .* s3://BUCKET"):
        Location.of(uri)


def test_a_folder_that_is_a_class_itself_is_told_so(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", {"train": 2}) / "train"
    said = line(folder / "red")
    assert "holds 2 images (000.png) in no folders of classes" in said
    assert said.endswith(f"source.path={folder}") and kind(folder) == "imagefolder", "the remedy"


class TestCopies:
    def copied(self, folder: Path, name: str = "copy.png", colour: str = "red") -> Path:
        shutil.copy(folder / "train" / "red" / "000.png", folder / "val" / colour / name)
        return folder

    def test_a_training_image_under_another_name_is_refused(self, tiny_folder: Path) -> None:
        self.copied(tiny_folder)
        with pytest.raises(BadInput) as caught:
            open_splits(config("imagefolder", tiny_folder))
        text = str(caught.value)
        assert "1 of 7 validation images is a training image under another name, byte for byte" in text
        assert "val/red/copy.png is " in text and "train/red/000.png); remove one of the two" in text
        (tiny_folder / "val" / "red" / "copy.png").unlink()
        open_splits(config("imagefolder", tiny_folder))

    def test_classes_are_compared_as_they_are_chosen(self, tiny_folder: Path) -> None:
        self.copied(tiny_folder)
        with pytest.raises(BadInput, match="under another name"):
            open_splits(config("imagefolder", tiny_folder, classes=["red", "blue"]))
        open_splits(config("imagefolder", tiny_folder, classes=["green", "blue"]))

    def test_very_few_are_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = self.copied(write_folder(tmp_path / "many", {"train": 4, "val": 40}))
        open_splits(config("imagefolder", folder))
        assert "warning: 1 of 121 validation images is a training image" in capsys.readouterr().err

    def test_empty_files_and_equal_sizes_are_no_copies(self, tiny_folder: Path) -> None:
        for split, name in (("train", "a.bmp"), ("val", "b.bmp")):
            (tiny_folder / split / "red" / name).write_bytes(b"")
            (tiny_folder / split / "red" / f"c{name}").write_bytes(b"x" * 9000 + name.encode())
        assert len(open_splits(config("imagefolder", tiny_folder)).test) == 8


@pytest.mark.parametrize("kind", ["parquet", "arrow", "webdataset"])
class TestCopiesInShards:
    """Images that lie together in files are read to be compared, since nothing tells their sizes."""

    @staticmethod
    def images(seed: int, count: int) -> list[tuple[bytes, int]]:
        return [(data or b"", label or 0) for data, label in rows(seed, count)]

    @staticmethod
    def shards(path: Path, kind: str, **splits: list[tuple[bytes, int]]) -> SourceConfig:
        for split, images in splits.items():
            file = write_parquet(path / f"{split}-0.parquet", images)
            if kind == "arrow":
                save_to_disk(path, {split: pq.read_table(file)})
            elif kind == "webdataset":
                samples = [((f"{i}.cls", b"%d" % label), (f"{i}.png", data)) for i, (data, label) in enumerate(images)]
                write_tar(path / f"{split}-0.tar", [file for sample in samples for file in sample])
            if kind != "parquet":
                file.unlink()
        return config("webdataset" if kind == "webdataset" else "parquet", path)

    def test_training_images_are_refused_with_a_remedy_that_works(self, tmp_path: Path, kind: str) -> None:
        images = self.images(0, 12)
        with pytest.raises(BadInput, match=r"3 of 3 validation images are training images, byte for byte") as caught:
            open_splits(self.shards(tmp_path / "a", kind, train=images, val=images[3:6]))
        of_shards = "webdataset" if kind == "webdataset" else "parquet"
        assert len(open_splits(remedied(of_shards, str(caught.value), tmp_path / "a")).test) == 3
        open_splits(self.shards(tmp_path / "b", kind, train=[*images[:3], *images[6:]], val=images[3:6]))

    def test_of_another_class_and_broken_ones_are_none(self, tmp_path: Path, kind: str) -> None:
        train, val = self.images(0, 6), self.images(50, 6)
        of_another = (train[0][0], (train[0][1] + 1) % 3)
        open_splits(self.shards(tmp_path / "a", kind, train=[*train, (b"", 0)], val=[*val, of_another, (b"", 0)]))

    def test_very_few_are_said(self, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
        train = self.images(0, 6)
        open_splits(self.shards(tmp_path / "a", kind, train=train, val=[*self.images(50, 120), train[0]]))
        assert "warning: 1 of 121 validation images is a training image, byte for byte (" in capsys.readouterr().err

    def test_no_more_than_a_beginning_is_read(self, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        images = self.images(0, 12)
        asked = self.shards(tmp_path / "a", kind, train=images, val=[*self.images(50, 3), *images[9:]])
        monkeypatch.setattr(leakage, "MOST_READ", 2 * 9)
        open_splits(asked)
        monkeypatch.setattr(leakage, "MOST_READ", 2 * 12)
        monkeypatch.setattr(leakage, "MOST_BYTES", 2 * sum(len(data) for data, _ in images[:9]))
        open_splits(asked)


def test_the_remedy_for_a_missing_validation_split_is_one(tmp_path: Path) -> None:
    for name, make in (("parquet", parquet_set), ("webdataset", tar_set)):
        path = make(tmp_path / name)
        for file in path.glob("val*"):
            file.unlink()
        with pytest.raises(BadInput, match=r"without validation images give source\.val=split:0\.2") as caught:
            open_splits(config(name, path))
        assert set(open_splits(remedied(name, str(caught.value).rpartition(";")[2], path)).test.counts) <= {1, 2}
