"""What sources on disk share: the folder that `source.path` names, and the class names beside the data."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pyarrow import fs as pafs

from raydistill import strict_json
from raydistill.config import SourceConfig
from raydistill.errors import BadInput, one_line
from raydistill.sources.base import ClassInfo
from raydistill.sources.carved import REMEDY
from raydistill.store.location import Location, infos, reason

CLASSES = "classes.json"
VAL = "val"
PICKLES = (".pkl", ".pickle")
OF_CIFAR = ("data_batch_1", "batches.meta", "cifar-10-python.tar.gz", "cifar-100-python.tar.gz")  # its Python version
NESTED = 16  # folders in which pickles are looked for
NAMES_OF_VAL = ("validation", "valid", "test")  # by which a validation split goes elsewhere, the likeliest first


@dataclass(frozen=True)
class ClassNames:
    """classes.json: class ids (`dirs`: folder names, WordNet ids) and the readable `names`, in the same order."""

    dirs: tuple[str, ...]
    names: tuple[str, ...]

    @cached_property
    def name_of(self) -> dict[str, str]:
        return dict(zip(self.dirs, self.names, strict=True))

    def ids_of(self, labels: Sequence[str]) -> list[str] | None:
        """The class id of each label, found by id or by an unambiguous name; None if some label is neither."""
        if tuple(labels) == self.names:
            return list(self.dirs)
        if set(labels) <= set(self.dirs):
            return list(labels)
        by_name = {n: d for d, n in zip(self.dirs, self.names, strict=True) if self.names.count(n) == 1}
        return [by_name[x] for x in labels] if set(labels) <= set(by_name) else None


def required_path(config: SourceConfig) -> str:
    """The folder of `source.path`, which this kind of source cannot do without."""
    if not config.folder:
        raise BadInput(
            f"source.path: source.kind={config.kind} needs the folder that holds the splits; give source.path=DIR"
        )
    return config.folder


def open_root(path: str) -> Location:
    """The folder of `source.path`. Raises BadInput if it is not there, is not a folder or cannot be reached."""
    root = Location.of(path)
    if path.endswith((*PICKLES, *OF_CIFAR)):
        raise BadInput(refused_pickle(path))
    try:
        fs, inside = root.filesystem()
        kind = fs.get_file_info(inside).type
    except OSError as e:
        raise BadInput(f"source.path: {root} cannot be opened: {reason(e)}; check the path and your access") from None
    if kind != pafs.FileType.Directory:
        what = f"does not exist{_alike(root.uri)}" if kind == pafs.FileType.NotFound else "is not a folder"
        raise BadInput(f"source.path: {root} {what}; give the folder that holds the splits")
    return root


def _alike(path: str) -> str:
    """A folder beside it whose name is nearly that, on this disk."""
    parent, name = os.path.split(path.rstrip("/"))
    try:
        beside = [] if "://" in path else [e.name for e in os.scandir(parent) if e.is_dir()]
    except OSError:
        return ""
    alike = difflib.get_close_matches(name, beside, n=1)
    return f"; did you mean {os.path.join(parent, alike[0])}?" if alike else ""


def class_names(root: Location) -> ClassNames | None:
    """The content of `classes.json` in the source's folder; None if there is none, BadInput if it is wrong."""
    location = root / CLASSES
    try:
        tree = strict_json.mapping(location.read())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise BadInput(f"source: {location} cannot be read: {one_line(e)}; repair it or remove it") from None
    names: Any = tree.get("names")
    dirs: Any = tree.get("dirs")
    if not _texts(names) or not _texts(dirs) or not len(names) == len(dirs) == len(set(dirs)):
        raise BadInput(
            f'source: {location} must hold two lists of text of one length, "dirs" (class ids, each once) and '
            '"names"; repair it or remove it'
        )
    return ClassNames(tuple(dirs), tuple(names))


def numbered_classes(root: Location, labels: np.ndarray) -> tuple[tuple[ClassInfo, ...], np.ndarray]:
    """Classes of labels (N,) that are numbers, and the labels (N,) int32 that index them.

    `classes.json` gives the classes by position; without it a class is its number, and those with images are there.
    """
    known = class_names(root)
    if known is None:
        values, index = np.unique(labels, return_inverse=True)
        return tuple(ClassInfo(str(v), str(v)) for v in values), index.astype(np.int32)
    return tuple(ClassInfo(d, known.name_of[d]) for d in known.dirs), in_range(root, labels, len(known.dirs))


