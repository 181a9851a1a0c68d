"""A set of syntheses as everything after sampling reads it: one or more sealed parts, none of them copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raydistill import identity
from raydistill.stages.syntheses import numbers
from raydistill.stages.syntheses.numbers import Numbers
from raydistill.store.artifact import Artifact, Record
from raydistill.store.sealed import Sealed

PLACE = ("class_index", "slot")


@dataclass(frozen=True)
class Unit:
    """One file of a set: `key` is its own in the set, `start` the row at which it begins."""

    key: str
    artifact: Artifact
    record: Record
    start: int


@dataclass(frozen=True)
class DistilledSet:
    """`parts` are syntheses; of each class the slots of a part go on where those of the parts before it end."""

    parts: tuple[Sealed, ...]

    def identity(self) -> str:
        """What it is to whatever is made of it (declared.py)."""
        return self.digest

    @property
    def digest(self) -> str:
        """Of one part that of its manifest."""
        digests = [p.digest for p in self.parts]
        return digests[0] if len(digests) == 1 else identity.digest(identity.canonical(digests).encode())

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
        made, start = [], 0
        for i, part in enumerate(self.parts):
            for record in part.records:
                key = record.key if len(self.parts) == 1 else f"part-{i:03d}-{record.key}"
                made.append(Unit(key, part.artifact, record, start))
                start += record.rows
        return made

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Its rows, a file at a time, with the slots that they have in the set."""
        first = np.zeros(0, np.int64)  # of each class, the first slot of this part
        for part in self.parts:
            after = first
            for record in part.records:
                table = part.table(record.key, None if columns is None else list(dict.fromkeys([*columns, *PLACE])))
                if len(self.parts) > 1:
                    label = table["class_index"].to_numpy()
                    first, after = (_long(a, int(label.max()) + 1) for a in (first, after))
                    slot = table["slot"].to_numpy() + first[label]
                    np.maximum.at(after, label, slot + 1)
                    table = table.set_column(table.column_names.index("slot"), "slot", pa.array(slot, pa.int32()))
                yield table if columns is None else table.select(list(columns))
            first = after

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows."""
        return pa.concat_tables(list(self.tables(columns)))


def _long(values: np.ndarray, count: int) -> np.ndarray:
    """The values with zeros after them, at least `count`; a copy."""
    return np.pad(values, (0, max(0, count - len(values))))
