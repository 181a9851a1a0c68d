"""A folder a split, a folder a class: PATH/SPLIT/CLASS/**/*.jpg and the like, on disk or in an object store."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
from pyarrow import fs as pafs

from raydistill.config import SourceConfig
from raydistill.errors import BadInput, StageFailed
from raydistill.registry import register
from raydistill.sources.base import ClassInfo, Listing
from raydistill.sources.layout import class_names, no_split, open_root, required_path
from raydistill.store.location import Location, reason

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
READERS = 16  # concurrent requests to an object store, and so the images held at a time


@dataclass(frozen=True)
class File:
    """One image: `id` is its path below the split, `tag` its size and modification time."""

    id: str
    tag: str

    @property
    def class_id(self) -> str:
        return self.id.partition("/")[0]


@register("source", "imagefolder")
class ImageFolder:
    """Class id = folder name; class name = the same, unless `classes.json` in PATH gives another.

    Hidden files and files that are not images by their name are ignored; a symbolic link that leaves PATH is refused.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.path = required_path(config)

    def list(self, split: str) -> Listing:
        """Classes in the order of their folder names, images by path within the class."""
        root = open_root(self.path)
        folder = _split_folder(root, split)
        classes, files = (_scan_local if root.is_local else _scan_remote)(root, folder)
        if not classes:
            raise BadInput(f"source: {folder} holds no class folders; sort the images into {folder}/CLASS/")
        order = {name: i for i, name in enumerate(sorted(classes))}
        files = sorted(files, key=lambda f: (order[f.class_id], f.id))
        known = class_names(root)
        names = known.name_of if known else {}
        return Listing(split, tuple(ClassInfo(c, names.get(c, c)) for c in _checked(folder, order)),
                       pa.array(_checked(folder, [f.id for f in files]), pa.string()),
                       np.array([order[f.class_id] for f in files], np.int32),
                       pa.array([f.tag for f in files], pa.string()))

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


def _read(fs: pafs.FileSystem, base: str, name: str) -> bytes:
    try:
        with fs.open_input_stream(f"{base}/{name}") as f:
            return f.read()
    except OSError as e:
        raise StageFailed(f"source: {base}/{name} was listed but cannot be read: {reason(e)}; "
                          "put it back, or start again with the images as they are now") from None


def _split_folder(root: Location, split: str) -> Location:
    have = sorted(i.base_name for i in root.infos()
                  if i.type == pafs.FileType.Directory and not i.base_name.startswith("."))
    if split not in have:
        raise no_split(root, split, have)
    return root / split


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _checked(folder: Location, names: Iterable[str]) -> Sequence[str]:
    """The names, all of which are UTF-8 (others reach Python with surrogates and could not be written down)."""
    for name in names:
        if not name.isascii() and any("\ud800" <= c <= "\udfff" for c in name):
            raise BadInput(f"source: a name below {folder} is not UTF-8: {name!a}; rename it")
    return list(names)


# ---- object stores ---------------------------------------------------------------------------------------------------

def _scan_remote(root: Location, folder: Location) -> tuple[set[str], list[File]]:
    _, base = folder.filesystem()
    classes, files = set(), []
    for info in folder.infos(recursive=True):
        name = info.path[len(base):].strip("/")
        if any(part.startswith(".") for part in name.split("/")):
            continue
        if info.type == pafs.FileType.Directory or "/" in name:
            classes.add(name.partition("/")[0])
        if info.type == pafs.FileType.File and "/" in name and _is_image(name):
            files.append(File(name, f"{info.size}:{info.mtime_ns}"))
    return classes, files


# ---- local disks: os.scandir is fast and tells symbolic links ----------------------------------------

def _scan_local(root: Location, folder: Location) -> tuple[set[str], list[File]]:
    walk = _Walk(os.path.realpath(root.uri))
    if os.path.islink(folder.uri):
        walk.check_link(folder.uri)
    classes = {e.name for e in walk.entries(folder.uri) if e.is_dir()}
    return classes, [f for name in classes for f in walk.images(f"{folder.uri}/{name}", name, ())]


@dataclass(frozen=True)
class _Walk:
    """Walks below `top`, the real path of the source, and refuses what leads out of it."""

    top: str

    def entries(self, path: str) -> Iterator[os.DirEntry[str]]:
        """What is not hidden in the folder `path`, every symbolic link checked."""
        try:
            with os.scandir(path) as found:
                for entry in found:
                    if not entry.name.startswith("."):
                        if entry.is_symlink():
                            self.check_link(entry.path)
                        yield entry
        except OSError as e:
            raise BadInput(f"source: {path} cannot be listed: {reason(e)}; check its permissions") from None

    def images(self, path: str, name: str, above: tuple[str, ...]) -> Iterator[File]:
        """Images in and below `path`, which is `name` below the split; `above` holds the real paths above it."""
        real = os.path.realpath(path)
        if real in above:
            raise BadInput(f"source: {path} is a symbolic link to a folder that holds it; remove the link")
        for entry in self.entries(path):
            if entry.is_dir():
                yield from self.images(entry.path, f"{name}/{entry.name}", (*above, real))
            elif _is_image(entry.name) and entry.is_file():
                stat = entry.stat()
                yield File(f"{name}/{entry.name}", f"{stat.st_size}:{stat.st_mtime_ns}")

    def check_link(self, path: str) -> None:
        real = os.path.realpath(path)
        if os.path.commonpath([self.top, real]) != self.top:
            raise BadInput(f"source: {path} is a symbolic link that leads out of source.path (to {real}); "
                           "copy the files there or give the folder that holds both as source.path")
        if not os.path.exists(real):
            raise BadInput(f"source: {path} is a symbolic link to {real}, which does not exist; remove or repair it")
