"""Tables as people have them: other columns, labels as text, other places of the splits, and Arrow folders."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import COLOURS, config, images_of, parquet_set, refusal, remedied, rows, write_parquet

from raydistill import config as configuration
from raydistill.config import SourceConfig
from raydistill.errors import BadInput
from raydistill.pipeline.preflight import prepare
from raydistill.sources.base import Listing, open_source, open_splits

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COLOUR_OF = list(COLOURS)


def packed(blobs: Sequence[bytes]) -> pa.Array:
    return pa.array([{"bytes": b, "path": "x.png"} for b in blobs], STRUCT)


def write(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": features}}).encode()})
    pq.write_table(table, path, row_group_size=4)
    return path


def save_to_disk(folder: Path, splits: dict[str, pa.Table], stream: bool = True) -> Path:
    """What Hugging Face datasets leaves: a folder a split, two tables and state.json in each."""
    for split, table in splits.items():
        (folder / split).mkdir(parents=True)
        half, names = len(table) // 2, [f"data-{i:05d}-of-00002.arrow" for i in range(2)]
        for name, part in zip(names, (table[:half], table[half:]), strict=True):
            new = pa.ipc.new_stream if stream else pa.ipc.new_file
            with new(folder / split / name, table.schema) as writer:
                writer.write_table(part, max_chunksize=2)
        state = {"_data_files": [{"filename": n} for n in names], "_split": split, "_indices_data_files": None}
        (folder / split / "state.json").write_text(json.dumps(state))
        (folder / split / "cache-0123456789.arrow").write_bytes(b"left by map()")
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def arrow_table(seed: int, count: int = 6) -> pa.Table:
    return pa.table({"image": packed(images_of(seed, count)), "label": [i % 3 for i in range(count)]})


def listed(path: Path | str, split: str = "train", **more: Any) -> Listing:
    return open_source(config("parquet", path, **more)).list(split)


def ids(listing: Listing) -> list[str]:
    return [listing.classes[k].class_id for k in listing.labels]


def read(path: Path, split: str = "train", **more: Any) -> list[bytes]:
    source = open_source(config("parquet", path, **more))
    return list(source.read(split, source.list(split).ids.to_pylist()))


def refused_with(path: Path, split: str = "train", **more: Any) -> str:
    return refusal(open_source(config("parquet", path, **more)), split)


def followed(line: str, path: Path, **more: Any) -> SourceConfig:
    return remedied("parquet", line, path, **more)


class TestColumns:
    @pytest.mark.parametrize("kind", [STRUCT, pa.binary(), pa.large_binary()], ids=str)
    @pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "label"), ("a.b", "class"), ("jpg", "y")])
    def test_the_only_ones_that_fit_are_taken(self, tmp_path: Path, kind: pa.DataType, image: str, label: str) -> None:
        column = packed(images_of()) if kind == STRUCT else pa.array(images_of(), kind)
        write(tmp_path / "train-0.parquet", {image: column, label: [0, 1, 2] * 2, "score": [0.5] * 6})
        assert ids(listed(tmp_path)) == ["0", "1", "2"] * 2 and read(tmp_path) == images_of()

    def test_the_one_with_class_names_is_the_label_among_others(self, tmp_path: Path) -> None:
        columns = {"img": packed(images_of()), "width": [12] * 6, "animal": [2, 1, 0] * 2, "id": list(range(6))}
        write(tmp_path / "train-0.parquet", columns, {"animal": {"_type": "ClassLabel", "names": COLOUR_OF}})
        assert ids(listed(tmp_path)) == ["red", "green", "blue"] * 2

    def test_of_several_that_fit_one_is_named_by_its_key(self, tmp_path: Path) -> None:
        columns = {
            "left": packed(images_of()),
            "right": packed(images_of(9)),
            "fine": [0, 1, 2] * 2,
            "coarse": [0, 1] * 3,
        }
        write(tmp_path / "train-0.parquet", columns)
        line = refused_with(tmp_path)
        assert "'left' and 'right' may each hold the images" in line
        first = followed(line, tmp_path)
        line = refusal(open_source(first))
        assert "'fine' and 'coarse' may each hold the labels" in line
        both = followed(line, tmp_path, image_column=first.image_column)
        assert ids(open_source(both).list("train")) == ["0", "1", "2"] * 2
        assert read(tmp_path, image_column="right", label_column="coarse") == images_of(9)

    def test_other_images_of_the_same_rows_are_another_listing(self, tmp_path: Path) -> None:
        write(
            tmp_path / "train-0.parquet", {"a": packed(images_of()), "b": packed(images_of(9)), "label": [0, 1, 2] * 2}
        )
        a, b = (listed(tmp_path, image_column=c).digest for c in "ab")
        assert a != b
        table = pa.table({"a": images_of(), "b": images_of(9), "label": [0, 1, 2] * 2})
        save_to_disk(tmp_path / "saved", {"train": table})
        a, b = (listed(tmp_path / "saved", image_column=c).digest for c in "ab")
        assert a != b

    def test_the_usual_columns_say_nothing_in_the_listing(self, tmp_path: Path) -> None:
        """Their tag is what it was before there was a choice, and so are the fingerprints made of it."""
        file = parquet_set(tmp_path) / "train-00000-of-00002.parquet"
        tag = listed(tmp_path).tags[0].as_py()
        assert tag.startswith(f"{file.stat().st_size}:{file.stat().st_mtime_ns}:") and tag.count(":") == 2
        assert listed(tmp_path).digest == listed(tmp_path, image_column="image", label_column="label").digest

    @pytest.mark.parametrize(
        ("more", "why"),
        [
            (
                {"image_column": "picture"},
                "there is no column 'picture' (source.image_column); it has the columns image",
            ),
            ({"label_column": "kind"}, "there is no column 'kind' (source.label_column)"),
            ({"label_column": "score"}, "column 'score' is double, not an integer or text"),
            ({"image_column": "label"}, "column 'label' is int64, not struct<bytes: binary, path: string> or binary"),
        ],
    )
    def test_one_that_is_named_and_does_not_fit_is_refused(
        self, tmp_path: Path, more: dict[str, str], why: str
    ) -> None:
        write(tmp_path / "train-0.parquet", {"image": packed(images_of()), "label": [0, 1] * 3, "score": [0.5] * 6})
        line = refused_with(tmp_path, **more)
        assert why in line
        assert len(open_source(followed(line, tmp_path)).list("train")) == 6

    @pytest.mark.parametrize(
        "column", [[f"a picture of {i}" for i in range(6)], list(range(6))], ids=["text", "number"]
    )
    def test_what_differs_in_every_row_is_no_label_unless_it_is_named(self, tmp_path: Path, column: list[Any]) -> None:
        write(tmp_path / "train-0.parquet", {"image": packed(images_of()), "caption": column})
        line = refused_with(tmp_path)
        assert "'caption', the only one that may hold labels, differs in every row" in line
        assert len(open_source(followed(line, tmp_path)).list("train").classes) == 6

    def test_files_of_a_split_with_different_columns_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "train-0.parquet", {"image": packed(images_of()), "label": [0, 1, 2] * 2})
        write(tmp_path / "train-1.parquet", {"img": packed(images_of()), "label": [0, 1, 2] * 2})
        assert "train-1.parquet and train-0.parquet hold images or labels in different columns" in refused_with(
            tmp_path
        )


class TestTextLabels:
    @pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str)
    def test_are_class_ids_whatever_file_says_them_first(self, tmp_path: Path, kind: pa.DataType) -> None:
        for i, texts in enumerate((["cat", "ant", "cat"], ["bee", "cat", "ant"])):
            labels = pa.array(texts).cast(kind)
            write(tmp_path / f"train-{i}.parquet", {"image": packed(images_of(i, 3)), "label": labels})
        listing = listed(tmp_path)
        assert [c.class_id for c in listing.classes] == ["ant", "bee", "cat"]
        assert ids(listing) == ["cat", "ant", "cat", "bee", "cat", "ant"]

    def test_dictionaries_of_numbers_are_numbers(self, tmp_path: Path) -> None:
        labels = pa.array([7, 10, 7], pa.int64()).dictionary_encode()
        write(tmp_path / "train-0.parquet", {"image": packed(images_of(0, 3)), "label": labels})
        assert ids(listed(tmp_path)) == ["7", "10", "7"]

    def test_classes_json_gives_their_ids(self, tmp_path: Path) -> None:
        write(tmp_path / "train-0.parquet", {"image": packed(images_of(0, 3)), "label": ["cat", "ant", "cat"]})
        (tmp_path / "classes.json").write_text(json.dumps({"dirs": ["n2", "n1"], "names": ["cat", "ant"]}))
        assert ids(listed(tmp_path)) == ["n2", "n1", "n2"]
        (tmp_path / "classes.json").write_text(json.dumps({"dirs": ["n2"], "names": ["cat"]}))
        assert "does not tell which class 'ant' of the labels is" in refused_with(tmp_path)

    @pytest.mark.parametrize(("label", "why"), [(None, "row 1 has no label (null)"), ("", "row 1 has an empty label")])
    def test_none_and_an_empty_one_are_refused_with_the_row(self, tmp_path: Path, label: str | None, why: str) -> None:
        write(tmp_path / "train-0.parquet", {"image": packed(images_of(0, 3)), "label": ["a", label, "b"]})
        assert why in refused_with(tmp_path)


class TestWhereTheSplitsLie:
    @pytest.mark.parametrize("file", ["plain_text/{}-00000-of-00001.parquet", "default/{}/0000.parquet", "{}.parquet"])
    def test_one_folder_above_them_is_no_matter(self, tmp_path: Path, file: str) -> None:
        for split, seed in (("train", 0), ("val", 50)):
            write_parquet(tmp_path / file.format(split), rows(seed, 6))
        splits = open_splits(config("parquet", tmp_path))
        assert splits.train.ids[0].as_py() == f"{file.format('train')}#0" and read(tmp_path, "val") == images_of(50)

    def test_two_of_them_are_two_sets_of_which_one_is_chosen(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            write_parquet(tmp_path / name / "train-0.parquet", rows(0))
        line = refused_with(tmp_path)
        assert "in several folders (a, b)" in line
        assert len(open_source(followed(line, tmp_path)).list("train")) == 5

    @pytest.mark.parametrize("name", ["validation", "valid", "test"])
    def test_val_goes_by_other_names(self, tmp_path: Path, name: str) -> None:
        write_parquet(tmp_path / "train-0.parquet", rows(0))
        write_parquet(tmp_path / f"{name}-0.parquet", rows(50, 3))
        assert open_splits(config("parquet", tmp_path)).test.split == name

    def test_validation_is_meant_before_test_and_val_before_both(self, tmp_path: Path) -> None:
        for name in ("train", "test", "validation"):
            write_parquet(tmp_path / f"{name}-0.parquet", rows(0))
        assert listed(tmp_path, "val").split == "validation"
        write_parquet(tmp_path / "val-0.parquet", rows(0))
        assert listed(tmp_path, "val").split == "val"
        assert "no split 'dev'" in refused_with(tmp_path, "dev", val="dev"), "a name that was chosen is meant"

    def test_a_folder_of_both_splits_is_none_itself(self, tmp_path: Path) -> None:
        """Taken for the training split it would hold the test images; the line names what works."""
        for name, seed in (("train", 0), ("test", 9)):
            write_parquet(tmp_path / "plain_text" / f"{name}-0.parquet", rows(seed, 6))
        pooled = config("parquet", tmp_path, train="plain_text")
        with pytest.raises(BadInput, match="plain_text holds the splits test and train") as caught:
            open_splits(pooled)
        splits = open_splits(followed(str(caught.value), tmp_path, train="plain_text"))
        assert splits.train.split == "train" and splits.test.split == "test"

    def test_the_split_that_is_tested_on_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name, seed in (("train", 0), ("test", 9)):
            write_parquet(tmp_path / f"{name}-0.parquet", rows(seed, 6))
        overrides = [
            "source.kind=parquet",
            f"source.path={tmp_path}",
            "method=random",
            "ipc=1",
            "evaluate.baselines=[]",
        ]
        for more, said in ([], 1), (["source.val=test"], 0), (["source.search_split=0.5"], 0):
            with contextlib.suppress(BadInput):  # half of six images may leave out a class
                prepare(configuration.load("quickstart", [*overrides, *more, "ipc=1", f"run_dir={tmp_path}/run"]))
            assert capsys.readouterr().err.count("tested on the split 'test': there is none called 'val'") == said

    def test_a_cache_of_links_is_read(self, tmp_path: Path) -> None:
        """The hub's client keeps a snapshot of links to the files, which lie elsewhere."""
        blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0" / "plain_text"
        snapshot.mkdir(parents=True)
        for name, seed in (("train", 0), ("test", 9)):
            write_parquet(blobs / f"{name}0", rows(seed, 6))
            (snapshot / f"{name}-00000-of-00001.parquet").symlink_to(f"../../../blobs/{name}0")
        splits = open_splits(config("parquet", snapshot.parent))
        assert len(splits.train) == 6 and read(snapshot.parent) == images_of()


