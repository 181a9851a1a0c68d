"""Image folders: what is listed, in which order, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from samples import COLOURS, config, refusal

from raydistill.errors import BadInput
from raydistill.sources.base import Splits, open_source, open_splits


class TestImageFolder:
    def ids(self, path: Path | str) -> list[str]:
        return open_source(config("imagefolder", path)).list("train").ids.to_pylist()

    def test_lists_classes_then_paths_of_any_depth_and_case(self, tiny_folder: Path) -> None:
        deep = tiny_folder / "train" / "green" / "b" / "c"
        deep.mkdir(parents=True)
        for name in ("y.JPeG", "x.TIFF", "notes.txt", "z.npy", ".hidden.png"):
            (deep / name).write_bytes(b"?")
        (tiny_folder / "train" / ".cache").mkdir()
        (tiny_folder / "train" / ".cache" / "a.png").write_bytes(b"?")
        (tiny_folder / "train" / "loose.png").write_bytes(b"?")
        expected = [f"{c}/00{i}.png" for c in COLOURS for i in range(4)]
        expected[8:8] = ["green/b/c/x.TIFF", "green/b/c/y.JPeG"]
        assert self.ids(tiny_folder) == expected

    def test_what_systems_leave_behind_is_skipped_and_said(
        self, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = self.ids(tiny_folder)
        assert "skipped" not in capsys.readouterr().err
        for leftover in ("__MACOSX/red", "red/@eaDir/000.png", "blue/deep/#recycle"):
            (tiny_folder / "train" / leftover).mkdir(parents=True)
            (tiny_folder / "train" / leftover / "thumbnail.jpg").write_bytes(b"?")
        (tiny_folder / "@eaDir").mkdir()
        assert self.ids(tiny_folder) == before
        assert "split 'train': not images but what systems leave behind" in (err := capsys.readouterr().err)
        assert "skipped: __MACOSX/ and 2 more" in err
        assert self.ids(f"file://{tiny_folder}") == before
        assert "skipped: __MACOSX/ and 2 more" in capsys.readouterr().err

    def test_orders_by_class_even_where_paths_sort_otherwise(self, tmp_path: Path) -> None:
        for name in ("a", "a-b", "B"):
            (tmp_path / "train" / name).mkdir(parents=True)
            (tmp_path / "train" / name / "1.png").write_bytes(b"?")
        listing = open_source(config("imagefolder", tmp_path)).list("train")
        assert [c.class_id for c in listing.classes] == ["B", "a", "a-b"] and list(listing.labels) == [0, 1, 2]

    def test_takes_class_names_from_classes_json_by_folder_name(self, tiny_folder: Path) -> None:
        (tiny_folder / "classes.json").write_text(json.dumps({"dirs": ["red", "other"], "names": ["Rot", "?"]}))
        classes = open_source(config("imagefolder", tiny_folder)).list("train").classes
        assert [(c.class_id, c.class_name) for c in classes] == [("blue", "blue"), ("green", "green"), ("red", "Rot")]

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "[]",
            '{"dirs": ["a"], "names": []}',
            '{"dirs": ["a", "a"], "names": ["b", "c"]}',
            '{"dirs": [1], "names": ["b"]}',
            '{"dirs": "ab", "names": "cd"}',
            "\xff",
        ],
    )
    def test_refuses_a_damaged_classes_json(self, tiny_folder: Path, text: str) -> None:
        (tiny_folder / "classes.json").write_bytes(text.encode("latin-1"))
        assert "classes.json" in refusal(open_source(config("imagefolder", tiny_folder)))

    def test_keeps_a_class_of_no_images_so_that_it_can_be_named(self, tiny_folder: Path) -> None:
        (tiny_folder / "train" / "grey").mkdir()
        assert list(open_source(config("imagefolder", tiny_folder)).list("train").counts) == [4, 4, 0, 4]

    def test_refuses_a_split_without_class_folders(self, tmp_path: Path) -> None:
        (tmp_path / "train").mkdir()
        (tmp_path / "train" / "a.png").write_bytes(b"?")
        assert "no class folders" in refusal(open_source(config("imagefolder", tmp_path)))

    @pytest.mark.parametrize("name", ["train", "train/red/far", "train/red/far.png", "train/mauve"])
    def test_refuses_a_link_that_leads_out(self, tiny_folder: Path, tmp_path: Path, name: str) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        link = tiny_folder / name
        if link.exists():
            link.rename(outside / "train")
        link.symlink_to(outside / "train" if name == "train" else outside)
        text = refusal(open_source(config("imagefolder", tiny_folder)))
        assert str(link) in text and "out of source.path" in text

    def test_follows_a_link_that_stays_inside(self, tiny_folder: Path) -> None:
        (tiny_folder / "train" / "crimson").symlink_to(tiny_folder / "train" / "red")
        assert [i for i in self.ids(tiny_folder) if "crimson" in i] == [f"crimson/00{i}.png" for i in range(4)]

    def test_refuses_a_link_in_a_circle_or_to_nowhere(self, tiny_folder: Path) -> None:
        (circle := tiny_folder / "train" / "red" / "again").symlink_to(tiny_folder / "train")
        assert "folder that holds it" in refusal(open_source(config("imagefolder", tiny_folder)))
        circle.unlink()
        circle.symlink_to(tiny_folder / "gone")
        assert "does not exist" in refusal(open_source(config("imagefolder", tiny_folder)))

    def test_may_itself_be_reached_through_a_link(self, tiny_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tiny_folder)
        assert self.ids(tmp_path / "link") == self.ids(tiny_folder)

    def test_refuses_a_name_that_is_not_utf8(self, tiny_folder: Path) -> None:
        try:
            (tiny_folder / "train" / "red" / os.fsdecode(b"\xff.png")).write_bytes(b"?")
        except OSError:
            pytest.skip("this file system holds UTF-8 names only")
        assert "not UTF-8" in refusal(open_source(config("imagefolder", tiny_folder)))

    def test_lists_odd_names_and_reads_them_back(self, tiny_folder: Path) -> None:
        odd = ["ü 1.png", "a#2.png", "50%20.png", "q?x=1.png"]
        for name in odd:
            (tiny_folder / "train" / "red" / name).write_bytes(name.encode())
        for path in (str(tiny_folder), f"file://{tiny_folder}"):
            source = open_source(config("imagefolder", path))
            ids = [i for i in source.list("train").ids.to_pylist() if i.removeprefix("red/") in odd]
            assert len(ids) == 4 and [f"red/{b.decode()}" for b in source.read("train", ids)] == ids

    def test_class_folders_may_have_odd_names_too(self, tmp_path: Path) -> None:
        odd = ["50%20", "a b", "q?x=1", "r#1", "ü"]
        for name in odd:
            (tmp_path / "train" / name / "deep" / ".git").mkdir(parents=True)
            for file in ("deep/1.png", "deep/.git/2.png"):
                (tmp_path / "train" / name / file).write_bytes(name.encode())
        for path in (str(tmp_path), f"file://{tmp_path}"):
            source = open_source(config("imagefolder", path))
            listing = source.list("train")
            assert listing.ids.to_pylist() == [f"{name}/deep/1.png" for name in odd]
            assert [data.decode() for data in source.read("train", listing.ids.to_pylist())] == odd


class TestLevels:
    """What lies a level too deep or too shallow is told with the keys that read it, and these do."""

    def splits(self, path: Path, **more: Any) -> Splits:
        return open_splits(config("imagefolder", path, **more))

    def refused(self, path: Path, **more: Any) -> str:
        with pytest.raises(BadInput) as caught:
            self.splits(path, **more)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_both_splits_a_level_too_deep(self, tiny_folder: Path) -> None:
        expected = self.splits(tiny_folder)
        for split in ("train", "val"):
            (tiny_folder / split).rename(tiny_folder / "moved")
            (tiny_folder / split).mkdir()
            (tiny_folder / "moved").rename(tiny_folder / split / "set")
        line = self.refused(tiny_folder)
        assert "is set, which holds blue, green, red" in line and "as train/set" in line
        there = self.splits(tiny_folder, train="train/set", val="val/set")
        assert (there.train.digest, there.test.digest) == (expected.train.digest, expected.test.digest)
        assert len(list(there.source.read("val/set", there.test.ids.to_pylist()))) == 6
        assert "no split 'se'" in self.refused(tiny_folder, train="train/se")
        assert "no split" in self.refused(tiny_folder, train="train/../train/set")

    def test_the_set_itself_a_level_too_deep(self, tiny_folder: Path) -> None:
        assert f"{tiny_folder} has; give that as source.path" in self.refused(tiny_folder.parent)

    def test_classes_at_the_root(self, tiny_folder: Path) -> None:
        root = tiny_folder / "train"
        assert "source.train=. source.val=split:0.2" in (line := self.refused(root)) and "blue, green, red" in line
        there = self.splits(root, train=".", val="split:0.2")
        assert (len(there.train), len(there.test)) == (9, 3) and len(list(there.source.read(".", ["red/000.png"]))) == 1

    def test_classes_at_the_root_of_which_one_is_called_as_a_split(self, tiny_folder: Path) -> None:
        root = tiny_folder / "train"
        (root / "red").rename(root / "train")
        assert "holds class folders (blue, green, train) and no split 'train'" in (line := self.refused(root))
        assert "source.train=. source.val=split:0.2" in line
        there = self.splits(root, train=".", val="split:0.2")
        assert [c.class_id for c in there.train.classes] == ["blue", "green", "train"] and len(there.train) == 9
        (root / "train").rename(root / "val")
        assert "source.train=. source.val=split:0.2" in self.refused(root)

    def test_images_that_nothing_sorts_are_no_classes(self, tiny_folder: Path) -> None:
        for split in ("train", "val"):
            for name in ("green", "red"):
                shutil.rmtree(tiny_folder / split / name)
            for file in (tiny_folder / split / "blue").iterdir():
                file.rename(tiny_folder / split / file.name)
            (tiny_folder / split / "blue").rmdir()
        assert "train holds no class folders; sort the images into" in self.refused(tiny_folder)

    def test_no_validation_images(self, tiny_folder: Path) -> None:
        (tiny_folder / "val").rename(tiny_folder.parent / "elsewhere")
        line = self.refused(tiny_folder)
        assert "no split 'val'" in line and line.count("source.val=split:0.2") == 1
        assert self.splits(tiny_folder, val="split:0.2").test.counts.tolist() == [1, 1, 1]
        line = self.refused(tiny_folder, val="dev")
        assert "no split 'dev'" in line and line.count("source.val=split:0.2") == 1
        assert "write split:SHARE" in self.refused(tiny_folder, val="split:1.5")

    def test_classes_of_classes_are_read_as_one_and_said(
        self, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.splits(tiny_folder)
        assert not capsys.readouterr().err
        for split in ("train", "val"):
            for name in ("green", "red"):
                (tiny_folder / split / "warm").mkdir(exist_ok=True)
                (tiny_folder / split / name).rename(tiny_folder / split / "warm" / name)
        assert self.splits(tiny_folder).train.counts.tolist() == [4, 8]
        assert "class 'warm' has its images in the folders green, red" in capsys.readouterr().err

    def test_links_that_lead_out_are_read_from_the_folder_that_holds_both(self, tiny_folder: Path) -> None:
        subset = tiny_folder.parent / "subset"
        for split in ("train", "val"):
            (subset / split).mkdir(parents=True)
            for name in ("blue", "red"):
                (subset / split / name).symlink_to(tiny_folder / split / name)
        line = self.refused(subset)
        assert f"source.path={subset.parent} source.train=subset/train" in line
        there = self.splits(subset.parent, train="subset/train", val="subset/val")
        assert [c.class_id for c in there.train.classes] == ["blue", "red"] and len(there.test) == 4
