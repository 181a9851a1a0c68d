"""A set of syntheses as everything after sampling reads it: one or more sealed parts, none of them copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import pyarrow as pa

from raydistill import identity
from raydistill.methods.weighting import sample_size_a_class
from raydistill.stages.syntheses import numbers
from raydistill.stages.syntheses.numbers import Numbers
from raydistill.store import schemas
from raydistill.store.artifact import Artifact, Record
from raydistill.store.sealed import Sealed

WEIGHED = pa.schema([("class_index", pa.int64()), ("weight", pa.float64())])


@dataclass(frozen=True)
class Unit:
    """One file of a set: `key` is its own in the set, `start` the row at which it begins."""

    key: str
    artifact: Artifact
    record: Record
    start: int


@dataclass(frozen=True)
class DistilledSet:
    """`parts` are syntheses; of each class the slots of a part go on where those of the parts before it end.

    `weights`, one of each part, are what its images weigh (stage weigh) in the place of what stands in their rows.
    """

    parts: tuple[Sealed, ...]
    weights: tuple[Sealed | None, ...] = ()

    def weighing(self, weights: Sealed) -> DistilledSet:
        """The set of one part with these weights; the same set if its images have just these already."""
        (part,) = self.parts
        return self if weights.manifest.summary["as_before"] else DistilledSet((part,), (weights,))

    def followed_by(self, other: DistilledSet) -> DistilledSet:
        """Both, one after the other."""
        weights = [w for s in (self, other) for w in (s.weights or (None,) * len(s.parts))]
        return DistilledSet((*self.parts, *other.parts), tuple(weights) if any(weights) else ())

    def identity(self) -> str:
        """What it is to whatever is made of it (declared.py)."""
        return self.digest

    @property
    def digest(self) -> str:
        """Of images and weights. Of one part without weights it is that of its manifest."""
        weight_digests = [w.digest if w else None for w in self.weights]
        return _digest([self.images_digest, weight_digests]) if weight_digests else self.images_digest

    @property
    def images_digest(self) -> str:
        """Of the images alone."""
        digests = [p.digest for p in self.parts]
        return digests[0] if len(digests) == 1 else _digest(digests)

    @property
    def effective_sample_size(self) -> float | None:
        """(sum w)^2 / sum w^2, its mean over the classes; None of a set without weights."""
        if not self.weights:
            return None
        if len(self.weights) == 1 and self.weights[0] is not None:
            return self.weights[0].manifest.summary["effective_sample_size"]
        return self.sample_size()

    def sample_size(self) -> float:
        """The same of any set, by the weights of its rows."""
        columns = ["class_index", "weight"]
        table = pa.concat_tables(
            [
                (part if weights is None else weights).read(columns).cast(WEIGHED)
                for part, weights in zip_longest(self.parts, self.weights)
            ]
        )
        label, w = (table[name].to_numpy() for name in columns)
        return sample_size_a_class(w, label)

    @property
    def rows(self) -> int:
        return sum(p.rows for p in self.parts)

    def devices(self) -> set[str]:
        """The kinds of device that made the images."""
        return {r.device for p in self.parts for r in p.records}

    def numbers(self) -> Numbers:
        return Numbers.pooled([numbers.of(p) for p in self.parts])

    def units(self) -> list[Unit]:
        """Its files in the order of its rows."""
        units, start = [], 0
        for i, part in enumerate(self.parts):
            for record in part.records:
                key = record.key if len(self.parts) == 1 else f"part-{i:03d}-{record.key}"
                units.append(Unit(key, part.artifact, record, start))
                start += record.rows
        return units

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Its rows, a file at a time, with the slots that they have in the set."""
        first = np.zeros(0, np.int64)  # of each class, the first slot of this part
        for part, weights in zip_longest(self.parts, self.weights):
            after, weight_table = first, None if weights is None else weights.read()
            for record in part.records:
                wanted = None if columns is None else list(dict.fromkeys([*columns, *schemas.PLACE]))
                table = part.table(record.key, wanted)
                if weight_table is not None and "weight" in table.column_names:
                    table = _weighed(table, weight_table)
                if len(self.parts) > 1:
                    label = table["class_index"].to_numpy()
                    first, after = (_long(a, int(label.max()) + 1) for a in (first, after))
                    slot = table["slot"].to_numpy() + first[label]
                    np.maximum.at(after, label, slot + 1)
                    table = table.set_column(table.column_names.index("slot"), "slot", pa.array(slot, pa.int32()))
                yield table if columns is None else table.select(list(columns))
            first = after

    def unit(self, index: int, columns: Sequence[str]) -> pa.Table:
        """The rows of one file, by its number among `units`, with the weights that they have in the set."""
        for part, weights in zip_longest(self.parts, self.weights):
            if index < len(part.records):
                table = part.table(part.records[index].key, list(dict.fromkeys([*columns, *schemas.PLACE])))
                return (table if weights is None else _weighed(table, weights.read())).select(list(columns))
            index -= len(part.records)
        raise IndexError(index)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows."""
        return pa.concat_tables(list(self.tables(columns)))


def _weighed(table: pa.Table, weights: pa.Table) -> pa.Table:
    """The rows with the weights of their images."""
    keys, weight_keys = (
        t["class_index"].to_numpy().astype(np.int64) << 32 | t["slot"].to_numpy() for t in (table, weights)
    )
    order = np.argsort(weight_keys)
    rows = order[np.searchsorted(weight_keys, keys, sorter=order)]
    assert np.array_equal(weight_keys[rows], keys), "every image has a weight"
    return table.set_column(table.column_names.index("weight"), "weight", weights["weight"].take(pa.array(rows)))


def _digest(parts: list[Any]) -> str:
    return identity.digest(identity.canonical(parts).encode())


def _long(values: np.ndarray, count: int) -> np.ndarray:
    """The values with zeros after them, at least `count`; a copy."""
    return np.pad(values, (0, max(0, count - len(values))))
