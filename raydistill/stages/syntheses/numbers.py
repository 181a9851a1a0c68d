"""What is counted of syntheses: network calls, how far they landed from their prototypes, what guidance did.

Counted once, when their stage is sealed, and kept in its manifest. Manifests of older versions hold no numbers: then
the rows are read for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raydistill.store.artifact import Artifact, Record
from raydistill.store.sealed import Sealed

COLUMNS = ("nfe", "landing", "trace")


@dataclass(frozen=True)
class MeanStd:
    """Mean and standard deviation (of the whole, not of a sample) of `count` values; NaN where they are not finite."""

    count: int
    mean: float
    std: float

    @classmethod
    def of(cls, values: np.ndarray) -> MeanStd:
        return cls(len(values), float(values.mean()), float(values.std()))

    @classmethod
    def pooled(cls, several: Sequence[MeanStd]) -> MeanStd:
        """Of the values of all; of one it is that one, to the bit."""
        if len(several) == 1:
            return several[0]
        count = sum(s.count for s in several)
        mean = sum(s.count * s.mean for s in several) / count
        square = sum(s.count * (s.std**2 + (s.mean - mean) ** 2) for s in several) / count
        return cls(count, mean, math.sqrt(square))

    def tree(self) -> list[Any]:
        return [self.count, *(v if math.isfinite(v) else None for v in (self.mean, self.std))]

    @classmethod
    def of_tree(cls, tree: Sequence[Any]) -> MeanStd:
        return cls(tree[0], *(math.nan if v is None else v for v in tree[1:]))


@dataclass(frozen=True)
class Numbers:
    """Over the slots: `nfe`, `landing` of those that have a prototype, and the trace's values by name and step.

    Names come in the order in which they were traced, each with its steps in ascending order.
    """

    nfe: MeanStd
    landing: MeanStd | None
    trace: dict[tuple[str, int], MeanStd]

    @property
    def path_ratio(self) -> MeanStd | None:
        """Of flows, the length of the whole way over the straight line from its start."""
        return self.trace.get(("detour", 0))

    def curves(self) -> dict[str, list[tuple[int, MeanStd]]]:
        """The trace by name."""
        curves: dict[str, list[tuple[int, MeanStd]]] = {}
        for (name, step), values in self.trace.items():
            curves.setdefault(name, []).append((step, values))
        return curves

    @classmethod
    def pooled(cls, parts: Sequence[Numbers]) -> Numbers:
        """Of all the slots of several parts."""
        landed = [p.landing for p in parts if p.landing is not None]
        names = dict.fromkeys(name for p in parts for name, _ in p.trace)
        keys = [k for n in names for k in sorted({k for p in parts for k in p.trace if k[0] == n})]
        return cls(
            MeanStd.pooled([p.nfe for p in parts]),
            MeanStd.pooled(landed) if landed else None,
            {k: MeanStd.pooled([p.trace[k] for p in parts if k in p.trace]) for k in keys},
        )

    def tree(self) -> dict[str, Any]:
        trace = [[name, step, *values.tree()] for (name, step), values in self.trace.items()]
        return {"nfe": self.nfe.tree(), "landing": self.landing and self.landing.tree(), "trace": trace}

    @classmethod
    def of_tree(cls, tree: dict[str, Any]) -> Numbers:
        landing = tree["landing"]
        trace = {(name, step): MeanStd.of_tree(rest) for name, step, *rest in tree["trace"]}
        return cls(MeanStd.of_tree(tree["nfe"]), landing and MeanStd.of_tree(landing), trace)


def counted(table: pa.Table) -> Numbers:
    """Of the rows, of which COLUMNS are read."""
    landed = table["landing"].drop_null().to_numpy()
    entries = pa.concat_arrays([chunk.flatten() for chunk in table["trace"].chunks])
    coded = entries.field("name").dictionary_encode()
    code, step, value = (c.to_numpy() for c in (coded.indices, entries.field("step"), entries.field("value")))
    value = value.astype(np.float64)
    order = np.lexsort((step, code))
    ends = np.flatnonzero(np.diff(code[order]) | np.diff(step[order])) + 1
    groups = np.split(order, ends) if len(order) else []
    trace = {(coded.dictionary[int(code[g[0]])].as_py(), int(step[g[0]])): MeanStd.of(value[g]) for g in groups}
    return Numbers(MeanStd.of(table["nfe"].to_numpy()), MeanStd.of(landed) if len(landed) else None, trace)


def summary(artifact: Artifact, records: Sequence[Record]) -> dict[str, Any]:
    """What the manifest of these records will hold, in the order in which it names them."""
    ordered = sorted(records, key=lambda r: r.key)
    return counted(pa.concat_tables([artifact.read_table(r, columns=list(COLUMNS)) for r in ordered])).tree()


def of(syntheses: Sealed) -> Numbers:
    """The numbers of sealed syntheses."""
    kept = syntheses.manifest.numbers
    return Numbers.of_tree(kept) if kept else counted(syntheses.read(COLUMNS))
