"""Images that lie unsorted in a split's folder, as ImageNet's validation images do, and splits that are not apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from samples import COLOURS, config, refusal

from raydistill.errors import BadInput
from raydistill.sources.base import Listing, open_source, open_splits

LINES = [f"{c}{i}.png {c}" for c in COLOURS for i in (1, 0)]


def flat(folder: Path, lines: list[str] | None = None, name: str = "val.txt") -> Path:
    """Turns the sorted validation images of `folder` into unsorted ones; class names go into the file names."""
    for c in COLOURS:
        for i in range(2):
            (folder / "val" / c / f"00{i}.png").rename(folder / "val" / f"{c}{i}.png")
        (folder / "val" / c).rmdir()
    (folder / name).write_text("\n".join(LINES if lines is None else lines))
    return folder


def listed(path: Path | str) -> Listing:
    return open_source(config("imagefolder", path)).list("val")


def refused(path: Path, split: str = "val") -> str:
    return refusal(open_source(config("imagefolder", path)), split)


class TestLabelFile:
    @pytest.mark.parametrize("name", ["val.txt", "val_labels.txt"])
    @pytest.mark.parametrize("form", ["{} {}", "{},{}", "{}\t{}", "  {}   {}  ", "{} , {}", "{} {}\r", "\n{} {}\n"])
    def test_gives_each_image_its_class(self, tiny_folder: Path, name: str, form: str) -> None:
        listing = listed(flat(tiny_folder, [form.format(*line.split()) for line in LINES], name))
        assert [c.class_id for c in listing.classes] == list(COLOURS)
        assert listing.ids.to_pylist() == [f"{c}{i}.png" for c in COLOURS for i in range(2)]
        assert list(listing.labels) == [0, 0, 1, 1, 2, 2]

    def test_the_images_are_those_of_the_sorted_folder(self, tiny_folder: Path) -> None:
        source = open_source(config("imagefolder", tiny_folder))
        before = list(source.read("val", source.list("val").ids.to_pylist()))
        flat(tiny_folder)
        for path in (str(tiny_folder), f"file://{tiny_folder}"):
            splits = open_splits(config("imagefolder", path))
            assert splits.test.digest == listed(tiny_folder).digest and splits.test.classes == splits.train.classes
            assert list(splits.source.read("val", splits.test.ids.to_pylist())) == before

    def test_names_with_blanks_and_a_byte_order_mark_are_read(self, tiny_folder: Path) -> None:
        flat(tiny_folder, ["\ufeffblue0.png blue", *(line for line in LINES if "blue0" not in line), "a b.png red"])
        (tiny_folder / "val" / "red0.png").rename(tiny_folder / "val" / "a b.png")
        (tiny_folder / "val.txt").write_text((tiny_folder / "val.txt").read_text().replace("red0.png red\n", ""))
        assert "a b.png" in listed(tiny_folder).ids.to_pylist()

    def test_a_class_without_an_image_is_told_by_name(self, tiny_folder: Path) -> None:
        flat(tiny_folder, [line.replace(" green", " red") for line in LINES])
        with pytest.raises(BadInput, match=r"'green' .* has no image in the test split 'val'"):
            open_splits(config("imagefolder", tiny_folder))

    def test_without_training_folders_classes_json_tells_the_classes(self, tiny_folder: Path) -> None:
        shutil.rmtree(flat(tiny_folder) / "train")
        assert [c.class_id for c in listed(tiny_folder).classes] == list(COLOURS)
        (tiny_folder / "classes.json").write_text(json.dumps({"dirs": ["red", "blue"], "names": ["Rot", "Blau"]}))
        assert "the class 'green'" in refused(tiny_folder)

    @pytest.mark.parametrize(
        ("lines", "why"),
        [
            (LINES[1:], "has no line for the image: blue1.png;"),
            (LINES[2:], "has no line for the image: blue0.png and 1"),
            ([], "has no line for the image: blue0.png and 5 more"),
            ([*LINES, "gone.png red"], "names an image that is not there: gone.png"),
            ([*LINES, "blue0.png blue"], "line 7 names blue0.png a second time"),
            ([*LINES[1:], "blue1.png mauve"], "gives blue1.png the class 'mauve'"),
            ([*LINES[1:], "blue1.png 65"], "the class '65'"),
            ([*LINES[1:], "blue1.png"], "line 6 is 'blue1.png'"),
            ([*LINES[1:], "blue1.png,"], "line 6 is 'blue1.png,'"),
            ([*LINES[1:], ",blue"], "line 6 is ',blue'"),
            (["name,kind", *LINES], "names an image that is not there: name"),
            (
                ["file,colour,shade", "blue0.png,blue,1"],
                "has the columns file, colour, shade; name that of the classes",
            ),
            (["file,label", "blue0.png"], "line 2 lacks a file or a class"),
            (["file,label", "blue0,blue", "blue0.png,blue"], "both with and without their suffix"),
            (["ImageId,PredictionString", "blue0,blue 1 2 3 4 red 1 2 3 4"], "gives blue0 boxes of 2 classes"),
        ],
    )
    def test_that_does_not_fit_is_refused(self, tiny_folder: Path, lines: list[str], why: str) -> None:
        text = refused(flat(tiny_folder, lines))
        assert why in text and str(tiny_folder / "val.txt") in text and len(text) < 1000

    def test_twice_or_not_at_all_is_refused(self, tiny_folder: Path) -> None:
        flat(tiny_folder)
        (tiny_folder / "val_labels.txt").write_text("")
        assert "keep one" in refused(tiny_folder)
        for name in ("val.txt", "val_labels.txt"):
            (tiny_folder / name).unlink()
        assert f"{tiny_folder / 'val.txt'}, lines FILE CLASS" in refused(tiny_folder)

    def test_that_is_no_text_is_refused(self, tiny_folder: Path) -> None:
        (flat(tiny_folder) / "val.txt").write_bytes(b"\xff\xfe\x00")
        assert "cannot be read" in refused(tiny_folder)

    def test_beside_class_folders_and_loose_images_is_refused(self, tiny_folder: Path) -> None:
        (tiny_folder / "val.txt").write_text("")
        assert len(listed(tiny_folder)) == 6
        (tiny_folder / "val" / "loose.png").write_bytes(b"?")
        assert "keep one of the two" in refused(tiny_folder)


class TestTables:
    """Labels as others publish them are read as those of val.txt: the same listing, to the byte."""

    @pytest.mark.parametrize(
        ("name", "head", "form"),
        [
            ("val.csv", "file,label", "{f}.png,{c}"),
            ("val.csv", "label,shade,file_name", "{c},1,{f}.png"),
            ("val/metadata.csv", "file_name,colour", "{f}.png,{c}"),
            ("val/metadata.jsonl", "", '{{"file_name": "{f}.png", "label": "{c}"}}'),
            ("LOC_val_solution.csv", "ImageId,PredictionString", "{f},{c} 10 20 30 40 {c} 1 2 3 4 "),
            ("val.txt", "ImageId,PredictionString", "{f},{c} 10 20 30 40 "),
            ("val.txt", "", "{f} {c}"),
            ("val.txt", "", "{f}.png\t{c}\t0\t0\t62\t62"),
        ],
    )
    def test_are_read(self, tiny_folder: Path, name: str, head: str, form: str) -> None:
        flat(tiny_folder)
        digest = listed(tiny_folder).digest
        (tiny_folder / "val.txt").unlink()
        lines = [head, *(form.format(f=line.split(".")[0], c=line.split()[1]) for line in LINES)]
        (tiny_folder / name).write_text("\n".join(lines))
        for path in (str(tiny_folder), f"file://{tiny_folder}"):
            assert listed(path).digest == digest

    def test_tiny_imagenet_has_images_and_annotations_in_the_split(self, tiny_folder: Path) -> None:
        lines = [f"{f}\t{c}\t0\t0\t62\t62" for f, c in map(str.split, LINES)]
        flat(tiny_folder, lines, "val/val_annotations.txt")
        (tiny_folder / "val" / "images").mkdir()
        for image in (tiny_folder / "val").glob("*.png"):
            image.rename(tiny_folder / "val" / "images" / image.name)
        for path in (str(tiny_folder), f"file://{tiny_folder}"):
            splits = open_splits(config("imagefolder", path))
            assert splits.test.ids.to_pylist()[:2] == ["images/blue0.png", "images/blue1.png"]
            assert list(splits.test.counts) == [2, 2, 2]
            assert len(list(splits.source.read("val", splits.test.ids.to_pylist()))) == 6

    def test_beside_class_folders_are_not_asked(self, tiny_folder: Path) -> None:
        """A table of weights may lie there (docs: judging images)."""
        (tiny_folder / "val" / "loose.png").write_bytes(b"?")
        (tiny_folder / "val" / "metadata.csv").write_text("file_name,weight\nred/000.png,1\n")
        assert len(listed(tiny_folder)) == 6

    def test_of_json_that_does_not_fit_is_refused(self, tiny_folder: Path) -> None:
        flat(tiny_folder, ['{"file_name": "blue0.png"}'], "val/metadata.jsonl")
        assert "line 1 lacks file_name or label" in refused(tiny_folder)
        (tiny_folder / "val" / "metadata.jsonl").write_text("{")
        assert "line 1 cannot be read" in refused(tiny_folder)


class TestGroundTruthOfTheDevkit:
    NUMBERS = ("3", "3", "1", "1", "2", "2")  # of blue0, blue1, green0, ... in an order of their own

    def test_is_refused_without_its_order_and_read_with_it(self, tiny_folder: Path) -> None:
        digest = listed(flat(tiny_folder)).digest
        (tiny_folder / "val.txt").write_text("\n".join(self.NUMBERS))
        order = tiny_folder / "val_order.txt"
        line = refused(tiny_folder)
        assert "order of their own" in line and f"into {order}, one a line, number 1 first" in line
        order.write_text("green\nred\nblue\n")
        for path in (str(tiny_folder), f"file://{tiny_folder}"):
            assert listed(path).digest == digest

    @pytest.mark.parametrize(
        ("numbers", "order", "why"),
        [
            (NUMBERS[1:], "green\nred\nblue", "has 5 lines for 6 images"),
            (NUMBERS, "green\nred", "numbers from 1 to 3, and"),
            (("0", *NUMBERS[1:]), "green\nred\nblue", "numbers from 0 to 3, and"),
            (NUMBERS, "green\nred\nred", "names 'red' twice"),
            (NUMBERS, "", "is empty"),
            (NUMBERS, "green\nred\nmauve", "the class 'mauve'"),
        ],
    )
    def test_that_does_not_fit_is_refused(
        self, tiny_folder: Path, numbers: tuple[str, ...], order: str, why: str
    ) -> None:
        flat(tiny_folder, list(numbers))
        (tiny_folder / "val_order.txt").write_text(order)
        assert why in refused(tiny_folder)


class TestSplitsApart:
    def test_a_validation_image_that_is_a_training_image_is_refused(self, tiny_folder: Path) -> None:
        shutil.copy(tiny_folder / "train" / "red" / "003.png", tiny_folder / "val" / "red" / "003.png")
        text = refused(tiny_folder)
        assert "val/red/003.png is the training image" in text and "train/red/003.png" in text

    def test_the_same_is_seen_of_unsorted_images(self, tiny_folder: Path) -> None:
        flat(tiny_folder)
        shutil.copy(tiny_folder / "val" / "red1.png", tiny_folder / "train" / "red" / "red1.png")
        assert "val/red1.png is the training image" in refused(tiny_folder)

    def test_an_equal_name_alone_is_no_reason(self, tiny_folder: Path) -> None:
        other = (tiny_folder / "train" / "red" / "000.png").read_bytes()
        (tiny_folder / "val" / "red" / "000.png").write_bytes(other[:-1] + b"?")
        for split in ("train", "val"):
            (tiny_folder / split / "red" / "empty.png").write_bytes(b"")
        assert len(listed(tiny_folder)) == 7

    @pytest.mark.parametrize(("link", "target"), [("val", "train"), ("val", "train/red"), ("train", "val")])
    def test_one_split_inside_the_other_is_refused(self, tiny_folder: Path, link: str, target: str) -> None:
        shutil.rmtree(tiny_folder / link)
        (tiny_folder / link).symlink_to(tiny_folder / target)
        assert "one is inside the other" in refused(tiny_folder, "train")

    def test_validation_images_unpacked_into_the_training_images_are_refused(self, tiny_folder: Path) -> None:
        shutil.copytree(tiny_folder / "val", tiny_folder / "train" / "val")
        for split in ("train", "val"):
            assert "train/val would be a class" in refused(tiny_folder, split)
