"""A folder a split, a folder a class: PATH/SPLIT/CLASS/**/*.jpg and the like, on disk or in an object store."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Protocol

import numpy as np
import pyarrow as pa
from pyarrow import fs as pafs

from raydistill.config import SourceConfig
from raydistill.errors import BadInput, StageFailed
from raydistill.registry import register
from raydistill.sources.base import ClassInfo, Listing
from raydistill.sources.labelfile import label_file, read_labels
from raydistill.sources.layout import class_names, no_split, open_root, required_path
from raydistill.sources.leakage import check_folders, check_images
from raydistill.store.location import Location, infos, reason

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
READERS = 16  # concurrent requests to an object store, and so the images held at a time


File = tuple[str, str]  # the path of an image below the split, which is its id, and its size and modification time


@register("source", "imagefolder")
class ImageFolder:
    """Class id = folder name; class name = the same, unless `classes.json` in PATH gives another.

    Images of a split may also lie unsorted in PATH/SPLIT/ with a file PATH/SPLIT.txt or PATH/SPLIT_labels.txt beside
    it, a line "FILE CLASS" or "FILE,CLASS" an image. Hidden files and files that are not images by their name are
    ignored; a symbolic link that leaves PATH is refused, and so are validation images that are training images too.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.path = required_path(config)
        self.train, self.val = config.train, config.val

    def list(self, split: str) -> Listing:
        """Classes in the order of their folder names, images by path within the class."""
        root = open_root(self.path)
        tree = _tree(root, _split_folder(root, split))
        classes, loose = tree.top()
        label_list = label_file(root, split) if loose else None
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
            images = tree.images(classes)
        else:
            raise BadInput(
                f"source: {tree.folder} holds no class folders; sort the images into {tree.folder}/CLASS/, "
                f"or give their classes in {root / split}.txt, lines FILE CLASS"
            )
        listing = _listing(tree.folder, split, classes, _named(root, classes), images)
        self._check_apart(root, listing)
        return listing

    def _known(self, root: Location, split: str) -> Sequence[str] | None:
        """The classes that unsorted images may have: the training split's folders, or what classes.json names."""
        if split != self.train and (root / self.train).exists():
            classes, _ = _tree(root, root / self.train).top()
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

    def read(self, split: str, ids: Sequence[str]) -> Iterator[bytes]:
        """One file after the other from a disk, a few at a time from an object store."""
        folder = Location.of(self.path) / split
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


def _named(root: Location, classes: Sequence[str]) -> list[str]:
    known = class_names(root)
    names = known.name_of if known else {}
    return [names.get(c, c) for c in classes]


def _sorted_by(
    label_list: Location, loose: Sequence[File], known: Sequence[str] | None
) -> tuple[Sequence[str], Sequence[Sequence[File]]]:
    """Unsorted images by the class that the label file gives them; the known classes, or those of the file."""
    labels = read_labels(label_list, [name for name, _ in loose], known)
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


def _split_folder(root: Location, split: str) -> Location:
    have = sorted(
        i.base_name for i in root.infos() if i.type == pafs.FileType.Directory and not i.base_name.startswith(".")
    )
    if split not in have:
        raise no_split(root, split, have)
    return root / split


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _utf8(folder: Location, names: Sequence[str]) -> Sequence[str]:
    """The names, all of which are UTF-8 (others reach Python with surrogates and could not be written down)."""
    for name in names:
        if not name.isascii() and any("\ud800" <= c <= "\udfff" for c in name):
            raise BadInput(f"source: a name below {folder} is not UTF-8: {name!a}; rename it")
    return names


class _Tree(Protocol):
    """A split's folder."""

    folder: Location

    def top(self) -> tuple[Sequence[str], Sequence[File]]:
        """The class folders, in no order, and the images that lie beside them."""
        ...

    def images(self, classes: Sequence[str]) -> Iterator[Sequence[File]]:
        """The images in and below each class folder, in no order."""
        ...


