"""Validation images that are training images too make every accuracy worthless: what can be seen of it, on a disk."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydistill.errors import BadInput, StageFailed
from raydistill.identity import digest
from raydistill.progress import say
from raydistill.sources.base import Listing, Source
from raydistill.sources.carved import REMEDY
from raydistill.store.location import reason

MOST_READ = 20_000  # images of which the beginning is read, to find copies under other names
MOST_BYTES = 2**29  # that are read of images which lie together in files
BEGINNING = 8192  # bytes
SIZE = (1 << 40) - 1  # bits of a size beside those of a class
FEW = 0.01  # of the validation images: so many copies are said, and more are refused


def check_folders(train: str, val: str) -> None:
    """Refuses one split's folder inside the other's, by its real path or by its name."""
    real = [os.path.realpath(p) for p in (train, val)]
    if os.path.isdir(val) and os.path.isdir(train) and os.path.commonpath(real) in real:
        raise BadInput(f"source: of {train} and {val} one is inside the other; keep the validation images apart")
    inside = f"{train}/{os.path.basename(val)}"
    if os.path.isdir(inside):
        raise BadInput(
            f"source: {inside} would be a class of its own name as the validation split; if the validation "
            "images are there, move them out of the training images; if it is a class, rename it"
        )


def check_images(train: str, val: str, listing: Listing) -> None:
    """Refuses a validation image that lies under the same name in its class's training folder, byte for byte."""
    for start in range(0, len(listing), 4096):
        part = slice(start, start + 4096)
        for name, tag, label in zip(
            listing.ids[part].to_pylist(), listing.tags[part].to_pylist(), np.asarray(listing.labels[part]), strict=True
        ):
            folder = listing.classes[label].class_id
            below = name if "/" in name else f"{folder}/{name}"
            if _same(f"{train}/{below}", f"{val}/{name}", int(tag.partition(":")[0])):
                raise BadInput(
                    f"source: {val}/{name} is the training image {train}/{below}, byte for byte; remove one of the two"
                )


def check_copies(train_folder: str, val_folder: str, train: Listing, test: Listing) -> None:
    """Names validation images that are training images of their class under another name, byte for byte.

    Refuses more than a hundredth of them. Files are read only where size and class agree, and no more than MOST_READ.
    """
    pairs = [(f"{val_folder}/{a}", f"{train_folder}/{b}") for a, b in _copies(train_folder, val_folder, train, test)]
    _tell(pairs, len(test), " under another name", "remove one of the two")


def check_read_copies(source: Source, train: Listing, test: Listing) -> None:
    """As `check_copies`, of sources that tell no sizes: images are read from the beginning of each split, no more than
    half of MOST_READ and of MOST_BYTES.
    """
    known: dict[str, str] = {}
    for name, key in _read_keys(source, train):
        known.setdefault(key, name)
    pairs = [(name, known[key]) for name, key in _read_keys(source, test) if key in known]
    _tell(pairs, len(test), "", f"remove one of the two, or give {REMEDY}")


def _tell(pairs: Sequence[tuple[str, str]], images: int, how: str, remedy: str) -> None:
    """Says few pairs of a validation image and the training image that it is. Raises BadInput for many."""
    if not pairs:
        return
    first, of = pairs[0]
    line = (
        f"{len(pairs)} of {images} validation images {'is a' if len(pairs) == 1 else 'are'} training "
        f"image{'' if len(pairs) == 1 else 's'}{how}, byte for byte ({first} is {of}); {remedy}"
    )
    if len(pairs) > FEW * images:
        raise BadInput(f"source: {line}")
    say("source", f"warning: {line}")


def _read_keys(source: Source, listing: Listing) -> Iterator[tuple[str, str]]:
    """The ids of images at the beginning of a split, with what agrees where class and bytes of two images do."""
    names, left = listing.ids.slice(0, MOST_READ // 2).to_pylist(), MOST_BYTES // 2
    images = iter(source.read(listing.split, names))
    for row, name in enumerate(names):
        try:
            data = next(images)
        except StageFailed:  # whoever reads its pixels says so
            return
        left -= len(data)
        if left < 0:
            return
        if data:  # empty ones are broken images, not equal ones
            yield name, f"{listing.labels[row]} {digest(data)}"


def _copies(train_folder: str, val_folder: str, train: Listing, test: Listing) -> Iterator[tuple[str, str]]:
    """Validation image and training image, by their ids; classes are numbered alike in both."""
    kinds, wanted = (_size_and_class(listing) for listing in (train, test))
    sources, copies = (np.flatnonzero(np.isin(a, b) & (a > 0)) for a, b in ((kinds, wanted), (wanted, kinds)))
    if not len(copies):
        return
    known: dict[tuple[int, str], str] = {}
    for row in sources[: MOST_READ // 2]:
        name = train.ids[int(row)].as_py()
        known.setdefault((int(kinds[row]), _beginning(f"{train_folder}/{name}")), name)
    for row in copies[: MOST_READ // 2]:
        name = test.ids[int(row)].as_py()
        of = known.get((int(wanted[row]), _beginning(f"{val_folder}/{name}")))
        if of is not None and _same(f"{train_folder}/{of}", f"{val_folder}/{name}", int(wanted[row] & SIZE)):
            yield name, of


def _size_and_class(listing: Listing) -> np.ndarray:
    """(N,) int64 that agree where size and class of two images do; 0 for empty files, which are broken."""
    sizes = pc.replace_substring_regex(listing.tags, ":.*", "").cast(pa.int64()).to_numpy(zero_copy_only=False)
    return np.where(sizes > 0, (sizes & SIZE) | ((listing.labels.astype(np.int64) + 1) << 40), 0)


def _beginning(path: str) -> str:
    """Digest of the first bytes of a file; of one that cannot be read none that another has."""
    try:
        with open(path, "rb") as file:
            return digest(file.read(BEGINNING))
    except OSError:  # whoever reads its pixels says so
        return path


def _same(first: str, second: str, size: int) -> bool:
    """Empty files are broken images, not equal ones."""
    try:
        return size > 0 and os.stat(first).st_size == size and filecmp.cmp(first, second, shallow=False)
    except FileNotFoundError:
        return False
    except OSError as e:
        raise BadInput(
            f"source: {first} and {second} cannot be compared: {reason(e)}; check their permissions"
        ) from None
