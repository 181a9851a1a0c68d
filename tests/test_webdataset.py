"""WebDataset tar shards: what is listed and read, and what is refused. The standard library's tarfile writes them."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from samples import config, refusal, rows, tar_samples, tar_set, write_tar

from raydistill.errors import StageFailed
from raydistill.sources import webdataset
from raydistill.sources.base import Listing, open_source, open_splits
from raydistill.sources.tar import ReadWindow, member_at, members


def listed(path: Path, split: str = "train") -> Listing:
    return open_source(config("webdataset", path)).list(split)


def keys(listing: Listing) -> list[str]:
    return [i.rpartition("@")[0] for i in listing.ids.to_pylist()]


def refused(path: Path, split: str = "train") -> str:
    return refusal(open_source(config("webdataset", path)), split)


def shard_refused(tmp_path: Path, files: Sequence[tuple[str, bytes]]) -> str:
    """The refusal of one shard with these files; it names the shard."""
    write_tar(tmp_path / "train-0.tar", files)
    text = refused(tmp_path)
    assert str(tmp_path / "train-0.tar") in text
    return text


class TestLayout:
    @pytest.mark.parametrize("file", ["train-0.tar", "train-set-7.tar", "train/a.tar", "train/000.tar"])
    def test_is_found_flat_and_in_a_folder(self, tmp_path: Path, file: str) -> None:
        write_tar(tmp_path / file, tar_samples(0))
        assert keys(listed(tmp_path)) == [f"{file}#000{i}" for i in range(5)]
        assert "it has train" in refused(tmp_path, "val")

    def test_in_both_places_at_once_is_refused(self, tmp_path: Path) -> None:
        for file in ("train-0.tar", "train/0.tar"):
            write_tar(tmp_path / file, tar_samples(0))
        assert "more than once" in refused(tmp_path)

    @pytest.mark.parametrize("split", ["x-{0008..0010}", "x-{0008..0010}.tar", "far/y-{8..10}-end"])
    def test_braces_name_the_shards_in_order(self, tmp_path: Path, split: str) -> None:
        names = (
            [f"x-{i:04d}.tar" for i in (8, 9, 10)]
            if split.startswith("x")
            else [f"far/y-{i}-end.tar" for i in (8, 9, 10)]
        )
        for i, name in enumerate(names):
            write_tar(tmp_path / name, tar_samples(i, 1))
        write_tar(tmp_path / "x-0011.tar", tar_samples(0, 1))
        assert [k.partition("#")[0] for k in keys(listed(tmp_path, split))] == names
        (tmp_path / names[1]).unlink()
        assert names[1] in refused(tmp_path, split)

    @pytest.mark.parametrize("split", ["x-{1..0}", "x-{0..9999999}", "x-{a..b}", "x-{0..1}-{0..1}", "{", "../x-{0..1}"])
    def test_braces_that_mean_nothing_are_refused(self, tmp_path: Path, split: str) -> None:
        write_tar(tmp_path / "x-0.tar", tar_samples(0))
        assert repr(split) in refused(tmp_path, split)

    def test_a_number_left_out_is_refused_unless_braces_choose(self, tmp_path: Path) -> None:
        for i in (3, 4, 6):
            write_tar(tmp_path / f"train-{i:05d}.tar", tar_samples(i))
        assert "train-00005.tar is missing" in refused(tmp_path)
        assert len(listed(tmp_path, "train-{00003..00004}")) == 10

    def test_names_that_sort_unlike_their_numbers_are_taken_as_they_sort(self, tmp_path: Path) -> None:
        for name in ("train-10", "train-9", "train-a"):
            write_tar(tmp_path / f"{name}.tar", tar_samples(0, 1))
        assert keys(listed(tmp_path)) == ["train-10.tar#0000", "train-9.tar#0000", "train-a.tar#0000"]

    @pytest.mark.parametrize("name", ["train-0.tar.gz", "train-0.tgz", "train/0.tar.zst"])
    def test_compressed_shards_are_refused(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(write_tar(tmp_path / "other.tar", tar_samples(0)).read_bytes()))
        assert "make it a plain .tar" in refused(tmp_path)

    def test_folders_of_other_things_do_not_hide_that_a_split_is_missing(self, tmp_path: Path) -> None:
        (tmp_path / "50% a?b").mkdir()
        (tmp_path / "50% a?b" / "x.tar.gz").write_bytes(b"?")
        write_tar(tmp_path / "val" / "0.tar", tar_samples(0))
        for path in (str(tmp_path), f"file://{tmp_path}"):
            assert "(it has val)" in refusal(open_source(config("webdataset", path)))

    def test_a_split_of_no_images_is_refused(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "train-0.tar", [])
        assert "no image" in refused(tmp_path)

    def test_a_shard_may_be_empty_where_others_are_not(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "train-0.tar", [])
        write_tar(tmp_path / "train-1.tar", tar_samples(0))
        assert len(listed(tmp_path)) == 5

    def test_a_shard_with_the_mark_of_ids_in_its_name_is_refused(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "train-#0.tar", tar_samples(0))
        assert "may not hold #" in refused(tmp_path)


class TestSamples:
    def test_a_key_ends_at_the_first_dot_of_the_name_in_any_case(self, tmp_path: Path) -> None:
        write_tar(
            tmp_path / "train-0.tar",
            [
                ("./a.b/x.JPG", b"1"),
                ("./a.b/x.cls", b"3\n"),
                ("./a.b/x.seg.png", b"2"),
                ("./a.b/x.txt", b"?"),
                ("y.WebP", b"4"),
                ("y.CLS", b" 1 "),
                ("README", b"?"),
                ("._y.jpg", b"?"),
            ],
        )
        listing = listed(tmp_path)
        assert keys(listing) == ["train-0.tar#a.b/x", "train-0.tar#y"] and list(listing.labels) == [1, 0]
        source = open_source(config("webdataset", tmp_path))
        assert list(source.read("train", listing.ids.to_pylist())) == [b"1", b"4"]

    def test_odd_keys_are_read_back(self, tmp_path: Path) -> None:
        odd = ["ü 1", "a@2", "b#3.tar@4", "50%20", "n" * 90 + "/" + "m" * 140]
        write_tar(
            tmp_path / "train-0.tar",
            [f for k in odd for f in ((f"{k.split('.')[0]}.jpg", k.encode()), (f"{k.split('.')[0]}.cls", b"0"))],
        )
        listing = listed(tmp_path)
        read = open_source(config("webdataset", tmp_path)).read("train", listing.ids.to_pylist())
        assert [data.decode() for data in read] == odd

    def test_the_label_is_the_cls_and_otherwise_the_json(self, tmp_path: Path) -> None:
        label = json.dumps({"label": 7, "more": [1]}).encode()
        write_tar(
            tmp_path / "train-0.tar",
            [("a.jpg", b"1"), ("a.json", label), ("b.json", label), ("b.jpg", b"2"), ("b.cls", b"5")],
        )
        assert [c.class_id for c in listed(tmp_path).classes] == ["5", "7"] and list(listed(tmp_path).labels) == [1, 0]

    def test_classes_json_gives_the_classes_by_position(self, tmp_path: Path) -> None:
        listing = listed(tar_set(tmp_path))
        assert [(c.class_id, c.class_name) for c in listing.classes] == [("n0", "blue"), ("n1", "green"), ("n2", "red")]
        assert list(listing.labels) == [0, 1, 2, 0, 1, 0, 1, 2, 0, 1]
        (tmp_path / "classes.json").write_text(json.dumps({"dirs": ["n0"], "names": ["blue"]}))
        assert "outside the 1 classes of classes.json" in refused(tmp_path)

    def test_splits_agree_by_class_even_if_one_lacks_a_number(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "train-0.tar", [f for k in "57" for f in ((f"{k}.jpg", b"x"), (f"{k}.cls", k.encode()))])
        write_tar(tmp_path / "val-0.tar", [f for k in "175" for f in ((f"{k}.jpg", b"y"), (f"{k}.cls", k.encode()))])
        splits = open_splits(config("webdataset", tmp_path))
        assert [c.class_id for c in splits.test.classes] == ["5", "7"] and list(splits.test.labels) == [1, 0]

    @pytest.mark.parametrize(
        ("files", "why"),
        [
            ([("a.jpg", b"x")], "'a' has no label"),
            ([("a.jpg", b"x"), ("a.txt", b"3")], "'a' has no label"),
            ([("a.cls", b"0")], "'a' has no image"),
            ([("a.b.jpg", b"x"), ("a.cls", b"0")], "a.b.jpg is none: a key ends at the first dot"),
            ([("README.md", b"x")], "'README' has no image"),
            ([("a.jpg", b"x"), ("a.png", b"y"), ("a.cls", b"0")], "'a' has 2 images"),
            ([("a.jpg", b"x"), ("a.jpg", b"y"), ("a.cls", b"0")], "'a' has 2 images"),
            ([("a.jpg", b"x"), ("a.cls", b"0"), ("a.cls", b"1")], "'a.cls' is there twice"),
            ([*tar_samples(0, 2), *tar_samples(0, 1)], "'0000' is there twice, apart"),
            ([("a.jpg", b"x"), ("a.cls", b"-1")], "negative"),
            ([("a.jpg", b"x"), ("a.cls", b"2147483648")], "too large"),
            ([("a.jpg", b"x"), ("a.cls", b"9" * 5000)], "not a whole number"),
            *[
                ([("a.jpg", b"x"), ("a.cls", text)], "a.cls is not a whole number")
                for text in (b"", b"1.0", b" nan ", b"\xd9\xa3")
            ],
            *[
                ([("a.jpg", b"x"), ("a.cls", text)], "a.cls is not one line of at most 256 characters")
                for text in (b"a dog\nand a cat", b"c" * 257)
            ],
            ([("a.jpg", b"x"), ("a.cls", b"\xff")], "a.cls is not UTF-8"),
            (
                [("a.jpg", b"x"), ("a.cls", b"cat")],
                "0090.cls says the class in another way (number: '0') than a.cls (text",
            ),
            *[
                ([("a.jpg", b"x"), ("a.json", text)], "the label of a.json is not a whole number or a text")
                for text in (b'{"label": true}', b'{"label": 1.5}', b'{"label": null, "class": 3}')
            ],
            *[
                ([("a.jpg", b"x"), ("a.json", text)], "a.json is not a JSON object")
                for text in (b"", b"3", b"[" * 100_000, b"\xff")
            ],
            ([("a.jpg", b"x"), ("a.json", b"{}")], "a.json has no key 'label' (it has none)"),
            ([("n01440764.tar", b"x")], "it holds archives (n01440764.tar), not images"),
            ([("a.jpg", b"x"), ("a.json", b" " * (2**20 + 1))], "more than the 1048576 of a label"),
        ],
    )
    def test_a_sample_that_is_none_is_refused_by_its_key(
        self, tmp_path: Path, files: list[tuple[str, bytes]], why: str
    ) -> None:
        assert why in shard_refused(tmp_path, [*files, *tar_samples(90, 1)])


class TestReading:
    @pytest.mark.parametrize("ahead", [1, 512, 1000, 2**20])
    def test_takes_any_request_size(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int) -> None:
        monkeypatch.setattr(webdataset, "AHEAD", ahead)
        tar_set(tmp_path)
        ids = listed(tmp_path).ids.to_pylist()
        random.Random(0).shuffle(ids)
        read = dict(zip(ids, open_source(config("webdataset", tmp_path)).read("train", ids), strict=True))
        expected = [data for seed in (0, 10) for data, _ in rows(seed)]
        assert [read[i] for i in sorted(ids)] == expected

    def test_asks_a_store_for_little_more_than_it_needs(self, tmp_path: Path) -> None:
        """Two hundred images of 50 kB are listed by their headers, and one image is read without the others."""
        path = write_tar(
            tmp_path / "train-0.tar",
            [f for i in range(200) for f in ((f"{i:04d}.cls", b"0"), (f"{i:04d}.jpg", bytes(50_000)))],
        )

        class Counted(io.BytesIO):
            asked = 0

            def read_at(self, length: int, offset: int) -> bytes:
                Counted.asked += length
                return self.getbuffer()[offset : offset + length].tobytes()

        data = path.read_bytes()
        archive = ReadWindow(Counted(data), len(data), webdataset.AHEAD)
        entries = list(members(archive))
        assert len(entries) == 400 and Counted.asked < len(data) / 5
        Counted.asked = 0
        member = member_at(ReadWindow(Counted(data), len(data), webdataset.AHEAD), entries[301].start)
        assert member == entries[301] and Counted.asked <= webdataset.AHEAD

    @pytest.mark.parametrize("change", ["moved", "cut", "replaced", "gone"])
    def test_a_shard_that_changed_after_listing_is_named(self, tmp_path: Path, change: str) -> None:
        path = tar_set(tmp_path) / "train-00000.tar"
        source = open_source(config("webdataset", tmp_path))
        ids = source.list("train").ids.to_pylist()[:5]
        if change == "moved":
            write_tar(path, [("longer-key.png", b"x" * 3000), *tar_samples(0)])
        elif change == "cut":
            path.write_bytes(path.read_bytes()[:2048])
        elif change == "replaced":
            write_tar(path, [(f"x{name}", data) for name, data in tar_samples(0)])
        else:
            path.unlink()
        with pytest.raises(StageFailed, match=r"train-00000\.tar was listed but cannot be read: [^;]+; put it back"):
            list(source.read("train", ids))