def _tree(root: Location, folder: Location) -> _Tree:
    return _Disk(root, folder) if root.is_local else _Store(folder)


# ---- object stores ---------------------------------------------------------------------------------------------------


class _Store:
    """Class folders are listed one by one, a few at a time: the whole split at once would be held as a whole."""

    def __init__(self, folder: Location) -> None:
        self.folder = folder
        self.fs, self.base = folder.filesystem()

    def top(self) -> tuple[Sequence[str], Sequence[File]]:
        entries = [i for i in self.folder.infos() if not i.base_name.startswith(".")]
        return (
            [i.base_name for i in entries if i.type == pafs.FileType.Directory],
            [self._file(i) for i in entries if i.type == pafs.FileType.File and _is_image(i.base_name)],
        )

    def images(self, classes: Sequence[str]) -> Iterator[Sequence[File]]:
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(classes), READERS):
                yield from pool.map(self._below, classes[start : start + READERS])

    def _below(self, name: str) -> Sequence[File]:
        entries = infos(self.fs, f"{self.base}/{name}", recursive=True)
        files = [self._file(i) for i in entries if i.type == pafs.FileType.File and _is_image(i.base_name)]
        return [f for f in files if not any(part.startswith(".") for part in f[0].split("/"))]

    def _file(self, info: pafs.FileInfo) -> File:
        return info.path[len(self.base) :].strip("/"), f"{info.size}:{info.mtime_ns}"


# ---- local disks: os.scandir is fast and tells symbolic links --------------------------------------------------------


class _Disk:
    """Walks below the source's real path and refuses what leads out of it."""

    def __init__(self, root: Location, folder: Location) -> None:
        self.root, self.folder = os.path.realpath(root.uri), folder
        if os.path.islink(folder.uri):
            self._check_link(folder.uri)

    def top(self) -> tuple[Sequence[str], Sequence[File]]:
        classes, loose = [], []
        for entry in self._entries(self.folder.uri):
            if entry.is_dir():
                classes.append(entry.name)
            elif _is_image(entry.name) and entry.is_file():
                loose.append(_file(entry, entry.name))
        return classes, loose

    def images(self, classes: Sequence[str]) -> Iterator[Sequence[File]]:
        for name in classes:
            yield list(self._below(f"{self.folder.uri}/{name}", name, ()))

    def _entries(self, path: str) -> Iterator[os.DirEntry[str]]:
        """What is not hidden in the folder `path`, every symbolic link checked."""
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        if entry.is_symlink():
                            self._check_link(entry.path)
                        yield entry
        except OSError as e:
            raise BadInput(f"source: {path} cannot be listed: {reason(e)}; check its permissions") from None

    def _below(self, path: str, name: str, above: tuple[str, ...]) -> Iterator[File]:
        """Images in and below `path`, which is `name` below the split; `above` holds the real paths above it."""
        real = os.path.realpath(path)
        if real in above:
            raise BadInput(f"source: {path} is a symbolic link to a folder that holds it; remove the link")
        for entry in self._entries(path):
            if entry.is_dir():
                yield from self._below(entry.path, f"{name}/{entry.name}", (*above, real))
            elif _is_image(entry.name) and entry.is_file():
                yield _file(entry, f"{name}/{entry.name}")

    def _check_link(self, path: str) -> None:
        real = os.path.realpath(path)
        if os.path.commonpath([self.root, real]) != self.root:
            raise BadInput(
                f"source: {path} is a symbolic link that leads out of source.path (to {real}); "
                "copy the files there or give the folder that holds both as source.path"
            )
        if not os.path.exists(real):
            raise BadInput(f"source: {path} is a symbolic link to {real}, which does not exist; remove or repair it")


def _file(entry: os.DirEntry[str], name: str) -> File:
    try:
        stat = entry.stat()
    except OSError as e:
        raise BadInput(
            f"source: {entry.path} was listed and cannot be seen: {reason(e)}; wait until nobody changes the images"
        ) from None
    return name, f"{stat.st_size}:{stat.st_mtime_ns}"