class TestArrow:
    @pytest.mark.parametrize("stream", [True, False])
    def test_a_folder_that_was_saved_to_disk_is_read(self, tmp_path: Path, stream: bool) -> None:
        save_to_disk(tmp_path / "a", {"train": arrow_table(0), "validation": arrow_table(50, 4)}, stream)
        splits = open_splits(config("parquet", tmp_path / "a"))
        assert ids(splits.train) == ["0", "1", "2"] * 2 and splits.test.split == "validation"
        assert list(splits.source.read("train", splits.train.ids.to_pylist()[::-1])) == images_of()[::-1]

    def test_its_class_names_and_columns_are_those_of_parquet(self, tmp_path: Path) -> None:
        table = pa.table({"img": pa.array(images_of(0, 4)), "class": ["red", "blue"] * 2})
        save_to_disk(tmp_path / "text", {"train": table})
        assert ids(listed(tmp_path / "text")) == ["red", "blue"] * 2
        names = {b"huggingface": json.dumps({"info": {"features": {"label": {"names": COLOUR_OF}}}}).encode()}
        save_to_disk(tmp_path / "named", {"train": arrow_table(0).replace_schema_metadata(names)})
        assert ids(listed(tmp_path / "named"))[:3] == COLOUR_OF

    def test_one_split_alone_is_named_as_what_it_is(self, tmp_path: Path) -> None:
        folder = save_to_disk(tmp_path, {"mine": arrow_table(0, 60)}) / "mine"
        line = refused_with(folder)
        assert "a single split as save_to_disk writes it" in line
        taken = followed(line, folder)
        assert len(open_splits(taken).train) > 40

    def test_a_part_that_is_missing_or_damaged_is_named(self, tmp_path: Path) -> None:
        file = save_to_disk(tmp_path, {"train": arrow_table(0)}) / "train" / "data-00001-of-00002.arrow"
        data = file.read_bytes()
        for kept in (0, 3, 200, len(data) // 2):
            file.write_bytes(data[:kept])
            assert "data-00001-of-00002.arrow is not a readable Arrow table" in refused_with(tmp_path)
        file.unlink()
        assert "data-00001-of-00002.arrow is missing" in refused_with(tmp_path)

    def test_a_selection_of_rows_that_lies_beside_is_refused(self, tmp_path: Path) -> None:
        state = save_to_disk(tmp_path, {"train": arrow_table(0)}) / "train" / "state.json"
        state.write_text(json.dumps(json.loads(state.read_text()) | {"_indices_data_files": [{"filename": "i.arrow"}]}))
        assert "flatten_indices().save_to_disk()" in refused_with(tmp_path)

    def test_paths_without_bytes_are_refused(self, tmp_path: Path) -> None:
        table = pa.table({"image": pa.array([{"bytes": None, "path": "a.png"}] * 4, STRUCT), "label": [0, 1] * 2})
        save_to_disk(tmp_path, {"train": table})
        assert "not their bytes" in refused_with(tmp_path)

    def test_it_is_read_through_a_uri_of_this_disk(self, tmp_path: Path) -> None:
        save_to_disk(tmp_path, {"train": arrow_table(0)})
        assert listed(f"file://{tmp_path}").digest == listed(tmp_path).digest


@pytest.mark.parametrize(
    ("kind", "key"),
    [(k, key) for k in ("digits", "imagefolder") for key in ("image", "label")] + [("webdataset", "image")],
)
def test_a_column_is_no_key_of_what_has_none(tmp_path: Path, kind: str, key: str) -> None:
    path = None if kind == "digits" else tmp_path
    with pytest.raises(BadInput, match=f"source.{key}_column: source.kind={kind} .* does not read it; leave it out"):
        open_splits(config(kind, path, **{f"{key}_column": "x"}))


def test_the_hubs_cifar10_is_read_by_the_preset_as_it_lies_there(tmp_path: Path) -> None:
    """One configuration folder, the columns img and label with class names, and no split called val."""
    names = {"label": {"_type": "ClassLabel", "names": COLOUR_OF}, "img": {"_type": "Image"}}
    for split in ("train", "test"):
        columns = {"img": packed(images_of()), "label": [0, 1, 2] * 2}
        write(tmp_path / "plain_text" / f"{split}-00000-of-00001.parquet", columns, names)
    splits = open_splits(configuration.load("cifar10", [f"source.path={tmp_path}"]).source)
    assert [c.class_id for c in splits.train.classes] == COLOUR_OF and splits.test.split == "test"
