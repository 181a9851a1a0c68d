"""The small odd inputs beside the checkout: what each note expects holds for the whole of the checks before a run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from raydistill import cli

# What is said of an input that is read beside its counts, or why one is refused; None: read without a word.
SAYS: dict[str, tuple[int, str | None]] = {
    "01-parquet-plain-binary": (0, None),
    "02-parquet-label-text": (0, "zero 6"),
    "03-parquet-img-column": (0, None),
    "06-parquet-labels-from-1-generator": (0, "start at 1"),
    "07-parquet-paths-only": (2, "holds paths to images, not their bytes"),
    "08-parquet-config-folder": (0, None),
    "09-parquet-split-validation": (0, "tested on the split 'validation'"),
    "13-arrow-save-to-disk": (0, None),
    "15-val-flat-kaggle-csv": (0, "9 to test on"),
    "16-val-flat-devkit-ground-truth": (2, "follow an order of their own"),
    "19-val-folders-numbered": (2, "none of the 3 training classes are in both splits"),
    "20-tiny-imagenet-layout": (0, "9 to test on"),
    "22-val-misses-a-class": (2, "class 'b' (6 images) is in split 'train' but not in 'val'"),
    "23-val-has-class-more": (0, "nothing is tested on their images"),
    "24-mac-and-nas-leftovers": (0, "__MACOSX/ and 1 more"),
    "26-one-class": (2, "give at least two"),
    "29-wds-class-names-in-cls": (0, "zero 6"),
    "31-wds-dotted-input-jpg": (2, "a key ends at the first dot"),
    "34-wds-json-class-key": (0, None),
    "35-wds-folder-per-class": (0, "n01440764 6"),
    "48-judge-pt-tensors": (0, "taken as by ImageNet's mean and deviation"),
    "49-judge-rded-folders": (2, "an order.txt beside them"),
    "51-judge-flat-class-in-name": (2, "no images sorted by class"),
    "59-nas-thumbnails-in-class": (0, "a/@eaDir/ and 2 more"),
    "60-superclass-folders": (0, "if they are classes, move them up a level"),
    "62-split-nested-same-name": (2, "the classes lie one level deeper"),
    "63-subset-by-symlinks": (2, "source.path="),
    "67-judge-rded-with-classes-json": (0, "1 per class"),
    "68-val-jpg-subset-in-train": (2, "byte for byte"),
    "77-symlink-remedy-tried": (0, "12 training images"),
    "79-parquet-remedy-config-folder": (2, "data/plain_text source.train=train"),
    "83-images-root-no-splits": (2, "source.val=split:0.2"),
}
LINKS = {"63-subset-by-symlinks", "77-symlink-remedy-tried"}


def linked(case: Path, copy: Path) -> Path:
    """The case with its symbolic links, of which some ways of copying leave a file with the target in it."""
    shutil.copytree(case, copy, symlinks=True)
    for path in [p for p in (copy / "data").rglob("*") if p.is_file() and not p.is_symlink() and not p.suffix]:
        target = path.read_text()
        path.unlink()
        path.symlink_to(target)
    return copy


def test_every_case_is_here(shared: Path) -> None:
    assert {p.name for p in (shared / "cases").iterdir() if p.is_dir()} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_its_note_holds(
    name: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case, (code, says) = shared / "cases" / name, SAYS[name]
    if name in LINKS:
        case = linked(case, tmp_path / name)
    (command,) = re.findall(r"^    python jobs/(.*)$", (case / "NOTE.md").read_text(), re.MULTILINE)
    job, *words = shlex.split(command.replace("CASE", str(case)).replace("OUT", str(tmp_path / "run")))
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    assert cli.main([job.removesuffix(".py"), *words, "--dry-run"]) == code
    err = capsys.readouterr().err
    assert (says or " in 3 classes") in err
    assert err.count("error: ") == (1 if code else 0)
    assert not list(here.iterdir()) and not (tmp_path / "run").exists()
