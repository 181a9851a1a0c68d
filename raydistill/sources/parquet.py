"""Parquet in the Hugging Face image layout: columns image{bytes, path} and label, names in the schema's features."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from raydistill import strict_json
from raydistill.config import SourceConfig
from raydistill.errors import BadInput, StageFailed, one_line
from raydistill.identity import digest
from raydistill.registry import register
from raydistill.sources.base import ClassInfo, Listing
from raydistill.sources.layout import (
    CLASSES,
    ClassNames,
    class_names,
    in_range,
    no_split,
    numbered_classes,
    open_root,
    required_path,
)
from raydistill.store.location import Location

AHEAD = 1024  # ids looked at together, so that each row group is read once; their bytes are held meanwhile
SURELY_IMAGES = 2**20  # a column chunk of more bytes is not looked into: nulls take next to none
SHARD = re.compile(r"(?P<head>.*)-(?P<index>\d+)-of-(?P<total>\d+)(-[0-9a-f]+)?\.parquet")


@dataclass(frozen=True)
class Part:
    """One file of a split, its footer read and checked."""

    name: str  # relative to source.path
    labels: np.ndarray
    names: tuple[str, ...] | None
    tag: str


@register("source", "parquet")
class ParquetImages:
    """PATH/SPLIT-*.parquet, PATH/data/SPLIT-*.parquet or PATH/SPLIT/*.parquet; an image's id is FILE#ROW.

    Classes are the ClassLabel names of the schema, found by name in `classes.json` where that lies beside and gives the
    class ids. Files without ClassLabel names take the order of `classes.json`; without both, a class is its number.
    """

    def __init__(self, config: SourceConfig) -> None:
        self.path = required_path(config)

    def list(self, split: str) -> Listing:
        """Files by name, rows in order. Reads footers and label columns only."""
        root = open_root(self.path)
        fs, base = root.filesystem()
        parts = [_part(fs, base, info) for info in _files(root, split)]
        for part in parts:
            if part.names != parts[0].names:
                raise BadInput(
                    f"source: {root}: {part.name} and {parts[0].name} have different ClassLabel names; "
                    "write the files of a split with the same features"
                )
        labels = np.concatenate([p.labels for p in parts])
        classes, labels = _classes(root, parts, labels)
        ids = [f"{p.name}#{row}" for p in parts for row in range(len(p.labels))]
        tags = [p.tag for p in parts for _ in p.labels]
        return Listing(split, classes, pa.array(ids, pa.string()), labels, pa.array(tags, pa.string()))

    def read(self, split: str, ids: Sequence[str]) -> Iterator[bytes]:
        """Holds the bytes of at most AHEAD images and one row group, and reads no row group twice in a row."""
        fs, base = Location.of(self.path).filesystem()
        rows, left = _Rows(fs, base), iter(ids)
        while some := list(islice(left, AHEAD)):
            yield from rows.read(some)


# ---- finding the files -----------------------------------------------------------------------------------------------


def _files(root: Location, split: str) -> Sequence[pafs.FileInfo]:
    """The Parquet files of the split, by path, from the one place that holds them."""
    places = {
        pattern: files
        for pattern, files in (
            (f"{split}-*.parquet", [i for i in _parquet(root) if i.base_name.startswith(f"{split}-")]),
            (f"data/{split}-*.parquet", [i for i in _parquet(root / "data") if i.base_name.startswith(f"{split}-")]),
            (f"{split}/*.parquet", _parquet(root / split)),
        )
        if files
    }
    if not places:
        raise no_split(root, split, _splits(root))
    if len(places) > 1:
        raise BadInput(f"source: {root} holds the split {split!r} more than once ({' and '.join(places)}); keep one")
    files = sorted(*places.values(), key=lambda i: i.path)
    _check_complete(root, [i.base_name for i in files])
    return files


def _parquet(folder: Location) -> list[pafs.FileInfo]:
    return [
        i
        for i in folder.infos()
        if i.type == pafs.FileType.File and i.base_name.endswith(".parquet") and not i.base_name.startswith((".", "_"))
    ]


def _splits(root: Location) -> list[str]:
    """Names of the splits that are there, for the error."""
    flat = {i.base_name.partition("-")[0] for i in [*_parquet(root), *_parquet(root / "data")] if "-" in i.base_name}
    folders = {
        i.base_name
        for i in root.infos()
        if i.type == pafs.FileType.Directory and i.base_name != "data" and _parquet(root / i.base_name)
    }
    return sorted(flat | folders)


def _check_complete(root: Location, names: Sequence[str]) -> None:
    """`train-00002-of-00004.parquet` says that there are four: a download that stopped early is not a smaller set."""
    for match in filter(None, map(SHARD.fullmatch, names)):
        width, total = len(match["total"]), int(match["total"])
        for index in range(total):
            wanted = f"{match['head']}-{index:0{width}d}-of-{match['total']}"
            if not any(n.startswith(wanted) for n in names):
                raise BadInput(f"source: {root}: {wanted}.parquet is missing; fetch it, the set is not complete")


# ---- footers and labels ----------------------------------------------------------------------------------------------


def _part(fs: pafs.FileSystem, base: str, info: pafs.FileInfo) -> Part:
    name = info.path[len(base) :].strip("/")
    try:
        with fs.open_input_file(info.path) as raw, pq.ParquetFile(raw) as file:
            _check_columns(file.schema_arrow, f"{base}/{name}")
            _check_bytes(file, f"{base}/{name}")
            column = file.read(["label"])["label"]
            names = _label_names(file.schema_arrow, f"{base}/{name}")
            footer = _footer_digest(raw)
    except (pa.ArrowException, OSError) as e:
        raise BadInput(f"source: {base}/{name} is not a readable Parquet file: {one_line(e)}; fetch it again") from None
    return Part(name, _labels(column, f"{base}/{name}", names), names, f"{info.size}:{info.mtime_ns}:{footer}")


def _footer_digest(raw: pa.NativeFile) -> str:
    """Of the metadata at the end of the file: the place, size and statistics of every column chunk."""
    size = raw.size()
    length = int.from_bytes(raw.read_at(8, size - 8)[:4], "little")
    return digest(raw.read_at(length, size - 8 - length))[:16]


def _check_columns(schema: pa.Schema, where: str) -> None:
    columns = f"it has the columns {', '.join(schema.names) or 'none'}"
    for name in ("image", "label"):
        if name not in schema.names:
            raise BadInput(
                f"source: {where}: column {name!r} is missing; {columns}; rename the one that holds the {name}s"
            )
    image, label = schema.field("image").type, schema.field("label").type
    if not pa.types.is_struct(image) or image.get_field_index("bytes") < 0 or not _binary(image.field("bytes").type):
        raise BadInput(
            f"source: {where}: column 'image' is {one_line(image)}, not struct<bytes: binary, "
            "path: string>; store the encoded files as Hugging Face datasets does"
        )
    if not pa.types.is_integer(label):
        raise BadInput(f"source: {where}: column 'label' is {label}, not an integer; number the classes from 0")


def _binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _check_bytes(file: pq.ParquetFile, where: str) -> None:
    """Refuses a file whose first row group has paths but no bytes. (A hole among images is a broken image.)"""
    if not file.metadata.num_rows:
        return
    group = file.metadata.row_group(0)
    columns = (group.column(i) for i in range(group.num_columns))
    if sum(c.total_uncompressed_size for c in columns if c.path_in_schema == "image.bytes") > SURELY_IMAGES:
        return
    images = file.read_row_group(0, columns=["image.bytes"])["image"]
    if pc.struct_field(images, "bytes").null_count == len(images):
        raise BadInput(
            f"source: {where} holds paths to images, not their bytes; embed the files "
            "(push_to_hub of Hugging Face datasets does)"
        )


def _label_names(schema: pa.Schema, where: str) -> tuple[str, ...] | None:
    """The ClassLabel names that Hugging Face datasets writes into the schema, or None."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        label: Any = strict_json.mapping(text)["info"]["features"]["label"]
        names = label.get("names")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(
            f"source: {where}: the huggingface features in its schema cannot be read; "
            "write the file again with datasets, or without this metadata"
        ) from None
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len(set(names)) != len(names):
        raise BadInput(f"source: {where}: ClassLabel names must be a list of different texts; write the file again")
    return tuple(names)


def _labels(column: pa.ChunkedArray, where: str, names: Sequence[str] | None) -> np.ndarray:
    """int64 labels (N,), each of them a class."""
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise BadInput(f"source: {where}: row {row} has no label (null); label it or remove it")
    labels = column.to_numpy()
    top = len(names) if names is not None else 2**31
    wrong = np.flatnonzero((labels < 0) | (labels >= top))
    if len(wrong):
        label = labels[wrong[0]]
        what = "negative, which stands for no label" if label < 0 else f"outside the {top} classes of the schema"
        raise BadInput(f"source: {where}: row {wrong[0]} has the label {label}, {what}; label it or remove it")
    return labels.astype(np.int64)


def _classes(root: Location, parts: Sequence[Part], labels: np.ndarray) -> tuple[tuple[ClassInfo, ...], np.ndarray]:
    """The classes and the labels (N,) int32 that index them."""
    known, names = class_names(root), parts[0].names
    if names is None:
        return numbered_classes(root, labels)
    classes = _named(root, names, known)
    return classes, in_range(root, labels, len(classes))


def _named(root: Location, names: Sequence[str], known: ClassNames | None) -> tuple[ClassInfo, ...]:
    if known is None:
        return tuple(ClassInfo(n, n) for n in names)
    ids = known.ids_of(names)
    if ids is None:
        strange = next(n for n in names if n not in known.dirs and known.names.count(n) != 1)
        raise BadInput(
            f"source: {root}/{CLASSES} does not tell which class {strange!r} of the Parquet schema is "
            "(it is no dir, and not exactly one name, there); make them agree or remove the file"
        )
    if len(set(ids)) != len(ids):
        raise BadInput(f"source: two ClassLabel names are one class in {root}/{CLASSES}; make them agree")
    return tuple(ClassInfo(i, known.name_of[i]) for i in ids)


# ---- images ----------------------------------------------------------------------------------------------------------


class _Rows:
    """Reads images by id, keeping one file open and one row group."""

    def __init__(self, fs: pafs.FileSystem, base: str) -> None:
        self.fs, self.base = fs, base
        self.name, self.starts, self.group = "", [0], -1
        self.file: Any = None
        self.images: Any = None

    def read(self, ids: Sequence[str]) -> Iterator[bytes]:
        """The bytes of each image, in the order of `ids`; the row groups are read in the order of the files."""
        by_id: dict[str, bytes] = {}
        for name, row in sorted({_split_id(i) for i in ids}):
            by_id[f"{name}#{row}"] = self._image(name, row)
        return (by_id[i] for i in ids)

    def _image(self, name: str, row: int) -> bytes:
        try:
            self._open(name)
            group = bisect_right(self.starts, row) - 1
            if not 0 <= group < len(self.starts) - 1:
                raise IndexError(f"it has {self.starts[-1]} rows and no row {row}")
            if group != self.group:
                self.images = None  # before the next one is read: never two at a time
                table = self.file.read_row_group(group, columns=["image.bytes"])
                self.group, self.images = group, pc.struct_field(table["image"], "bytes")
            return self.images[row - self.starts[group]].as_py() or b""
        except (pa.ArrowException, OSError, IndexError) as e:
            raise StageFailed(
                f"source: {self.base}/{name} was listed but cannot be read: {one_line(e)}; put it back, "
                "or start again with the images as they are now"
            ) from None

    def _open(self, name: str) -> None:
        if name != self.name:
            if self.file is not None:
                self.file.close()
            self.name, self.file, self.group, self.images = "", None, -1, None
            self.file = pq.ParquetFile(f"{self.base}/{name}", filesystem=self.fs)
            meta = self.file.metadata
            sizes = [meta.row_group(g).num_rows for g in range(meta.num_row_groups)]
            self.name, self.starts = name, list(accumulate(sizes, initial=0))


def _split_id(image_id: str) -> tuple[str, int]:
    name, _, row = image_id.rpartition("#")
    return name, int(row)
