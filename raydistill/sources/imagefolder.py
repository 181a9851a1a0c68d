"""A folder a split, a folder a class: PATH/SPLIT/CLASS/**/*.jpg and the like, on disk or in an object store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pyarrow as pa
from pyarrow import fs as pafs

from raydistill.config import SourceConfig
from raydistill.errors import BadInput, StageFailed
from raydistill.progress import say
from raydistill.registry import register
from raydistill.sources.base import ClassInfo, Listing
from raydistill.sources.labelfile import annotations_of, label_file, read_labels
from raydistill.sources.layout import class_names, open_root, required_path
from raydistill.sources.leakage import check_copies, check_folders, check_images
from raydistill.sources.levels import below, check_level, split_folder, sub_classes, unsorted
from raydistill.sources.tree import READERS, File, tree_of
from raydistill.store.location import Location, reason

TINY = "images"  # the folder of a split in which Tiny-ImageNet has the unsorted images


@register("source", "imagefolder")
class ImageFolder:
    """Class id = folder name; class name = the same, unless `classes.json` in PATH gives another.

    Images of a split may also lie unsorted in PATH/SPLIT/ with a file that gives their classes (`labelfile`). Hidden
    files, files that are not images by their name and what systems leave behind (`tree.LEFTOVERS`) are not read. A
    symbolic link that leaves PATH is refused, and so are validation images that are training images too.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.path = required_path(config)
        self.train, self.val = config.train, config.val

    def list(self, split: str) -> Listing:
        """Classes in the order of their folder names, images by path within the class."""
        root = open_root(self.path)
        folder = split_folder(root, split, (self.train, self.val))
        tree = tree_of(root, folder)
        classes, loose = tree.top()
        if list(classes) == [TINY] and not loose and (root / annotations_of(split)).size() is not None:
            classes, loose = [], next(tree.images(classes))
        label_list = label_file(root, split, tables=not classes) if loose else None
        if classes and label_list:
            raise BadInput(
                f"source: {tree.folder} holds class folders, and images beside them that {label_list} sorts; "
                "keep one of the two"
            )
        images: Iterable[Sequence[File]]
        if label_list is not None:
            classes, images = _sorted_by(label_list, loose, self._known(root, split))
        elif classes:
            classes = sorted(_utf8(tree.folder, classes))
            if not loose:
                check_level(folder, split, classes)
            images = tree.images(classes)
        else:
            raise unsorted(root, split, (self.train, self.val))
        listing = _listing(tree.folder, split, classes, _named(root, classes), images)
        self._check_apart(root, listing)
        if split == self.train and (above := sub_classes(listing)):
            say("source", above)
        if tree.leftovers:
            say("source", _skipped(split, sorted(tree.leftovers)))
        return listing

    def _known(self, root: Location, split: str) -> Sequence[str] | None:
        """The classes that unsorted images may have: the training split's folders, or what classes.json names."""
        if split != self.train and (train := below(root, self.train)).exists():
            classes, _ = tree_of(root, train).top()
            if classes:
                return classes
        known = class_names(root)
        return None if known is None else known.dirs

    def _check_apart(self, root: Location, listing: Listing) -> None:
        """Refuses, on a disk, a validation split that is part of the training split."""
        if root.is_local and self.train != self.val and listing.split in (self.train, self.val):
            train, val = f"{root.uri}/{self.train}", f"{root.uri}/{self.val}"
            check_folders(train, val)
            if listing.split == self.val:
                check_images(train, val, listing)

    def check_copies(self, train: Listing, test: Listing) -> None:
        """Names, on a disk, validation images that are training images by another name. Refuses many."""
        root = open_root(self.path)
        if root.is_local:
            check_copies(below(root, train.split).uri, below(root, test.split).uri, train, test)

    def read(self, split: str, ids: Sequence[str]) -> Iterator[bytes]:
        """One file after the other from a disk, a few at a time from an object store."""
        folder = below(Location.of(self.path), split)
        fs, base = folder.filesystem()
        if folder.is_local:
            yield from (_read(fs, base, name) for name in ids)
            return
        left = iter(ids)
        with ThreadPoolExecutor(READERS) as pool:
            while some := list(islice(left, READERS)):
                yield from pool.map(lambda name: _read(fs, base, name), some)


def _listing(
    folder: Location, split: str, classes: Sequence[str], names: Sequence[str], images: Iterable[Sequence[File]]
) -> Listing:
    """From the images of each class in turn; Python objects are made for one class at a time, never for millions."""
    ids, tags, counts = [], [], []
    for files in images:
        files = sorted(files)
        ids.append(pa.array(_utf8(folder, [name for name, _ in files]), pa.string()))
        tags.append(pa.array([tag for _, tag in files], pa.string()))
        counts.append(len(files))
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    infos = tuple(ClassInfo(c, n) for c, n in zip(classes, names, strict=True))
    return Listing(split, infos, pa.concat_arrays(ids), labels, pa.concat_arrays(tags))


def _skipped(split: str, leftovers: Sequence[str]) -> str:
    more = f" and {len(leftovers) - 1} more" if len(leftovers) > 1 else ""
    return f"split {split!r}: not images but what systems leave behind, skipped: {leftovers[0]}/{more}"


def _named(root: Location, classes: Sequence[str]) -> list[str]:
    known = class_names(root)
    names = known.name_of if known else {}
    return [names.get(c, c) for c in classes]


def _sorted_by(
    label_list: Location, loose: Sequence[File], known: Sequence[str] | None
) -> tuple[Sequence[str], Sequence[Sequence[File]]]:
    """Unsorted images by the class that the label file gives them; the known classes, or those of the file."""
    labels = read_labels(label_list, [name.removeprefix(f"{TINY}/") for name, _ in loose], known)
    by_class: dict[str, list[File]] = {c: [] for c in sorted(set(labels) | set(known or ()))}
    for file, class_id in zip(loose, labels, strict=True):
        by_class[class_id].append(file)
    return list(by_class), list(by_class.values())


def _read(fs: pafs.FileSystem, base: str, name: str) -> bytes:
    try:
        with fs.open_input_stream(f"{base}/{name}") as f:
            return f.read()
    except OSError as e:
        raise StageFailed(
            f"source: {base}/{name} was listed but cannot be read: {reason(e)}; "
            "put it back, or start again with the images as they are now"
        ) from None


def _utf8(folder: Location, names: Sequence[str]) -> Sequence[str]:
    """The names, all of which are UTF-8 (others reach Python with surrogates and could not be written down)."""
    for name in names:
        if not name.isascii() and any("\ud800" <= c <= "\udfff" for c in name):
            raise BadInput(f"source: a name below {folder} is not UTF-8: {name!a}; rename it")
    return names
