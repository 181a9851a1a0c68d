"""The classes of WebDataset shards that are no numbers: names, other JSON keys, folders, and an archive a class."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from samples import config, images_of, refusal, remedied, write_tar

from raydistill.sources.base import Listing, open_source, open_splits


def listed(path: Path, split: str = "train", **more: Any) -> Listing:
    return open_source(config("webdataset", path, **more)).list(split)


def ids(listing: Listing) -> list[str]:
    return [listing.classes[k].class_id for k in listing.labels]


def labelled(labels: Sequence[str], suffix: str = "cls") -> list[tuple[str, bytes]]:
    images = images_of(count=len(labels))
    return [f for i, text in enumerate(labels) for f in ((f"{i}.png", images[i]), (f"{i}.{suffix}", text.encode()))]


def as_json(*trees: dict[str, Any]) -> list[tuple[str, bytes]]:
    return labelled([json.dumps(t) for t in trees], "json")


class TestNames:
    def test_are_class_ids_whatever_shard_says_them_first(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "train-0.tar", labelled(["cat", "ant\n", "cat"]))
        write_tar(tmp_path / "train-1.tar", labelled(["bee", " cat ", "0x1"]))
        listing = listed(tmp_path)
        assert [c.class_id for c in listing.classes] == ["0x1", "ant", "bee", "cat"]
        assert ids(listing) == ["cat", "ant", "cat", "bee", "cat", "0x1"]

    def test_classes_json_gives_their_ids(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "train-0.tar", labelled(["cat", "ant"]))
        (tmp_path / "classes.json").write_text(json.dumps({"dirs": ["n2", "n1"], "names": ["cat", "ant"]}))
        assert ids(listed(tmp_path)) == ["n2", "n1"]

    def test_one_shard_of_names_and_one_of_numbers_are_refused(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "train-0.tar", [])
        write_tar(tmp_path / "train-1.tar", labelled(["cat", "ant"]))
        write_tar(tmp_path / "train-2.tar", labelled(["0", "1"]))
        line = refusal(open_source(config("webdataset", tmp_path)))
        assert "train-1.tar and train-2.tar say the classes in different ways (texts and numbers)" in line


class TestJson:
    def test_the_only_key_that_can_be_a_class_is_it(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "train-0.tar", as_json({"class": 3, "box": [1]}, {"class": 7}, {"class": 3}))
        assert ids(listed(tmp_path)) == ["3", "7", "3"]

    def test_label_goes_before_others_and_may_be_a_name(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "train-0.tar", as_json({"class": 3, "label": "ant"}, {"label": "bee", "class": 3}))
        assert ids(listed(tmp_path)) == ["ant", "bee"]

    def test_of_several_one_is_named_by_the_key(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "train-0.tar", as_json({"kind": "ant", "width": 9}, {"kind": "bee", "width": 9}))
        line = refusal(open_source(config("webdataset", tmp_path)))
        assert "0.json has no key 'label' (it has kind, width)" in line
        assert ids(open_source(remedied("webdataset", line, tmp_path)).list("train")) == ["ant", "bee"]
        assert "0.json has no key 'other'" in refusal(open_source(config("webdataset", tmp_path, label_column="other")))

    def test_what_differs_in_every_one_is_no_class_unless_it_is_named(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "train-0.tar", as_json({"caption": "an ant"}, {"caption": "a bee"}))
        line = refusal(open_source(config("webdataset", tmp_path)))
        assert "'caption', the only one that may be it, differs in every one" in line
        assert ids(open_source(remedied("webdataset", line, tmp_path)).list("train")) == ["an ant", "a bee"]

    def test_another_key_in_another_file_is_refused(self, tmp_path: Path) -> None:
        write_tar(tmp_path / "train-0.tar", as_json({"class": 3}, {"id": 7}))
        assert "says the class in another way" in refusal(open_source(config("webdataset", tmp_path)))


class TestFolders:
    @pytest.mark.parametrize("above", ["", "train/", "./a/b/"])
    def test_inside_a_shard_are_classes(self, tmp_path: Path, above: str) -> None:
        images = images_of(count=4)
        for shard, folder in enumerate(("n02", "n01")):
            write_tar(
                tmp_path / f"train-{shard}.tar", [(f"{above}{folder}/{i}.JPEG", images[2 * shard + i]) for i in (0, 1)]
            )
        listing = listed(tmp_path)
        assert ids(listing) == ["n02", "n02", "n01", "n01"]
        assert list(open_source(config("webdataset", tmp_path)).read("train", listing.ids.to_pylist())) == images

    @pytest.mark.parametrize("files", [["ant/1.png", "ant/big/2.png"], ["a/ant/1.png", "b/ant/2.png"]])
    def test_of_two_levels_or_twice_are_refused(self, tmp_path: Path, files: list[str]) -> None:
        write_tar(tmp_path / "train-0.tar", [(name, b"x") for name in files])
        assert "cannot both be classes" in refusal(open_source(config("webdataset", tmp_path)))

    def test_say_nothing_where_images_have_labels(self, tmp_path: Path) -> None:
        write_tar(
            tmp_path / "train-0.tar", [("a/1.png", b"x"), ("a/1.cls", b"4"), ("a/2.png", b"y"), ("a/2.cls", b"5")]
        )
        assert ids(listed(tmp_path)) == ["4", "5"]


class TestArchiveOfAClass:
    """As ImageNet hands out its training images: nXXXXXXXX.tar, after unpacking the archive of them."""

    def imagenet(self, path: Path, names: Sequence[str] = ("n01440764", "n03000684"), each: int = 30) -> Path:
        for name in names:
            write_tar(path / f"{name}.tar", [(f"{name}_{i}.JPEG", b"%d" % i) for i in range(each)])
        return path

    def test_its_name_is_the_class_and_numbers_between_are_not_missing(self, tmp_path: Path) -> None:
        self.imagenet(tmp_path / "train")
        assert ids(listed(tmp_path)) == ["n01440764"] * 30 + ["n03000684"] * 30

    def test_a_folder_of_them_is_one_split(self, tmp_path: Path) -> None:
        path = self.imagenet(tmp_path / "mine")
        line = refusal(open_source(config("webdataset", path)))
        splits = open_splits(remedied("webdataset", line, path))
        assert len(splits.train) + len(splits.test) == 60 and splits.test.split == "mine"


@pytest.mark.parametrize("name", ["validation", "valid", "test"])
def test_val_goes_by_other_names(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "train-0.tar", labelled(["a", "b"]))
    write_tar(tmp_path / name / "0.tar", labelled(["b", "a"]))
    assert open_splits(config("webdataset", tmp_path)).test.split == name


def test_the_command_line_refuses_in_one_line(tmp_path: Path, refused: Callable[..., str]) -> None:
    write_tar(tmp_path / "train-0.tar", as_json({"kind": "ant", "width": 9}))
    line = refused("distill", "source.kind=webdataset", f"source.path={tmp_path}")
    assert line.endswith("name the one that is it with source.label_column=kind")
