"""Parquet in the Hugging Face image layout: what is listed and read, and what is refused."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import COLOURS, config, parquet_set, refusal, rows, write_parquet

from raydistill.config import SourceConfig
from raydistill.errors import BadInput
from raydistill.sources.base import Listing, open_source, open_splits
from raydistill.sources.images import decode
from raydistill.store.location import Location


class TestParquet:
    def listed(self, path: Path, split: str = "train") -> Listing:
        return open_source(config("parquet", path)).list(split)

    def refused(self, path: Path) -> str:
        return refusal(open_source(config("parquet", path)))

    @pytest.mark.parametrize("file", ["train-0.parquet", "data/train-0.parquet", "train/0.parquet"])
    def test_is_found_in_each_of_the_three_layouts(self, tmp_path: Path, file: str) -> None:
        write_parquet(tmp_path / file, rows(0))
        assert self.listed(tmp_path).ids.to_pylist() == [f"{file}#{i}" for i in range(5)]
        assert "it has train" in refusal(open_source(config("parquet", tmp_path)), "val")

    def test_in_two_layouts_at_once_is_refused(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "train-0.parquet", rows(0))
        write_parquet(tmp_path / "train" / "0.parquet", rows(0))
        assert "more than once" in self.refused(tmp_path)

    def test_with_a_shard_missing_is_refused_by_its_name(self, tmp_path: Path) -> None:
        (parquet_set(tmp_path) / "train-00001-of-00002.parquet").unlink()
        assert "train-00001-of-00002.parquet is missing" in self.refused(tmp_path)

    def test_class_ids_come_from_classes_json_by_name_never_by_position(self, tmp_path: Path) -> None:
        parquet_set(tmp_path)
        assert [c.class_id for c in self.listed(tmp_path).classes] == list(COLOURS)
        other = {"dirs": ["n3", "n9", "n1", "n2"], "names": ["red", "black", "blue", "green"]}
        (tmp_path / "classes.json").write_text(json.dumps(other))
        expected = [("n1", "blue"), ("n2", "green"), ("n3", "red")]
        assert [(c.class_id, c.class_name) for c in self.listed(tmp_path).classes] == expected

    def test_class_labels_may_be_the_ids_themselves(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "train-0.parquet", rows(0), names=["n2", "n1", "n3"])
        known = {"dirs": ["n1", "n2", "n3"], "names": ["one", "two", "three"]}
        (tmp_path / "classes.json").write_text(json.dumps(known))
        expected = [("n2", "two"), ("n1", "one"), ("n3", "three")]
        assert [(c.class_id, c.class_name) for c in self.listed(tmp_path).classes] == expected

    @pytest.mark.parametrize("names", [["blue", "green", "Red"], ["blue", "green", "green"], ["blue", "green"]])
    def test_a_class_label_that_classes_json_does_not_tell_is_refused(self, tmp_path: Path, names: list[str]) -> None:
        parquet_set(tmp_path)
        known = {"dirs": [f"n{i}" for i in range(len(names))], "names": names}
        (tmp_path / "classes.json").write_text(json.dumps(known))
        assert "classes.json" in self.refused(tmp_path)

    def test_without_class_labels_classes_json_gives_the_order(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "train-0.parquet", rows(0), names=None)
        (tmp_path / "classes.json").write_text(json.dumps({"dirs": ["n1", "n2", "n3"], "names": ["a", "b", "c"]}))
        assert [c.class_id for c in self.listed(tmp_path).classes] == ["n1", "n2", "n3"]
        (tmp_path / "classes.json").write_text(json.dumps({"dirs": ["n1"], "names": ["a"]}))
        assert "outside the 1 classes of classes.json" in self.refused(tmp_path)

    def test_without_any_names_a_class_is_its_number(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "train-0.parquet", [(b"x", 7), (b"y", 10), (b"z", 7)], names=None)
        listing = self.listed(tmp_path)
        assert [c.class_id for c in listing.classes] == ["7", "10"] and list(listing.labels) == [0, 1, 0]

    @pytest.mark.parametrize(
        ("label", "why"),
        [(None, "row 1 has no label"), (-1, "row 1 .* -1, negative"), (3, "row 1 .* 3, outside the 3 classes")],
    )
    def test_a_bad_label_is_refused_with_its_row(self, tmp_path: Path, label: int | None, why: str) -> None:
        write_parquet(tmp_path / "train-0.parquet", [(b"x", 0), (b"y", label), (b"z", 2)])
        with pytest.raises(BadInput, match=f"train-0.parquet: {why}"):
            self.listed(tmp_path)

    @pytest.mark.parametrize(
        ("columns", "why"),
        [
            ({"image": [{"bytes": b"x", "path": "x"}]}, "'label' is missing; it has the columns image"),
            ({"img": ["x"], "label": [0]}, "'image' is missing; it has the columns img, label"),
            ({"image": ["a.png"], "label": [0]}, "'image' is string"),
            ({"image": [{"bytes": "text", "path": "x"}], "label": [0]}, "'image' is struct<bytes: string"),
            ({"image": [{"path": "x"}], "label": [0]}, "'image' is struct<path: string"),
            ({"image": [{"bytes": b"x", "path": "x"}], "label": [True]}, "'label' is bool, not an integer or text"),
            ({"image": [{"bytes": b"x", "path": "x"}], "label": [0.0]}, "'label' is double, not an integer"),
        ],
        ids=lambda v: None if isinstance(v, dict) else v.split(";")[0],
    )
    def test_columns_of_another_shape_are_refused(self, tmp_path: Path, columns: dict[str, Any], why: str) -> None:
        pq.write_table(pa.table(columns), tmp_path / "train-0.parquet")
        assert why in self.refused(tmp_path)

    def test_paths_without_bytes_are_refused(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "train-0.parquet", [(None, 0), (None, 1)])
        assert "not their bytes" in self.refused(tmp_path)

    def test_a_single_hole_is_left_to_decoding(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "train-0.parquet", [(b"x", 0), (None, 1), (b"", 2)])
        source = open_source(config("parquet", tmp_path))
        assert list(source.read("train", source.list("train").ids.to_pylist())) == [b"x", b"", b""]

    @pytest.mark.parametrize("keep", [0, 3, 200, -1])
    def test_a_truncated_file_is_named(self, tmp_path: Path, keep: int) -> None:
        file = parquet_set(tmp_path) / "train-00001-of-00002.parquet"
        file.write_bytes(file.read_bytes()[:keep])
        assert "train-00001-of-00002.parquet is not a readable Parquet file" in self.refused(tmp_path)

    def test_files_with_different_class_labels_are_refused(self, tmp_path: Path) -> None:
        write_parquet(tmp_path / "train-0.parquet", rows(0))
        write_parquet(tmp_path / "train-1.parquet", rows(0), names=list(reversed(COLOURS)))
        assert "different ClassLabel names" in self.refused(tmp_path)

    @pytest.mark.parametrize(
        "text",
        [
            b"{",
            b"[]",
            b'{"info": 3}',
            b'{"info": {"features": {"label": {"names": 3}}}}',
            b'{"info": {"features": {"label": {"names": ["a", "a"]}}}}',
        ],
    )
    def test_damaged_features_are_refused(self, tmp_path: Path, text: bytes) -> None:
        table = pa.table({"image": [{"bytes": b"x", "path": "x"}], "label": [0]})
        pq.write_table(table.replace_schema_metadata({b"huggingface": text}), tmp_path / "train-0.parquet")
        assert "train-0.parquet" in self.refused(tmp_path)

    def test_each_row_group_is_read_once_whatever_the_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = open_source(config("parquet", parquet_set(tmp_path)))
        ids = source.list("train").ids.to_pylist()
        random.Random(1).shuffle(ids)
        groups: list[int] = []
        plain = pq.ParquetFile.read_row_group
        monkeypatch.setattr(
            pq.ParquetFile, "read_row_group", lambda self, i, **kw: (groups.append(i), plain(self, i, **kw))[1]
        )
        assert len(list(source.read("train", ids))) == 10 and groups == [0, 1, 2, 0, 1, 2]
        groups.clear()
        list(source.read("train", ids[:1]))
        assert len(groups) == 1

    def test_listing_reads_no_images(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        big = [(os.urandom(200_000), i % 3) for i in range(30)]
        write_parquet(tmp_path / "train-0.parquet", big, group=10)
        before = pa.total_allocated_bytes()
        peak = _peak_while(lambda: self.listed(tmp_path), monkeypatch)
        assert peak - before < 3_000_000


POOLS: list[pa.MemoryPool] = []  # kept: arrow's threads may free into one after it was in use


def _peak_while(action: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> int:
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    POOLS.append(pool)
    old = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        action()
    finally:
        pa.set_memory_pool(old)
    return int(pool.max_memory())


@pytest.mark.parametrize(("name", "train", "val"), [("imagenette-224", 500, 100), ("cifar10-jpg", 1000, 200)])
class TestSharedData:
    @pytest.fixture
    def real(self, shared: Path, name: str) -> Iterator[SourceConfig]:
        if not (shared / "data" / name).is_dir():
            pytest.skip(f"no {name} in the shared data")
        yield config("parquet", shared / "data" / name)

    def test_is_listed_whole_with_its_class_ids(self, real: SourceConfig, train: int, val: int) -> None:
        splits = open_splits(real)
        assert list(splits.train.counts) == [train] * 10 and list(splits.test.counts) == [val] * 10
        known = json.loads((Location.of(str(real.path)) / "classes.json").read())
        expected = list(zip(known["dirs"], known["names"], strict=True))
        assert [(c.class_id, c.class_name) for c in splits.train.classes] == expected

    def test_labels_agree_with_the_folders_the_images_came_from(self, real: SourceConfig, train: int, val: int) -> None:
        listing = open_source(real).list("val")
        paths = pq.ParquetFile(Path(str(real.path)) / "val-00000-of-00001.parquet").read(["image.path"])["image"]
        folders = [p["path"].partition("/")[0] for p in paths.to_pylist()]
        assert folders == [listing.classes[k].class_id for k in listing.labels]

    def test_images_decode(self, real: SourceConfig, train: int, val: int) -> None:
        source = open_source(real)
        for data in source.read("val", source.list("val").ids.to_pylist()[::250]):
            assert decode(data, 32, real.max_pixels).std() > 0
