"""WebDataset: tar shards in which the files of one sample share a name, KEY.jpg beside KEY.cls or KEY.json."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs as pafs

from raydistill import strict_json
from raydistill.config import SourceConfig
from raydistill.errors import BadInput, StageFailed, one_line
from raydistill.registry import register
from raydistill.sources.base import Listing
from raydistill.sources.layout import no_split, numbered_classes, open_root, required_path
from raydistill.sources.tar import Member, ReadWindow, TarFault, member_at, members
from raydistill.store.location import Location, infos, reason

IMAGES = ("jpg", "jpeg", "png", "webp")
MAX_LABEL = 2**20  # bytes of a .cls or .json
TOP = 2**31  # labels are below
SHARDS = 100_000  # of one brace pattern
READERS, READERS_REMOTE = 4, 16  # shards listed at a time, each of them as Python objects until it is done
AHEAD, AHEAD_REMOTE = 2**13, 2**20  # bytes a request: a few headers from a disk; from an object store, several images
BRACES = re.compile(r"(?P<head>.*)\{(?P<first>\d+)\.\.(?P<last>\d+)\}(?P<tail>.*)")
NUMBERED = re.compile(r"(?P<head>.*?)(?P<index>\d+)\.tar")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.zstd")


@dataclass
class Sample:
    """The files of one key that matter here: where its images are, and the content of its labels by suffix."""

    key: str
    images: list[Member] = field(default_factory=list)
    labels: dict[str, bytes] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Shard:
    """What one shard holds: ids, labels (N,) int64 and the tag that its images share."""

    ids: pa.Array
    labels: np.ndarray
    tag: str


@register("source", "webdataset")
class WebDataset:
    """PATH/SPLIT-*.tar, PATH/SPLIT/*.tar, or a split named with braces: source.train=train-{00000..00009}.

    A sample is the files that share a path up to the first dot of their name (WebDataset's rule): one image, and its
    class as a number, the text of KEY.cls or the "label" of KEY.json. An image's id is SHARD#KEY@BYTE, the byte at
    which its header lies, so that any image is read from anywhere without looking for it. `classes.json` in PATH gives
    the classes by position; without it a class is its number.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.path = required_path(config)

    def list(self, split: str) -> Listing:
        """Shards by name (or as the braces count), samples in order. Reads headers and labels only."""
        root = open_root(self.path)
        infos = _shards(root, split)
        fs, base = root.filesystem()
        with ThreadPoolExecutor(READERS if root.is_local else READERS_REMOTE) as pool:
            shards = list(pool.map(lambda info: _shard(fs, base, info, _ahead(root)), infos))
        classes, labels = numbered_classes(root, np.concatenate([s.labels for s in shards]))
        if not len(labels):
            raise BadInput(
                f"source: the shards of split {split!r} in {root} hold no image ({', '.join(IMAGES)}); "
                "give shards of images"
            )
        tags = [pa.repeat(pa.scalar(s.tag, pa.string()), len(s.ids)) for s in shards]
        return Listing(split, classes, pa.concat_arrays([s.ids for s in shards]), labels, pa.concat_arrays(tags))

    def read(self, split: str, ids: Sequence[str]) -> Iterator[bytes]:
        """Keeps one shard open at a time and holds one image, or what one request brought."""
        root = Location.of(self.path)
        fs, base = root.filesystem()
        for name, wanted in groupby(map(_split_id, ids), key=lambda parts: parts[0]):
            try:
                with fs.open_input_file(f"{base}/{name}") as file:
                    archive = ReadWindow(file, file.size(), _ahead(root))
                    for _, key, start in wanted:
                        yield _image(archive, key, start)
            except (pa.ArrowException, OSError, TarFault) as e:
                raise StageFailed(
                    f"source: {base}/{name} was listed but cannot be read: {_said(e)}; put it back, "
                    "or start again with the images as they are now"
                ) from None


def _ahead(root: Location) -> int:
    return AHEAD if root.is_local else AHEAD_REMOTE


def _said(e: Exception) -> str:
    """What is wrong, without the advice that a fault gives for listing."""
    if isinstance(e, TarFault):
        return str(e).rpartition("; ")[0]
    return reason(e) if isinstance(e, OSError) else one_line(e)


def _split_id(image_id: str) -> tuple[str, str, int]:
    rest, _, start = image_id.rpartition("@")
    name, _, key = rest.partition("#")
    return name, key, int(start)


def _image(archive: ReadWindow, key: str, start: int) -> bytes:
    member = member_at(archive, start)
    if _parts(member.name)[0] != key:
        raise TarFault(f"{member.name!r} lies where {key!r} was; fetch it again")
    return archive.read(member.data, member.size)


# ---- finding the shards ----------------------------------------------------------------------------------------------


def _shards(root: Location, split: str) -> Sequence[pafs.FileInfo]:
    """The shards of the split from the one place that holds them."""
    flat = _tars(root)
    if "{" in split:
        return [_named(root, flat, name) for name in _expand(split)]
    places = {
        pattern: shards
        for pattern, shards in (
            (f"{split}-*.tar", {n: i for n, i in flat.items() if n.startswith(f"{split}-")}),
            (f"{split}/*.tar", {f"{split}/{n}": i for n, i in _tars(root, split).items()}),
        )
        if shards
    }
    if not places:
        raise no_split(root, split, _splits(root, flat))
    if len(places) > 1:
        raise BadInput(f"source: {root} holds the split {split!r} more than once ({' and '.join(places)}); keep one")
    [shards] = places.values()
    _check_complete(root, sorted(shards))
    return [shards[name] for name in sorted(shards)]


def _files(root: Location, folder: str = "") -> dict[str, pafs.FileInfo]:
    """The files directly in the folder by name, hidden ones left out."""
    fs, base = root.filesystem()
    entries = infos(fs, f"{base}/{folder}".rstrip("/"))
    return {i.base_name: i for i in entries if i.type == pafs.FileType.File and not i.base_name.startswith((".", "_"))}


def _tars(root: Location, folder: str = "") -> dict[str, pafs.FileInfo]:
    """Shards directly in the folder by name. Compressed ones are refused: they cannot be read at random, or bounded."""
    files = _files(root, folder)
    for name in sorted(files):
        if name.endswith(COMPRESSED):
            raise BadInput(
                f"source: {root}/{folder + '/' if folder else ''}{name} is compressed and cannot be read at "
                "random; make it a plain .tar (images are compressed already) and remove it"
            )
    return {n: i for n, i in files.items() if n.endswith(".tar")}


def _named(root: Location, flat: dict[str, pafs.FileInfo], name: str) -> pafs.FileInfo:
    folder, _, base = name.rpartition("/")
    shard = (_tars(root, folder) if folder else flat).get(base)
    if shard is None:
        raise BadInput(f"source: {root} has no shard {name}; fetch it or correct the braces of the split's name")
    return shard


def _expand(split: str) -> Sequence[str]:
    """`train-{00000..00009}` to the names of its shards, zeros kept."""
    match = BRACES.fullmatch(split)
    if match is None or "{" in match["head"] or ".." in match["head"].split("/"):
        raise BadInput(f"source: the split {split!r} is no brace pattern; write one such as train-{{00000..00009}}")
    first, last, tail = int(match["first"]), int(match["last"]), match["tail"].removesuffix(".tar")
    if not first <= last < first + SHARDS:
        raise BadInput(
            f"source: the split {split!r} counts from {first} to {last}; it must count upwards, and to "
            f"{SHARDS} shards at most"
        )
    return [f"{match['head']}{i:0{len(match['first'])}d}{tail}.tar" for i in range(first, last + 1)]


def _splits(root: Location, flat: dict[str, pafs.FileInfo]) -> list[str]:
    """Names of the splits that are there, for the error."""
    folders = (i.base_name for i in root.infos() if i.type == pafs.FileType.Directory)
    holding = {f for f in folders if any(n.endswith(".tar") for n in _files(root, f))}
    return sorted({n.rpartition("-")[0] for n in flat if "-" in n} | holding)


def _check_complete(root: Location, names: Sequence[str]) -> None:
    """Shards that are numbered alike leave no number out: a download with a hole is not a smaller set."""
    numbers = [m for m in map(NUMBERED.fullmatch, names) if m]
    if len(numbers) != len(names) or len({(m["head"], len(m["index"])) for m in numbers}) != 1:
        return
    have = {int(m["index"]) for m in numbers}
    for index in range(min(have), max(have)):
        if index not in have:
            missing = f"{numbers[0]['head']}{index:0{len(numbers[0]['index'])}d}.tar"
            raise BadInput(
                f"source: {root}: {missing} is missing between its neighbours; fetch it, or name the shards "
                "to use with braces, as in source.train=train-{00000..00009}"
            )


# ---- what is in a shard ----------------------------------------------------------------------------------------------


def _shard(fs: pafs.FileSystem, base: str, info: pafs.FileInfo, ahead: int) -> Shard:
    name = info.path[len(base) :].strip("/")
    if "#" in name:
        raise BadInput(f"source: {base}/{name}: the name of a shard may not hold #; rename it")
    ids, labels, seen = [], [], set()
    try:
        with fs.open_input_file(info.path) as file:
            archive = ReadWindow(file, file.size(), ahead)
            for sample in _samples(archive):
                if sample.key in seen:
                    raise TarFault(f"the key {sample.key!r} is there twice, apart; keep the files of a sample together")
                seen.add(sample.key)
                ids.append(f"{name}#{sample.key}@{_one_image(sample).start}")
                labels.append(_label(sample))
    except TarFault as e:
        raise BadInput(f"source: {base}/{name}: {e}") from None
    except (pa.ArrowException, OSError) as e:
        raise BadInput(f"source: {base}/{name} cannot be read: {_said(e)}; check its permissions") from None
    return Shard(pa.array(ids, pa.string()), np.array(labels, np.int64), f"{info.size}:{info.mtime_ns}")


def _samples(archive: ReadWindow) -> Iterator[Sample]:
    """Neighbours of one key. Files without a suffix and hidden ones belong to no sample."""
    current: Sample | None = None
    for member in members(archive):
        key, suffix = _parts(member.name)
        if not key:
            continue
        if current is None or key != current.key:
            if current is not None:
                yield current
            current = Sample(key)
        _put(archive, current, suffix, member)
    if current is not None:
        yield current


def _parts(name: str) -> tuple[str, str]:
    """`a/b.c.JPG` to the key `a/b` and the suffix `c.jpg`; an empty key for a file that belongs to no sample."""
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    return (folder + slash + stem, suffix.lower()) if stem and dot else ("", "")


def _put(archive: ReadWindow, sample: Sample, suffix: str, member: Member) -> None:
    if suffix in IMAGES:
        sample.images.append(member)
    elif suffix not in ("cls", "json"):
        sample.others.append(member.name)
    elif suffix in sample.labels:
        raise TarFault(f"{member.name!r} is there twice; keep one")
    elif member.size > MAX_LABEL:
        raise TarFault(f"{member.name!r} has {member.size} bytes, more than the {MAX_LABEL} of a label; leave it out")
    else:
        sample.labels[suffix] = archive.read(member.data, member.size)


def _one_image(sample: Sample) -> Member:
    if len(sample.images) == 1:
        return sample.images[0]
    if sample.images:
        raise TarFault(
            f"the key {sample.key!r} has {len(sample.images)} images ({sample.images[0].name} and "
            f"{sample.images[1].name}); keep one"
        )
    dotted = next((n for n in sample.others if n.lower().endswith(IMAGES)), None)
    why = f" ({dotted} is none: a key ends at the first dot of a name)" if dotted else ""
    raise TarFault(f"the key {sample.key!r} has no image ({', '.join(IMAGES)}){why}; add it or leave the sample out")


def _label(sample: Sample) -> int:
    """The class of a sample: its .cls, otherwise the "label" of its .json."""
    if "cls" in sample.labels:
        file, value = f"{sample.key}.cls", _whole(sample.labels["cls"])
    elif "json" in sample.labels:
        file, value = f"the label of {sample.key}.json", _json_label(sample.labels["json"])
    else:
        raise TarFault(f"the key {sample.key!r} has no label (.cls, or .json with a label); label it or leave it out")
    if value is None:
        raise TarFault(f"{file} is not a whole number; number the classes from 0")
    if not 0 <= value < TOP:
        what = "negative, which stands for no label" if value < 0 else "too large for a class"
        raise TarFault(f"{file} is {value}, {what}; label the image or leave it out")
    return value


def _whole(text: bytes) -> int | None:
    return int(text) if re.fullmatch(rb"\s*-?[0-9]{1,18}\s*", text) else None


def _json_label(text: bytes) -> int | None:
    try:
        tree: Any = strict_json.parse(text, finite=False)
    except ValueError:
        return None
    value = tree.get("label") if isinstance(tree, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
