"""Validation images that are training images too make every accuracy worthless: what can be seen of it, on a disk."""

from __future__ import annotations

import filecmp
import os

import numpy as np

from raydistill.errors import BadInput
from raydistill.sources.base import Listing
from raydistill.store.location import reason


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
