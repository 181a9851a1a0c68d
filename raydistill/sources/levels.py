"""At which level of an image folder the splits and the classes lie, and what to do where it is another one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pyarrow import fs as pafs

from raydistill.errors import BadInput, first_of
from raydistill.sources import carved
from raydistill.sources.base import NAMED, Listing
from raydistill.sources.labelfile import label_file
from raydistill.sources.layout import NAMES_OF_VAL, VAL, no_split
from raydistill.sources.tree import hidden, is_image
from raydistill.store.location import Location

TRAIN_NAMES, VAL_NAMES = ("train", "training"), (VAL, *NAMES_OF_VAL, "testing", "eval")
HERE = "."  # the name of the split that is the source's folder itself


def below(root: Location, split: str) -> Location:
    """The folder of a split, which may lie deeper ("data/train") or be the root itself (".")."""
    return root if split == HERE else root / split


def split_folder(root: Location, split: str, both: tuple[str, str]) -> Location:
    """The folder of one of `both` splits, (train, val). Raises BadInput, with what is there instead."""
    folder = root
    for part in () if split == HERE else split.split("/"):
        have = _folders(folder)
        if part not in have:
            raise _missing(root, split, have, both) if folder is root else no_split(folder, part, have)
        folder = folder / part
    return folder


def _missing(root: Location, split: str, have: Sequence[str], both: tuple[str, str]) -> BadInput:
    deeper = next((name for name in have[:NAMED] if split in _folders(root / name)), None)
    if deeper is not None:
        return BadInput(f"source: {root} has no split {split!r}, but {root / deeper} has; give that as source.path")
    if len(have) > 1 and all(s not in have or is_class(root, s) for s in both) and _holds_images(root / have[0]):
        return _classes_instead(root, split, have, both)
    error = no_split(root, split, have)
    if split == VAL or split != both[1]:
        return error
    return BadInput(f"{error}; without validation images give {carved.REMEDY}")


def _classes_instead(root: Location, split: str, have: Sequence[str], both: tuple[str, str]) -> BadInput:
    return BadInput(
        f"source: {root} holds class folders ({first_of(have, NAMED)}) and no split {split!r}; give "
        f"source.train={HERE} {carved.REMEDY}; or sort them into {both[0]}/CLASS/ and {both[1]}/CLASS/"
    )


def is_class(root: Location, split: str) -> bool:
    """Whether the folder that is called as a split is a class: CIFAR-100 has trains.

    It holds images that no file sorts and no folders, and beside it lies such a folder that no split is called by.
    """
    if label_file(root, split, tables=True) is not None or not _holds_images_alone(root / split):
        return False
    above, _, name = split.rpartition("/")
    parent = root / above if above else root
    others = (f for f in _folders(parent) if f != name and f.lower() not in (*TRAIN_NAMES, *VAL_NAMES))
    return any(_holds_images_alone(parent / f) for f in others)


def unsorted(root: Location, split: str, both: tuple[str, str]) -> BadInput:
    """The error for a split of `both` whose folder holds no class folders, and no file that sorts its images."""
    if is_class(root, split) and "/" not in split:
        return _classes_instead(root, split, _folders(root), both)
    folder = below(root, split)
    return BadInput(
        f"source: {folder} holds no class folders; sort the images into {folder}/CLASS/, "
        f"or give their classes in {root / split}.txt, lines FILE CLASS"
    )


def check_level(folder: Location, split: str, classes: Sequence[str]) -> None:
    """Refuses a split whose only class folder holds no images but folders: the classes are these."""
    if len(classes) != 1:
        return
    inner = folder / classes[0]
    deeper = _folders(inner)
    if len(deeper) > 1 and not _holds_images(inner):
        raise BadInput(
            f"source: the only folder of {folder} is {classes[0]}, which holds {first_of(deeper, NAMED)}: the classes "
            f"lie one level deeper; give source.train or source.val as {split}/{classes[0]}"
        )


def sub_classes(listing: Listing) -> str:
    """In words, the folders below the classes if there are several in some class; empty if there are none."""
    for label, info in enumerate(listing.classes):
        start, end = np.searchsorted(listing.labels, (label, label + 1))
        parts = [name.split("/") for name in listing.ids[start:end].to_pylist()]
        inner = sorted({p[1] for p in parts if len(p) > 2})
        if len(inner) > 1 and all(len(p) > 2 for p in parts):
            return (
                f"class {info.class_id!r} has its images in the folders {first_of(inner, NAMED)}, which all are this "
                "one class; if they are classes, move them up a level"
            )
    return ""


def _folders(folder: Location) -> list[str]:
    return sorted(i.base_name for i in folder.infos() if i.type == pafs.FileType.Directory and not hidden(i.base_name))


def _holds_images_alone(folder: Location) -> bool:
    return not _folders(folder) and _holds_images(folder)


def _holds_images(folder: Location) -> bool:
    return any(i.type == pafs.FileType.File and is_image(i.base_name) for i in folder.infos())