def told_classes(root: Location, names: Sequence[str], origin: str) -> tuple[ClassInfo, ...]:
    """The class of each name: found by id or name in `classes.json`, and without that the name itself.

    `origin` says in an error whose names they are ("of the Parquet schema").
    """
    known = class_names(root)
    if known is None:
        return tuple(ClassInfo(n, n) for n in names)
    ids = known.ids_of(names)
    if ids is None:
        strange = next(n for n in names if n not in known.dirs and known.names.count(n) != 1)
        raise BadInput(
            f"source: {root}/{CLASSES} does not tell which class {strange!r} {origin} is "
            "(it is no dir, and not exactly one name, there); make them agree or remove the file"
        )
    if len(set(ids)) != len(ids):
        raise BadInput(f"source: two names {origin} are one class in {root}/{CLASSES}; make them agree")
    return tuple(ClassInfo(i, known.name_of[i]) for i in ids)


def text_classes(
    root: Location, parts: Sequence[tuple[np.ndarray, Sequence[str]]]
) -> tuple[tuple[ClassInfo, ...], np.ndarray]:
    """Classes of labels that are texts, sorted, and the labels (N,) int32 of all parts in turn, which index them.

    A part is its labels (n,) as indices of its texts.
    """
    names = sorted({text for _, texts in parts for text in texts})
    index = {text: i for i, text in enumerate(names)}
    labels = [np.array([index[t] for t in texts], np.int32)[numbers] for numbers, texts in parts if len(numbers)]
    return told_classes(root, names, "of the labels"), np.concatenate([np.zeros(0, np.int32), *labels])


def in_range(root: Location, labels: np.ndarray, classes: int) -> np.ndarray:
    """The labels (N,) as int32. Raises BadInput for one beyond the classes."""
    if len(labels) and labels.max() >= classes:
        from_one = labels.max() == classes and labels.min() > 0
        remedy = "see docs/bring-your-own.md#labels-that-are-numbers" if from_one else "repair one of them"
        raise BadInput(
            f"source: {root} has the label {labels.max()}, outside the {classes} classes of {CLASSES}, which counts "
            f"from 0; {remedy}"
        )
    return labels.astype(np.int32)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(x, str) for x in value)


def split_there(split: str, have: Collection[str]) -> str:
    """The split by the name that it has: `val`, where none is called so, is `validation`, `valid` or `test`."""
    if split != VAL or split in have:
        return split
    return next((name for name in NAMES_OF_VAL if name in have), split)


def pickle_in(root: Location) -> tuple[str, str] | None:
    """The folder, relative to `root`, and the name of the first pickle of a set, in `root` or in a folder of it."""
    fs, base = root.filesystem()
    below = [i.base_name for i in root.infos() if i.type == pafs.FileType.Directory]
    for folder in ["", *below][:NESTED]:
        for name in sorted(i.base_name for i in infos(fs, f"{base}/{folder}".rstrip("/"))):
            if name.endswith(PICKLES) or name in OF_CIFAR:
                return folder, name
    return None


def refused_pickle(file: str) -> str:
    """The line for a set that is a pickle, with a way on."""
    return (
        f"source.path: {file} is a pickle, which can run code when it is opened, and is not read; write its images as "
        "train/CLASS/*.png, or take the set as Parquet (CIFAR-10: `hf download uoft-cs/cifar10 --repo-type dataset "
        "--local-dir DIR`, then source.path=DIR)"
    )


def no_split(root: Location, split: str, have: Sequence[str]) -> BadInput:
    """The error for a split that is not there; names the splits that are."""
    if (pickle := pickle_in(root)) is not None and not {*have} - {pickle[0]}:
        return BadInput(refused_pickle("/".join(filter(None, (str(root), *pickle)))))
    alike = difflib.get_close_matches(split, have, n=1)
    advice = f"did you mean {alike[0]!r}?" if alike else "set source.train and source.val to names that exist"
    if split == VAL and have:
        advice += f"; without validation images give {REMEDY}"
    return BadInput(f"source: {root} has no split {split!r} (it has {', '.join(have[:12]) or 'none'}); {advice}")
