"""The contract of every registered source, and of the splits opened from it."""

from __future__ import annotations

import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from samples import coloured_png, config, parquet_set, refusal, tar_set, write_folder

from raydistill import registry
from raydistill.config import SourceConfig
from raydistill.errors import BadInput, StageFailed
from raydistill.sources.base import Listing, open_source, open_splits, select_classes
from raydistill.sources.images import decode

MAKERS: dict[str, Callable[[Path], SourceConfig]] = {
    "auto": lambda p: config("auto", parquet_set(p / "auto")),
    "digits": lambda _: config("digits"),
    "imagefolder": lambda p: config("imagefolder", write_folder(p / "folder", {"train": 4, "val": 2})),
    "parquet": lambda p: config("parquet", parquet_set(p / "parquet")),
    "webdataset": lambda p: config("webdataset", tar_set(p / "webdataset")),
}
ON_DISK = sorted(set(MAKERS) - {"digits"})
JUDGED = {"tensors"}  # of one split: sets that are judged, tests/test_judged_as_published.py


@pytest.fixture(params=sorted({*registry.names("source")} - JUDGED))
def source_config(request: pytest.FixtureRequest, tmp_path: Path) -> SourceConfig:
    assert request.param in MAKERS, f"add a maker for the source {request.param!r} to this file"
    return MAKERS[request.param](tmp_path)


class TestEverySource:
    def test_lists_in_a_stable_order_with_a_stable_digest(self, source_config: SourceConfig) -> None:
        first, second = open_source(source_config).list("train"), open_source(source_config).list("train")
        assert first.ids.equals(second.ids) and first.tags.equals(second.tags)
        assert np.array_equal(first.labels, second.labels) and first.digest == second.digest

    def test_ids_are_unique_and_every_image_has_a_class(self, source_config: SourceConfig) -> None:
        for split in ("train", "val"):
            listing = open_source(source_config).list(split)
            assert len(listing) == len(listing.labels) == len(listing.tags) > 0
            assert len(set(listing.ids.to_pylist())) == len(listing)
            assert listing.labels.dtype == np.int32 and listing.counts.min() > 0
            assert len({c.class_id for c in listing.classes}) == len(listing.classes)

    def test_reads_any_images_in_the_order_asked(self, source_config: SourceConfig) -> None:
        source = open_source(source_config)
        ids = source.list("train").ids.to_pylist()
        alone = {i: next(iter(source.read("train", [i]))) for i in ids[:10]}
        asked = [*ids[:10], ids[0], ids[3]]
        random.Random(0).shuffle(asked)
        assert list(source.read("train", asked)) == [alone[i] for i in asked]
        assert list(source.read("train", [])) == []

    def test_its_images_decode(self, source_config: SourceConfig) -> None:
        source = open_source(source_config)
        for data in source.read("val", source.list("val").ids.to_pylist()[:5]):
            assert decode(data, 16, source_config.max_pixels).shape == (16, 16, 3)

    def test_travels_to_workers_small_and_works_there(self, source_config: SourceConfig) -> None:
        source = open_source(source_config)
        listing = source.list("train")
        sent = pickle.dumps(source)
        assert len(sent) < 1000
        ids = listing.ids.to_pylist()[:3]
        assert list(pickle.loads(sent).read("train", ids)) == list(source.read("train", ids))

    def test_names_a_split_that_is_not_there(self, source_config: SourceConfig) -> None:
        text = refusal(open_source(source_config), "trian")
        assert "trian" in text and "train" in text and "val" in text

    def test_opens_as_the_splits_of_a_run(self, source_config: SourceConfig) -> None:
        splits = open_splits(source_config)
        assert splits.train.classes == splits.test.classes and len(splits.train) > len(splits.test) > 0

    def test_carves_a_search_split_that_depends_on_ids_alone(self, source_config: SourceConfig) -> None:
        listing = open_source(source_config).list("train")
        try:
            splits = open_splits(source_config.model_copy(update={"search_split": 0.4}))
        except BadInput as e:
            assert "has no image in the" in str(e) and len(listing) < 20
            return
        train, test = set(splits.train.ids.to_pylist()), set(splits.test.ids.to_pylist())
        assert not train & test and train | test == set(listing.ids.to_pylist())

    def test_carves_a_validation_split_of_every_class_by_id(self, source_config: SourceConfig) -> None:
        listing = open_source(source_config).list("train")
        splits = open_splits(source_config.model_copy(update={"val": "split:0.25"}))
        again = open_splits(source_config.model_copy(update={"val": "split:0.25:1"}))
        train, test = set(splits.train.ids.to_pylist()), set(splits.test.ids.to_pylist())
        assert not train & test and train | test == set(listing.ids.to_pylist())
        held = np.minimum(np.maximum(np.rint(0.25 * listing.counts), 1), listing.counts - 1)
        assert np.array_equal(splits.test.counts, held) and np.array_equal(again.test.counts, held)
        assert len(listing) < 20 or set(again.test.ids.to_pylist()) != test, "the seed chooses others"
        images = splits.source.read(splits.test.split, splits.test.ids.to_pylist()[:2])
        assert all(decode(data, 8, source_config.max_pixels).shape == (8, 8, 3) for data in images)

    @pytest.mark.parametrize("kind", ON_DISK)
    def test_on_disk_needs_a_path_that_exists(self, kind: str, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"source.path: .*give source.path=DIR"):
            open_source(config(kind))
        assert "nowhere does not exist; give the folder" in refusal(open_source(config(kind, tmp_path / "nowhere")))
        (tmp_path / "Meine Fotos").mkdir()
        hint = f"does not exist; did you mean {tmp_path / 'Meine Fotos'}?"
        assert hint in refusal(open_source(config(kind, tmp_path / "Meine Foto")))
        (tmp_path / "file").write_text("x")
        assert "is not a folder" in refusal(open_source(config(kind, tmp_path / "file")))
        assert "cannot open" in refusal(open_source(config(kind, "nosuch://bucket/images")))

    @pytest.mark.parametrize("kind", ON_DISK)
    def test_on_disk_is_read_alike_through_a_uri(self, kind: str, tmp_path: Path) -> None:
        local = MAKERS[kind](tmp_path)
        remote = local.model_copy(update={"path": f"file://{local.path}"})
        here, there = open_source(local), open_source(remote)
        assert here.list("train").digest == there.list("train").digest
        ids = here.list("train").ids.to_pylist()
        assert list(here.read("train", ids)) == list(there.read("train", ids))

    @pytest.mark.parametrize("kind", ON_DISK)
    def test_on_disk_changes_its_digest_with_a_file_and_only_then(self, kind: str, tmp_path: Path) -> None:
        source_config = MAKERS[kind](tmp_path)
        before = open_source(source_config).list("train").digest
        assert open_source(source_config).list("train").digest == before
        file = next(p for p in sorted(Path(str(source_config.path)).rglob("*")) if p.is_file() and "train" in str(p))
        data, stat = file.read_bytes(), file.stat()
        file.write_bytes(data)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert open_source(source_config).list("train").digest == before
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        assert open_source(source_config).list("train").digest != before

    @pytest.mark.parametrize("kind", ON_DISK)
    def test_on_disk_names_a_file_that_vanished_after_listing(self, kind: str, tmp_path: Path) -> None:
        source = open_source(source_config := MAKERS[kind](tmp_path))
        ids = source.list("train").ids.to_pylist()
        name = ids[0].partition("#")[0]
        file = next(p for p in Path(str(source_config.path)).rglob(Path(name).name) if "train" in str(p))
        file.unlink()
        with pytest.raises(StageFailed, match=file.name):
            list(source.read("train", ids))


