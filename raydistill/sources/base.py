"""What a source is: a listing with a content identity, and a reader of raw image bytes by id."""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydistill import registry
from raydistill.config import SourceConfig, class_lists
from raydistill.errors import BadInput, first_of
from raydistill.identity import digest
from raydistill.sources import carved

BLOCK = 65536  # ids held as Python texts at a time
NAMED = 12  # classes that a message names
UNREAD = {"image_column": ("digits", "imagefolder", "webdataset"), "label_column": ("digits", "imagefolder")}


@dataclass(frozen=True)
class ClassInfo:
    """`class_id` is what generators and other repositories know the class by (a WordNet id where there is one)."""

    class_id: str
    class_name: str


def unique_names(classes: Sequence[ClassInfo]) -> list[str]:
    """One name a class, no two alike, as ClassLabel demands: the class id is added to names that classes share."""
    names = [c.class_name or c.class_id for c in classes]
    shared = {n for n, count in Counter(names).items() if count > 1}
    unique = [f"{n} ({c.class_id})" if n in shared else n for n, c in zip(names, classes, strict=True)]
    if len(set(unique)) < len(unique):  # such a name was there already
        unique = [f"{n} ({c.class_id})" for n, c in zip(names, classes, strict=True)]
    return unique


def uneven(counts: np.ndarray) -> bool:
    """Whether the largest class, of counts (classes,), has more than twice the images of the smallest."""
    return bool(2 * counts.min() < counts.max())


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

    @property
    def per_class(self) -> str:
        """Images per class, for readers: `32`, or `20 to 32`."""
        few, many = self.counts.min(), self.counts.max()
        return f"{many}" if few == many else f"{few} to {many}"

    @property
    def uneven(self) -> bool:
        """Whether the largest class has more than twice the images of the smallest."""
        return uneven(self.counts)

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
            alike = difflib.get_close_matches(name, class_lists(), n=1) if len(wanted) == 1 else []
            hint = f"; did you mean the list {alike[0]!r}?" if alike else ""
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
    """The images a run distils (`train`) and the ones its students are tested on (`test`), as asked by the config.

    `left_out` says which classes of the validation split are not trained on and so not tested; empty if there are none.
    """

    source: Source
    train: Listing
    test: Listing
    left_out: str = ""


def open_splits(config: SourceConfig) -> Splits:
    """Lists, checks and if asked carves. Raises BadInput: no images, an empty class, a class missing from a split.

    `source.val=split:SHARE` takes its images away first, so that what is chosen by `search_split` sees none of them.
    """
    for key, kinds in UNREAD.items():
        if getattr(config, key) is not None and config.kind in kinds:
            raise BadInput(f"source.{key}: source.kind={config.kind} has no columns and does not read it; leave it out")
    source, left_out = open_source(config), ""
    if getattr(source, "judged_only", False):
        raise BadInput(
            f"source.kind={config.kind} is of sets that are judged, which have one split; judge it by "
            "`raydistill evaluate --images DIR`"
        )
    share = carved.share_of(config.val)
    train = _listed(source, config.train, config)
    if share is not None:
        held = carved.by_class(train.ids, train.labels, *share)
        train, test = train.take(~held), train.take(held)
    if config.search_split > 0:
        held = _held_out(train, config.search_split)
        train, test = train.take(~held), train.take(held)
    elif share is None:
        validation = _listed(source, config.val, config)
        test, left_out = _match(validation, train), _without(validation, train)
        if hasattr(source, "check_copies"):
            source.check_copies(train, test)
    for listing, use in ((train, "train"), (test, "test")):
        empty = np.flatnonzero(listing.counts == 0)
        if len(empty):
            named = _named(listing.classes, empty, train.counts if use == "test" else None)
            raise BadInput(
                f"source: {named} {'has' if len(empty) == 1 else 'have'} no image in the {use} split "
                f"{listing.split!r}{'; ' + left_out if left_out else ''}; remove {'it' if len(empty) == 1 else 'them'} "
                "with source.classes=[...] or add images"
            )
    if len(train.classes) < 2:
        raise BadInput("source: one class cannot be told from anything; give at least two")
    return Splits(source, train, test, left_out)


def _listed(source: Source, split: str, config: SourceConfig) -> Listing:
    """The classes that are asked for; images of the hub are known by their commit, not by when they were fetched."""
    listing = source.list(split)
    if config.revision is not None:
        sizes = pc.list_element(pc.split_pattern(listing.tags, ":", max_splits=1), 0)
        listing = replace(listing, tags=pc.binary_join_element_wise(sizes, config.revision, ":"))
    return select_classes(listing, config.classes)


def _held_out(listing: Listing, fraction: float) -> np.ndarray:
    """By the hash of each id, so that it depends neither on order nor on the other images."""
    held = np.zeros(len(listing), bool)
    for start in range(0, len(held), BLOCK):
        names = listing.ids[start : start + BLOCK].to_pylist()
        held[start : start + BLOCK] = [int(digest(str(i).encode())[:8], 16) / 2**32 < fraction for i in names]
    return held


def _match(test: Listing, train: Listing) -> Listing:
    """Renumbers the test labels to the training classes, by class id, never by position."""
    ids = [c.class_id for c in train.classes]
    if [c.class_id for c in test.classes] == ids:
        return test
    have = {c.class_id for c in test.classes}
    missing = [i for i, c in enumerate(ids) if c not in have]
    if missing:
        shared = [c for c in ids if c in have]
        extra = _without(test, train)
        share = (
            f"{len(shared) or 'none'} of the {len(ids)} training classes {'is' if len(shared) == 1 else 'are'} in both"
        )
        lacks = f"source: {share} splits: {_only(train, missing, test.split)}"
        if len(shared) < 2:
            raise BadInput(
                f"{lacks}; {extra or f'{test.split!r} has no other class'}; name the classes of both splits alike, or "
                f"give {carved.REMEDY}"
            )
        picked = f"source.classes={json.dumps(shared, ensure_ascii=False) if len(shared) <= NAMED else '[...]'}"
        raise BadInput(
            f"{lacks}{'; ' + extra if extra else ''}; add its images or pick classes with {shlex.quote(picked)}"
        )
    return select_classes(test, ids)


def _without(test: Listing, train: Listing) -> str:
    """The classes of `test` that `train` lacks and that have images, in words; empty if there are none."""
    known = {c.class_id for c in train.classes}
    extra = [i for i, c in enumerate(test.classes) if c.class_id not in known and test.counts[i]]
    return _only(test, extra, train.split) if extra else ""


def _only(listing: Listing, classes: Sequence[int], other: str) -> str:
    verb = "is" if len(classes) == 1 else "are"
    return f"{_named(listing.classes, classes, listing.counts)} {verb} in split {listing.split!r} but not in {other!r}"


def _named(classes: Sequence[ClassInfo], some: Sequence[int] | np.ndarray, counts: np.ndarray | None) -> str:
    """Some of the classes in words, with their images if given: classes 'n01' (tench, 12 images), 'n02' and 3 more."""
    shown = []
    for i in some:
        name = "" if classes[i].class_name == classes[i].class_id else classes[i].class_name
        images = "" if counts is None else f"{counts[i]} image{'' if counts[i] == 1 else 's'}"
        about = ", ".join(filter(None, (name, images)))
        shown.append(f"{classes[i].class_id!r}{f' ({about})' if about else ''}")
    return f"class{'es' if len(some) > 1 else ''} {first_of(shown, NAMED)}"
