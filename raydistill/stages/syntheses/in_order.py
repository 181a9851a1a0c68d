"""The rows of a set by class and slot, read a stretch at a time: a set of ImageNet's classes does not fit in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.store import schemas


class InOrder:
    """Knows of every row where it lies; the files that a stretch was read from are held for the next one."""

    def __init__(self, distilled: DistilledSet, columns: Sequence[str]) -> None:
        self.distilled, self.columns = distilled, columns
        places = [tuple(t[c].to_numpy() for c in schemas.PLACE) for t in distilled.tables(schemas.PLACE)]
        lengths = [len(slot) for _, slot in places]
        label, slot = (np.concatenate([p[i] for p in places]) for i in range(2))
        order = np.lexsort((slot, label))
        self.unit = np.repeat(np.arange(len(places)), lengths)[order]
        self.row = np.concatenate([np.arange(n) for n in lengths])[order]
        self.slot = slot[order].astype(np.int32)
        self.held: dict[int, pa.Table] = {}

    def __len__(self) -> int:
        return len(self.row)

    def rows(self, start: int, stop: int) -> pa.Table:
        """Rows start to stop - 1, with the slots and the weights that they have in the set."""
        unit, row = self.unit[start:stop], self.row[start:stop]
        wanted, at = np.unique(unit, return_inverse=True)
        before = self.held
        self.held = {u: before[u] if u in before else self.distilled.unit(u, self.columns) for u in wanted.tolist()}
        taken = [table.take(pa.array(row[at == i])) for i, table in enumerate(self.held.values())]
        back = np.argsort(np.argsort(at, kind="stable"))  # from file by file to their order
        table = pa.concat_tables(taken).take(pa.array(back))
        return table.append_column("slot", pa.array(self.slot[start:stop]))
