"""What a source is: a listing with a content identity, and a reader of raw image bytes by id."""

from __future__ import annotations

import difflib
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from raydistill import registry
from raydistill.config import SourceConfig, class_lists
from raydistill.errors import BadInput
from raydistill.identity import digest

BLOCK = 65536  # ids held as Python texts at a time


@dataclass(frozen=True)
class ClassInfo:
    """`class_id` is what generators and other repositories know the class by (a WordNet id where there is one)."""

    class_id: str
    class_name: str


@dataclass(frozen=True)
class Listing:
    """A split's images in the source's order: ids (N,) strings, labels (N,) int32 indices into `classes`.

    `tags` (N,) strings describe the content without reading it (size and modification time, or an ETag).
    """

    split: str
    classes: tuple[ClassInfo, ...]
    ids: pa.Array
    labels: np.ndarray
    tags: pa.Array

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def counts(self) -> np.ndarray:
        """Images per class, (classes,) int64."""
        return np.bincount(self.labels, minlength=len(self.classes))

    @cached_property
    def digest(self) -> str:
        """Identity of the listing: classes, ids, labels and tags, in order."""
        batch = pa.record_batch({"id": self.ids, "label": pa.array(self.labels), "tag": self.tags})
        sink = HashSink("\n".join(f"{c.class_id}\t{c.class_name}" for c in self.classes).encode())
        with pa.ipc.new_stream(pa.PythonFile(sink, "w"), batch.schema) as writer:
            writer.write_batch(batch)
        return sink.hash.hexdigest()

    def take(self, keep: np.ndarray) -> Listing:
        """The rows where `keep` (N,) bool is true, in order."""
        mask = pa.array(keep)
        return Listing(self.split, self.classes, self.ids.filter(mask), self.labels[keep], self.tags.filter(mask))


class HashSink(io.RawIOBase):
    """A file that keeps nothing of what is written to it but the SHA-256, begun with `head`."""

    def __init__(self, head: bytes) -> None:
        self.hash = hashlib.sha256(head)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return len(data)


class Source(Protocol):
    """Constructed as `Cls(config)`. Cheap to make and to pickle; opens nothing until it is asked."""

    def __init__(self, config: SourceConfig) -> None: ...

    def list(self, split: str) -> Listing:
        """Every image of the split, all classes of the source. Raises BadInput naming what is missing."""
        ...

    def read(self, split: str, ids: Sequence[str]) -> Iterator[bytes]:
        """Encoded bytes of each image, in the order of `ids`. Raises BrokenImage only inside decoding, not here."""
        ...


def open_source(config: SourceConfig) -> Source:
    return registry.get("source", config.kind)(config)


def select_classes(listing: Listing, wanted: Sequence[str] | None) -> Listing:
    """Picks and orders classes by class_id (or class_name). Raises BadInput for one that is not there."""
    if wanted is None:
        return listing
    index = {c.class_name: i for i, c in enumerate(listing.classes)}
    index |= {c.class_id: i for i, c in enumerate(listing.classes)}
    for name in wanted:
        if name not in index:
            known = ", ".join(c.class_id for c in listing.classes[:12])
            near = difflib.get_close_matches(name, class_lists(), n=1) if len(wanted) == 1 else []
            hint = f"; did you mean the list {near[0]!r}?" if near else ""
            raise BadInput(
                f"source.classes: {name!r} is not a class of the {listing.split} split (it has {known}...){hint}"
            )
    picked = [index[n] for n in wanted]
    if len(set(picked)) != len(picked) or not picked:
        raise BadInput("source.classes: list each class once, and at least one")
    new = np.full(len(listing.classes), -1, np.int32)
    new[picked] = np.arange(len(picked), dtype=np.int32)
    kept = listing.take(new[listing.labels] >= 0)
    return Listing(listing.split, tuple(listing.classes[i] for i in picked), kept.ids, new[kept.labels], kept.tags)


@dataclass(frozen=True)
class Splits:
    """The images a run distils (`train`) and the ones its students are tested on (`test`), as asked by the config."""

    source: Source
    train: Listing
    test: Listing


def open_splits(config: SourceConfig) -> Splits:
    """Lists, checks and if asked carves. Raises BadInput: no images, an empty class, a class missing from a split."""
    source = open_source(config)
    train = select_classes(source.list(config.train), config.classes)
    if config.search_split > 0:
        held = _held_out(train, config.search_split)
        train, test = train.take(~held), train.take(held)
    else:
        test = _match(select_classes(source.list(config.val), config.classes), train)
    for listing, use in ((train, "train"), (test, "test")):
        for info, count in zip(listing.classes, listing.counts, strict=True):
            if count == 0:
                raise BadInput(
                    f"source: class {info.class_id!r} ({info.class_name}) has no image in the {use} split "
                    f"{listing.split!r}; remove it with source.classes=[...] or add images"
                )
    if len(train.classes) < 2:
        raise BadInput("source: one class cannot be told from anything; give at least two")
    return Splits(source, train, test)


def _held_out(listing: Listing, fraction: float) -> np.ndarray:
    """By the hash of each id, so that it depends neither on order nor on the other images."""
    held = np.zeros(len(listing), bool)
    for start in range(0, len(held), BLOCK):
        names = listing.ids[start : start + BLOCK].to_pylist()
        held[start : start + BLOCK] = [int(digest(str(i).encode())[:8], 16) / 2**32 < fraction for i in names]
    return held


def _match(test: Listing, train: Listing) -> Listing:
    """Renumbers the test labels to the training classes, by class id, never by position."""
    if [c.class_id for c in test.classes] == [c.class_id for c in train.classes]:
        return test
    have = {c.class_id for c in test.classes}
    missing = [c.class_id for c in train.classes if c.class_id not in have]
    if missing:
        raise BadInput(
            f"source: class {missing[0]!r} is in split {train.split!r} but not in {test.split!r}; "
            "add its images or pick classes with source.classes=[...]"
        )
    return select_classes(test, [c.class_id for c in train.classes])
