"""Parquet in the Hugging Face image layout, and Arrow as `save_to_disk` writes it: an image and a label a row."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from raydistill.config import SourceConfig
from raydistill.errors import BadInput, StageFailed, one_line
from raydistill.identity import digest
from raydistill.registry import register
from raydistill.sources import arrow
from raydistill.sources.base import Listing
from raydistill.sources.columns import (
    Columns,
    Labels,
    Requested,
    check_repeats,
    classes_of,
    columns_of,
    label_names,
    labels_of,
)
from raydistill.sources.layout import NAMES_OF_VAL, VAL, no_split, open_root, required_path, split_there
from raydistill.sources.leakage import check_read_copies
from raydistill.store.location import Location

AHEAD = 1024  # ids looked at together, so that each row group is read once; their bytes are held meanwhile
SURELY_IMAGES = 2**20  # a column chunk of more bytes is not looked into: nulls take next to none
SHARD = re.compile(r"(?P<head>.*)-(?P<index>\d+)-of-(?P<total>\d+)(-[0-9a-f]+)?\.(?P<kind>parquet|arrow)")
SPLIT_NAMES = {"train", VAL, *NAMES_OF_VAL}


@dataclass(frozen=True)
class Part:
    """One file of a split, its columns and labels read and checked."""

    name: str  # relative to source.path
    columns: Columns
    labels: Labels
    tag: str


@register("source", "parquet")
class ParquetImages:
    """PATH/SPLIT-*.parquet, PATH/data/SPLIT-*.parquet, PATH/SPLIT/*.parquet or PATH/SPLIT.parquet, all of them in PATH
    or in the one folder of it that holds splits; or PATH/SPLIT/ as `save_to_disk` writes it. An id is FILE#ROW.

    Classes are the ClassLabel names of the schema, or labels that are texts, found by name in `classes.json` where that
    lies beside and gives the class ids. Numbers without names take its order; without it a class is its number.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.path = required_path(config)
        self.requested = Requested(config.image_column, config.label_column)
        self.splits = (config.train, config.val)

    def list(self, split: str) -> Listing:
        """Files by name, rows in order. Reads footers and label columns only."""
        root = open_root(self.path)
        fs, base = root.filesystem()
        split, files = _files(root, self.splits, split)
        parts = [_part(fs, base, info, self.requested) for info in files]
        for part in parts:
            _check_alike(root, parts[0], part)
        classes, labels = classes_of(root, [p.labels for p in parts])
        check_repeats(labels, parts[0].columns, f"{base}/{parts[0].name}")
        ids = [f"{p.name}#{row}" for p in parts for row in range(len(p.labels.numbers))]
        tags = [p.tag for p in parts for _ in p.labels.numbers]
        return Listing(split, classes, pa.array(ids, pa.string()), labels, pa.array(tags, pa.string()))

    def check_copies(self, train: Listing, test: Listing) -> None:
        """Names, on a disk, validation images that are training images. Refuses many."""
        if open_root(self.path).is_local:
            check_read_copies(self, train, test)

    def read(self, split: str, ids: Sequence[str]) -> Iterator[bytes]:
        """Holds the bytes of at most AHEAD images and one row group, and reads no row group twice in a row."""
        fs, base = Location.of(self.path).filesystem()
        rows, left = _Rows(fs, base, self.requested), iter(ids)
        while some := list(islice(left, AHEAD)):
            yield from rows.read(some)


# ---- finding the files -----------------------------------------------------------------------------------------------


def _files(root: Location, splits: Sequence[str], split: str) -> tuple[str, Sequence[pafs.FileInfo]]:
    """The split by the name that it has there, and its files by path, from the one place that holds them."""
    folder = _home(root, splits)
    places = _places(folder, split)
    if not places:
        have = _splits(folder)
        split = split_there(split, have)
        places = _places(folder, split)
        if not places:
            raise _missing(folder, split, have)
    if len(places) > 1:
        raise BadInput(f"source: {folder} holds the split {split!r} more than once ({' and '.join(places)}); keep one")
    files = sorted(*places.values(), key=lambda i: i.path)
    _check_complete(folder, [i.base_name for i in files])
    return split, files


def _home(root: Location, splits: Sequence[str]) -> Location:
    """`root`, or the one folder of it that holds the splits (`plain_text/`, `default/`: a configuration)."""
    names = {*splits, *(NAMES_OF_VAL if VAL in splits else ())}
    if any(_places(root, n) for n in names):
        return root
    inside = [root / f for f in _folders(root) if any(_places(root / f, n) for n in names)]
    if len(inside) > 1:
        raise BadInput(
            f"source: {root} holds the splits in several folders ({', '.join(f.name for f in inside[:12])}); "
            f"choose one with source.path={inside[0]}"
        )
    return inside[0] if inside else root


def _places(folder: Location, split: str) -> dict[str, list[pafs.FileInfo]]:
    """Where files of the split lie, by pattern."""
    usual = {
        f"{split}-*.parquet": [i for i in _parquet(folder) if i.base_name.startswith(f"{split}-")],
        f"data/{split}-*.parquet": [i for i in _parquet(folder / "data") if i.base_name.startswith(f"{split}-")],
        f"{split}/*.parquet": _parquet(folder / split),
    }
    other = {
        f"{split}.parquet": [i for i in _parquet(folder) if i.base_name == f"{split}.parquet"],
        f"{split}/*.arrow": arrow.files(folder / split),
    }
    return {p: f for p, f in usual.items() if f} or {p: f for p, f in other.items() if f}


def _parquet(folder: Location) -> list[pafs.FileInfo]:
    return [
        i
        for i in folder.infos()
        if i.type == pafs.FileType.File and i.base_name.endswith(".parquet") and not i.base_name.startswith((".", "_"))
    ]


def _folders(root: Location) -> list[str]:
    return sorted(
        i.base_name for i in root.infos() if i.type == pafs.FileType.Directory and not i.base_name.startswith(".")
    )


def splits_there(root: Location) -> list[str]:
    """Names of the splits in `source.path`, or in the one folder of it that holds them."""
    return _splits(_home(root, (*SPLIT_NAMES,)))


def _splits(root: Location) -> list[str]:
    """Names of the splits that are there."""
    names = [i.base_name.removesuffix(".parquet") for i in _parquet(root)]
    flat = {n.partition("-")[0] for n in names} | {
        i.base_name.partition("-")[0] for i in _parquet(root / "data") if "-" in i.base_name
    }
    folders = {f for f in _folders(root) if f != "data" and (_parquet(root / f) or arrow.files(root / f))}
    return sorted(flat | folders)


def _missing(root: Location, split: str, have: Sequence[str]) -> BadInput:
    """The error for a split that is not there, where the folder holds something that can be used otherwise."""
    if arrow.files(root):
        path, name = str(root).rpartition("/")[::2]
        return BadInput(
            f"source: {root} is a single split as save_to_disk writes it, not the folder that holds the splits; give "
            f"source.path={path} source.train={name} source.val=split:0.2, or source.val=NAME for one beside it"
        )
    for folder in _folders(root):
        inside = sorted(SPLIT_NAMES & set(_splits(root / folder)))
        if "train" in inside and len(inside) > 1:
            return BadInput(
                f"source: {root} has no split {split!r} (it has {', '.join(have)}), and {folder} holds the splits "
                f"{' and '.join(inside)}; give source.path={root / folder} source.train=train"
            )
    return no_split(root, split, have)


def _check_complete(root: Location, names: Sequence[str]) -> None:
    """`train-00002-of-00004.parquet` says that there are four: a download that stopped early is not a smaller set."""
    for match in filter(None, map(SHARD.fullmatch, names)):
        width, total = len(match["total"]), int(match["total"])
        for index in range(total):
            wanted = f"{match['head']}-{index:0{width}d}-of-{match['total']}"
            if not any(n.startswith(wanted) for n in names):
                raise BadInput(
                    f"source: {root}: {wanted}.{match['kind']} is missing; fetch it, the set is not complete"
                )


# ---- footers and labels ----------------------------------------------------------------------------------------------


def _part(fs: pafs.FileSystem, base: str, info: pafs.FileInfo, requested: Requested) -> Part:
    name = info.path[len(base) :].strip("/")
    where, tag = f"{base}/{name}", f"{info.size}:{info.mtime_ns}"
    if name.endswith(arrow.SUFFIX):
        columns, labels = arrow.labelled(info.path, requested, where)
        return Part(name, columns, labels, f"{tag}{columns.tag}")
    try:
        with fs.open_input_file(info.path) as raw, pq.ParquetFile(raw) as file:
            columns = columns_of(file.schema_arrow, requested, where)
            _check_bytes(file, columns, where)
            column = file.read([columns.label])[columns.label]
            names = label_names(file.schema_arrow, columns.label, where)
            footer = _footer_digest(raw)
    except (pa.ArrowException, OSError) as e:
        raise BadInput(f"source: {where} is not a readable Parquet file: {one_line(e)}; fetch it again") from None
    return Part(name, columns, labels_of(column, names, where), f"{tag}:{footer}{columns.tag}")


def _footer_digest(raw: pa.NativeFile) -> str:
    """Of the metadata at the end of the file: the place, size and statistics of every column chunk."""
    size = raw.size()
    length = int.from_bytes(raw.read_at(8, size - 8)[:4], "little")
    return digest(raw.read_at(length, size - 8 - length))[:16]


def _check_bytes(file: pq.ParquetFile, columns: Columns, where: str) -> None:
    """Refuses a file whose first row group has paths but no bytes. (A hole among images is a broken image.)"""
    if not file.metadata.num_rows:
        return
    group = file.metadata.row_group(0)
    chunks = (group.column(i) for i in range(group.num_columns))
    if sum(c.total_uncompressed_size for c in chunks if c.path_in_schema == columns.leaf) > SURELY_IMAGES:
        return
    images = columns.bytes_of(file.read_row_group(0, columns=[columns.leaf])[columns.image])
    if images.null_count == len(images):
        raise BadInput(
            f"source: {where} holds paths to images, not their bytes; embed the files "
            "(push_to_hub of Hugging Face datasets does)"
        )


def _check_alike(root: Location, first: Part, part: Part) -> None:
    """Files of a split mean the same by their labels."""
    if part.columns != first.columns or part.labels.text != first.labels.text:
        raise BadInput(
            f"source: {root}: {part.name} and {first.name} hold images or labels in different columns; "
            "write the files of a split alike"
        )
    if part.labels.names != first.labels.names and not part.labels.text:
        raise BadInput(
            f"source: {root}: {part.name} and {first.name} have different ClassLabel names; "
            "write the files of a split with the same features"
        )


# ---- images ----------------------------------------------------------------------------------------------------------


class _Rows:
    """Reads images by id, keeping one file open."""

    def __init__(self, fs: pafs.FileSystem, base: str, requested: Requested) -> None:
        self.fs, self.base, self.requested = fs, base, requested
        self.name = ""
        self.file: _ParquetFile | arrow.ArrowFile | None = None

    def read(self, ids: Sequence[str]) -> Iterator[bytes]:
        """The bytes of each image, in the order of `ids`; the row groups are read in the order of the files."""
        by_id: dict[str, bytes] = {}
        for name, row in sorted({_split_id(i) for i in ids}):
            by_id[f"{name}#{row}"] = self._image(name, row)
        return (by_id[i] for i in ids)

    def _image(self, name: str, row: int) -> bytes:
        try:
            return self._open(name).image(row)
        except (pa.ArrowException, OSError, IndexError, BadInput) as e:
            raise StageFailed(
                f"source: {self.base}/{name} was listed but cannot be read: {one_line(e)}; put it back, "
                "or start again with the images as they are now"
            ) from None

    def _open(self, name: str) -> _ParquetFile | arrow.ArrowFile:
        if name != self.name or self.file is None:
            if self.file is not None:
                self.file.close()
            self.name, self.file = "", None
            path = f"{self.base}/{name}"
            if name.endswith(arrow.SUFFIX):
                self.file = arrow.ArrowFile(path, self.requested)
            else:
                self.file = _ParquetFile(self.fs, path, self.requested)
            self.name = name
        return self.file


class _ParquetFile:
    """Images of one file by row, one row group held."""

    def __init__(self, fs: pafs.FileSystem, path: str, requested: Requested) -> None:
        self.file = pq.ParquetFile(path, filesystem=fs)
        self.columns = columns_of(self.file.schema_arrow, requested, path)
        meta = self.file.metadata
        sizes = [meta.row_group(g).num_rows for g in range(meta.num_row_groups)]
        self.starts = list(accumulate(sizes, initial=0))
        self.group = -1
        self.images: pa.ChunkedArray | None = None

    def image(self, row: int) -> bytes:
        """The bytes at a row, empty where there are none. Raises IndexError if there is no such row."""
        group = bisect_right(self.starts, row) - 1
        if not 0 <= group < len(self.starts) - 1:
            raise IndexError(f"it has {self.starts[-1]} rows and no row {row}")
        if group != self.group or self.images is None:
            self.images = None  # before the next one is read: never two at a time
            table = self.file.read_row_group(group, columns=[self.columns.leaf])
            self.group, self.images = group, self.columns.bytes_of(table[self.columns.image])
        return self.images[row - self.starts[group]].as_py() or b""

    def close(self) -> None:
        self.file.close()


def _split_id(image_id: str) -> tuple[str, int]:
    name, _, row = image_id.rpartition("#")
    return name, int(row)