class TestListing:
    def listing(self, tiny_folder: Path) -> Listing:
        return open_source(config("imagefolder", tiny_folder)).list("train")

    def test_classes_are_picked_and_ordered_by_id_or_name(self, tiny_folder: Path) -> None:
        picked = select_classes(self.listing(tiny_folder), ["red", "blue"])
        assert [c.class_id for c in picked.classes] == ["red", "blue"] and len(picked) == 8
        assert all(i.startswith(["red", "blue"][k]) for i, k in zip(picked.ids.to_pylist(), picked.labels, strict=True))

    @pytest.mark.parametrize("wanted", [["red", "red"], [], ["red", "Rot"], ["mauve"]])
    def test_classes_twice_none_or_unknown_are_refused(self, tiny_folder: Path, wanted: list[str]) -> None:
        (tiny_folder / "classes.json").write_text(json.dumps({"dirs": ["red"], "names": ["Rot"]}))
        with pytest.raises(BadInput, match=r"source\.classes"):
            select_classes(self.listing(tiny_folder), wanted)

    def test_a_class_without_images_is_refused_by_name(self, tiny_folder: Path) -> None:
        for file in (tiny_folder / "val" / "green").iterdir():
            file.rename(file.with_suffix(".txt"))
        with pytest.raises(BadInput, match=r"'green' .* has no image in the test split 'val'"):
            open_splits(config("imagefolder", tiny_folder))

    def test_a_class_of_one_split_only_is_refused_by_name(self, tiny_folder: Path) -> None:
        (tiny_folder / "val" / "green").rename(tiny_folder / "val" / "olive")
        with pytest.raises(BadInput, match=r"'green' \(4 images\) is in split 'train' but not in 'val'"):
            open_splits(config("imagefolder", tiny_folder))

    def test_test_labels_follow_the_training_classes_by_id(self, tiny_folder: Path) -> None:
        (tiny_folder / "val" / "azure").mkdir()
        (tiny_folder / "val" / "azure" / "x.png").write_bytes(coloured_png((0, 0, 0), 1))
        test = open_splits(config("imagefolder", tiny_folder)).test
        assert [i.partition("/")[0] for i in test.ids.to_pylist()] == [test.classes[k].class_id for k in test.labels]
        assert len(test) == 6

    def test_one_class_is_refused(self, tiny_folder: Path) -> None:
        with pytest.raises(BadInput, match="one class"):
            open_splits(config("imagefolder", tiny_folder, classes=["red"]))
