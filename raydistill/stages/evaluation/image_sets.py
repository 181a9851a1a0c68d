"""The images that students see: a method's syntheses or a whole split, decoded and resized once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from raydistill.config import SourceConfig
from raydistill.errors import BrokenImage, StageFailed
from raydistill.evaluation.images import ImageSet
from raydistill.evaluation.zca import Whitening, from_levels
from raydistill.report.scores import FULL, FULL_BALANCED
from raydistill.sources.base import Listing, open_source
from raydistill.sources.images import decode
from raydistill.stages import quarantine
from raydistill.stages.evaluation import pixel_array
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.store.location import Location


@dataclass(frozen=True)
class SetRef:
    """A training set by reference: syntheses, or (`made` None) all training images.

    `redundancy_part` (i, S): only part i of the S into which it is split (metrics.redundancy). `draw` counts the
    generation seeds from the run's own, 0; None for a set that all of them share. `balanced`: batches draw all classes
    equally often. `levels`: of a set that is whitened already, what its darkest and brightest pixels stand for.
    `epochs`: how long all training images are trained on; None is as many image visits as the distilled sets.
    """

    name: str
    digest: str
    images: int
    distilled: DistilledSet | None
    redundancy_part: tuple[int, int] | None = None
    draw: int | None = 0
    balanced: bool = False
    levels: tuple[float, float] | None = None
    epochs: int | None = None

    @classmethod
    def of(
        cls, name: str, distilled: DistilledSet, draw: int | None = 0, levels: tuple[float, float] | None = None
    ) -> SetRef:
        return cls(name, distilled.digest, distilled.rows, distilled, draw=draw, levels=levels)

    @classmethod
    def full(cls, train: Listing, epochs: int | None = None, balanced: bool = False) -> SetRef:
        name = FULL_BALANCED if balanced else FULL
        return cls(name, train.digest, len(train), None, draw=None, balanced=balanced, epochs=epochs)

    @property
    def images_digest(self) -> str:
        """What its soft labels are of: weights are not in it."""
        return self.digest if self.distilled is None else self.distilled.images_digest


@dataclass(frozen=True)
class Loaded:
    """A set's images, the broken ones that were left out with the reasons, and the bytes of the others as they are
    stored."""

    images: ImageSet
    broken: list[tuple[str, str]]
    bytes: int


def load_images(blobs: Sequence[bytes], source: SourceConfig, size: int, crop: float = 1.0) -> np.ndarray:
    """Encoded images -> (N, 3, size, size) uint8: prepared as for encoding, then resized to what the student sees.

    `crop` below 1 keeps the middle share of a side, as tests that resize to 256 and cut 224 do.
    """
    wide = round(size / crop)
    edge = (wide - size) // 2
    out = np.empty((len(blobs), size, size, 3), np.uint8)
    for i, blob in enumerate(blobs):
        pixels = decode(blob, source.image_size, source.max_pixels)
        if source.image_size != wide:
            pixels = np.asarray(Image.fromarray(pixels).resize((wide, wide), Image.Resampling.BICUBIC))
        out[i] = pixels[edge : edge + size, edge : edge + size]
    return np.ascontiguousarray(out.transpose(0, 3, 1, 2))


def image_set(pixels: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> ImageSet:
    """Raises StageFailed for a weight that is negative, or that float32, in which losses are, cannot hold."""
    weights = np.ones(len(labels)) if weights is None else weights
    wrong = np.flatnonzero(~((weights >= 0) & (weights <= np.finfo(np.float32).max)))
    if len(wrong):
        raise StageFailed(f"evaluate: the weight of image {wrong[0]} of a set is {weights[wrong[0]]}; make it again")
    return ImageSet(
        torch.from_numpy(pixels),
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(weights.astype(np.float32)),
        in_file=isinstance(pixels, np.memmap),
    )


def whitened(images: ImageSet, whitening: Whitening, levels: tuple[float, float] | None = None) -> ImageSet:
    """The images as zca has them, in memory: whitened now, or before they were kept in `levels`."""
    pixels = whitening(images.pixels) if levels is None else from_levels(images.pixels, *levels)
    return replace(images, pixels=pixels, in_file=False)


def real_images(
    source: SourceConfig, listing: Listing, size: int, crop: float = 1.0, most: int | None = None
) -> Loaded:
    """Every usable image of a split, each held once: decoded into the array in which all of them stay.

    It lies in a file where it takes more than `most` bytes (pixel_array.room); None: in memory.
    """
    pixels = pixel_array.room(len(listing), size, most)
    labels: list[int] = []
    broken: list[tuple[str, str]] = []
    stored = 0
    for i, blob in enumerate(open_source(source).read(listing.split, listing.ids.to_pylist())):
        try:
            pixels[len(labels)] = load_images([blob], source, size, crop)[0]
        except BrokenImage as e:
            broken.append((f"{listing.split}/{listing.ids[i]}", str(e)))
        else:
            labels.append(listing.labels[i])
            stored += len(blob)
    if not labels:
        raise StageFailed(
            f"evaluate: none of the {len(listing)} images of split {listing.split!r} can be used; mend them, run again"
        )
    return Loaded(image_set(pixels[: len(labels)], np.array(labels)), broken, stored)


def usable_images(
    source: SourceConfig,
    listing: Listing,
    size: int,
    crop: float = 1.0,
    most: int | None = None,
    logs: Location | None = None,
) -> Loaded:
    """As `real_images`. Broken ones are listed in `logs`.

    Raises StageFailed if more than the share source.max_broken of the split is broken, or all images of a class.
    """
    loaded = real_images(source, listing, size, crop, most)
    see = str(quarantine.add(logs, loaded.broken)) if logs is not None and loaded.broken else ""
    if len(loaded.broken) > source.max_broken * len(listing):
        raise StageFailed(f"evaluate: {too_many(loaded.broken, listing, source.max_broken, see)}")
    usable = np.bincount(loaded.images.labels.numpy(), minlength=len(listing.classes))
    for info, count in zip(listing.classes, usable, strict=True):
        if not count:
            raise StageFailed(
                f"evaluate: no image of class {info.class_id!r} in split {listing.split!r} can be used; "
                f"{f'see {see}, ' if see else ''}mend them or leave the class out with source.classes=[...]"
            )
    return loaded


def too_many(broken: Sequence[Sequence[str]], listing: Listing, limit: float, see: str) -> str:
    """What is said of a split with more broken images, (image, reason), than the limit."""
    name, reason = broken[0]
    return (
        f"{len(broken)} of {len(listing)} images of split {listing.split!r} cannot be used, more than "
        f"source.max_broken={limit:g} (first: {name}: {reason}); {f'see {see}, ' if see else ''}mend them or raise the "
        "limit, run again"
    )


def syntheses(ref: SetRef, source: SourceConfig, size: int) -> Loaded:
    """The images of a set with their weights, in the order of its rows."""
    assert ref.distilled is not None
    table = ref.distilled.read(["class_index", "weight", "image"])
    blobs = table["image"].to_pylist()
    images = image_set(load_images(blobs, source, size), table["class_index"].to_numpy(), table["weight"].to_numpy())
    return Loaded(images, [], sum(map(len, blobs)))
