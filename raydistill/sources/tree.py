"""The folders and images below a split of an image folder, on a local disk or in an object store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from pyarrow import fs as pafs

from raydistill.errors import BadInput
from raydistill.store.location import Location, infos, reason

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
READERS = 16  # concurrent requests to an object store, and so the images held at a time
# What macOS, Windows and NAS boxes put beside images: copies, thumbnails, deleted files.
LEFTOVERS = {"__MACOSX", "@eaDir", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot", "$RECYCLE.BIN"}

File = tuple[str, str]  # the path of an image below the split, which is its id, and its size and modification time


def hidden(name: str) -> bool:
    """Whether a folder of this name is not looked at."""
    return name.startswith(".") or name in LEFTOVERS


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


class SplitFolder(Protocol):
    """A split's folder."""

    folder: Location
    leftovers: list[str]  # the folders of LEFTOVERS that the walk came by, in no order

    def top(self) -> tuple[Sequence[str], Sequence[File]]:
        """The class folders, in no order, and the images that lie beside them."""
        ...

    def images(self, classes: Sequence[str]) -> Iterator[Sequence[File]]:
        """The images in and below each class folder, in no order."""
        ...


def tree_of(root: Location, folder: Location) -> SplitFolder:
    return _Disk(root, folder) if root.is_local else _Store(folder)


# ---- object stores ---------------------------------------------------------------------------------------------------


class _Store:
    """Class folders are listed one by one, a few at a time: the whole split at once would be held as a whole."""

    def __init__(self, folder: Location) -> None:
        self.folder = folder
        self.leftovers: list[str] = []
        self.fs, self.base = folder.filesystem()

    def top(self) -> tuple[Sequence[str], Sequence[File]]:
        entries = [i for i in self.folder.infos() if not self._skipped(i.base_name, i.base_name)]
        return (
            [i.base_name for i in entries if i.type == pafs.FileType.Directory],
            [self._file(i) for i in entries if i.type == pafs.FileType.File and is_image(i.base_name)],
        )

    def images(self, classes: Sequence[str]) -> Iterator[Sequence[File]]:
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(classes), READERS):
                yield from pool.map(self._below, classes[start : start + READERS])

    def _below(self, name: str) -> Sequence[File]:
        entries = infos(self.fs, f"{self.base}/{name}", recursive=True)
        files = [self._file(i) for i in entries if i.type == pafs.FileType.File and is_image(i.base_name)]
        return [f for f in files if not any(self._skipped(part, f[0]) for part in f[0].split("/"))]

    def _skipped(self, part: str, path: str) -> bool:
        if part in LEFTOVERS:
            self.leftovers = sorted({*self.leftovers, path[: path.index(part) + len(part)]})
        return hidden(part)

    def _file(self, info: pafs.FileInfo) -> File:
        return info.path[len(self.base) :].strip("/"), f"{info.size}:{info.mtime_ns}"


# ---- local disks: os.scandir is fast and tells symbolic links --------------------------------------------------------


class _Disk:
    """Walks below the source's real path and refuses what leads out of it."""

    def __init__(self, root: Location, folder: Location) -> None:
        self.root, self.folder = os.path.realpath(root.uri), folder
        self.within = _of_cache(self.root) or self.root
        self.leftovers: list[str] = []
        self._check_link(folder.uri)

    def top(self) -> tuple[Sequence[str], Sequence[File]]:
        classes, loose = [], []
        for entry in self._entries(self.folder.uri):
            if entry.is_dir():
                classes.append(entry.name)
            elif is_image(entry.name) and entry.is_file():
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
                    if entry.name in LEFTOVERS:
                        self.leftovers.append(os.path.relpath(entry.path, self.folder.uri))
                    elif not hidden(entry.name):
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
            elif is_image(entry.name) and entry.is_file():
                yield _file(entry, f"{name}/{entry.name}")

    def _holding(self, real: str) -> str:
        """The keys with which the split lies in a source that holds `real` too."""
        common = os.path.commonpath([self.root, real])
        key = f"source.path={common} source.train={os.path.relpath(self.folder.uri, common)}"
        return f"{key}, and source.val likewise"

    def _check_link(self, path: str) -> None:
        real = os.path.realpath(path)
        if os.path.commonpath([self.within, real]) != self.within:
            raise BadInput(
                f"source: {path} is a symbolic link that leads out of source.path (to {real}); copy the files there "
                f"or give the folder that holds both, {self._holding(real)}"
            )
        if not os.path.exists(real):
            raise BadInput(f"source: {path} is a symbolic link to {real}, which does not exist; remove or repair it")


def _of_cache(root: str) -> str | None:
    """The repository in the hub's cache whose snapshot `root` is, whose files are links into its blobs/."""
    snapshots = os.path.dirname(root)
    repository = os.path.dirname(snapshots)
    is_one = os.path.basename(snapshots) == "snapshots" and os.path.isdir(os.path.join(repository, "blobs"))
    return repository if is_one else None


def _file(entry: os.DirEntry[str], name: str) -> File:
    try:
        stat = entry.stat()
    except OSError as e:
        raise BadInput(
            f"source: {entry.path} was listed and cannot be seen: {reason(e)}; wait until nobody changes the images"
        ) from None
    return name, f"{stat.st_size}:{stat.st_mtime_ns}"
