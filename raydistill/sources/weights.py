"""Weights that travel with images: a column of Parquet, a field of KEY.json, a table in a folder, a tensor."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydistill import strict_json
from raydistill.config import SourceConfig
from raydistill.errors import BadInput, one_line
from raydistill.sources import tensors
from raydistill.sources.base import Listing
from raydistill.sources.tar import ReadWindow, TarFault, members
from raydistill.store.location import Location

TABLES = ("metadata.jsonl", "metadata.csv", "weights.csv")  # with the columns file_name and weight
AHEAD = 2**13
LARGEST = float(np.finfo(np.float32).max)  # losses are multiplied in float32
WHERE = {
    "imagefolder": "images under train/ are read from a table in train/ itself",
    "parquet": "Parquet shards are read from their column weight",
    "webdataset": 'shards are read from "weight" in their KEY.json',
    "tensors": "tensors are read from weights*.pt, or from weights in the .npz",
}


def read_weights(source: SourceConfig, listing: Listing) -> np.ndarray | None:
    """The weight of each image of a listing, (N,) float64 within float32; None if the images have none.

    Raises BadInput for an image without one among others with, for one that is not a number of at least 0 that float32
    can hold, and for a class whose weights are all 0.
    """
    root = Location.of(source.path or "")
    readers = {"imagefolder": _of_folder, "parquet": _of_parquet, "webdataset": _of_tars, "tensors": _of_tensors}
    reader = readers[source.kind]
    ids = listing.ids.to_pylist()
    values = reader(root, listing.split, ids)
    if values is None:
        return None
    for name in ids:
        if name not in values:
            raise BadInput(f"the image {name} has no weight, and others have; give it one or none to all")
        value = values[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST:
            raise BadInput(f"the weight of {name} is {value!r}; weights are numbers from 0 to {LARGEST:.3g}")
    weights = np.array([values[name] for name in ids], np.float64)
    sums = np.bincount(listing.labels, weights, minlength=len(listing.classes))
    empty = np.flatnonzero((sums == 0) & (listing.counts > 0))
    if len(empty):
        which = "all weights" if not weights.any() else f"all weights of class {listing.classes[empty[0]].class_id!r}"
        raise BadInput(f"{which} are 0, and nothing can be learned from that; leave them out or mend them")
    return weights


def refuse_unread(folder: Location, source: SourceConfig, listing: Listing) -> None:
    """Raises BadInput for a table of weights in a folder or its train/ that `read_weights` does not look at."""
    read = (Location.of(source.path or "") / listing.split).uri if source.kind == "imagefolder" else None
    for parent in (p for p in (folder, folder / "train") if p.uri != read):
        for location in (parent / name for name in TABLES):
            if _weighs(location):
                raise BadInput(f"{location} has weights, and those of {WHERE[source.kind]}; put them there")


def _weighs(location: Location) -> bool:
    """Whether there is a table with weights; what cannot be read is none."""
    try:
        return location.size() is not None and any("weight" in row for row in _rows(location))
    except BadInput:
        return False


def _of_folder(root: Location, split: str, ids: list[str]) -> dict[str, Any] | None:
    locations = [p for p in (root / split / name for name in TABLES) if p.size() is not None]
    read = [(location, list(_rows(location))) for location in locations]
    for location, rows in read:
        if location.uri.endswith("/weights.csv") and not any("weight" in row for row in rows):
            lacks = f"no column weight but {one_line(', '.join(map(str, rows[0])))[:80]}" if rows else "no rows"
            raise BadInput(f"{location} has {lacks}; give it the columns file_name,weight and a row an image")
    tables = [(location, rows) for location, rows in read if any("weight" in row for row in rows)]
    if len(tables) > 1:
        raise BadInput(f"{tables[0][0]} and {tables[1][0]} both give weights; keep one")
    if not tables:
        return None
    location, rows = tables[0]
    weights: dict[str, Any] = {}
    for row in rows:
        name = row.get("file_name")
        if not isinstance(name, str) or "weight" not in row:
            raise BadInput(f"{location}: a row lacks file_name or weight ({one_line(row)[:80]}); complete it")
        if name in weights:
            raise BadInput(f"{location} names {name} twice; keep one row")
        weights[name] = row["weight"]
    unknown = min(weights.keys() - set(ids), default=None)
    if unknown is not None:
        raise BadInput(f"{location} has weights of {len(weights)} images, and of {unknown} there is none; make it fit")
    return weights


def _rows(location: Location) -> Iterator[dict[str, Any]]:
    try:
        text = location.read().decode("utf-8-sig")
        if location.uri.endswith(".csv"):
            for row in csv.DictReader(io.StringIO(text), skipinitialspace=True):
                yield {**row, **({"weight": _number(row["weight"])} if "weight" in row else {})}
            return
        for line in filter(str.strip, text.split("\n")):
            row = strict_json.parse(line.encode(), finite=False)
            if not isinstance(row, dict):
                raise ValueError(f"a line is {line[:40]!r}, no object")
            yield row
    except (OSError, ValueError, csv.Error) as e:
        raise BadInput(f"{location} cannot be read: {one_line(e)}; mend it or remove it") from None


def _number(text: str | None) -> Any:
    try:
        return float(text or "")
    except ValueError:
        return text


def _of_tensors(root: Location, split: str, ids: list[str]) -> dict[str, Any] | None:
    values = tensors.beside(root, "weights")
    if values is None:
        return None
    if values.shape != (len(ids),):
        raise BadInput(f"{root} has weights {values.shape} of {len(ids)} images; give one each, or take them away")
    return dict(zip(ids, values.tolist(), strict=True))


def _of_parquet(root: Location, split: str, ids: list[str]) -> dict[str, Any] | None:
    fs, base = root.filesystem()
    weights: dict[str, Any] = {}
    for name in dict.fromkeys(i.rpartition("#")[0] for i in ids):
        if "weight" not in pq.read_schema(f"{base}/{name}", filesystem=fs).names:
            continue
        column = pq.read_table(f"{base}/{name}", columns=["weight"], filesystem=fs)["weight"]
        if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
            raise BadInput(f"{root / name}: column 'weight' is {column.type}, not a number")
        weights |= {f"{name}#{row}": value for row, value in enumerate(column.to_pylist())}
    return weights or None


def _of_tars(root: Location, split: str, ids: list[str]) -> dict[str, Any] | None:
    fs, base = root.filesystem()
    weights: dict[str, Any] = {}
    of_key = {i.rpartition("@")[0]: i for i in ids}
    for name in dict.fromkeys(i.partition("#")[0] for i in ids):
        with fs.open_input_file(f"{base}/{name}") as file:
            archive = ReadWindow(file, file.size(), AHEAD)
            try:
                for member in members(archive):
                    image = of_key.get(f"{name}#{member.name[:-5]}") if member.name.endswith(".json") else None
                    record = strict_json.parse(archive.read(member.data, member.size), finite=False) if image else None
                    if image and isinstance(record, dict) and "weight" in record:
                        weights[image] = record["weight"]
            except (TarFault, ValueError) as e:
                raise BadInput(f"{root / name} cannot be read: {one_line(e)}; pack it again") from None
    return weights or None
