"""How near the atoms of a set are to the real latents of their class: Wasserstein-2 before and after weighting."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Literal

import numpy as np
import pyarrow as pa

from raydistill.metrics.sets import squared_distances
from raydistill.metrics.wasserstein import Wasserstein, transport
from raydistill.report.atoms import AtomDistances
from raydistill.report.page import MAX_PANELS
from raydistill.report.projection import spread as evenly
from raydistill.results.numbers import key_prefix
from raydistill.state import Results
from raydistill.store import schemas

WHAT: tuple[Literal["prototypes", "syntheses"], ...] = ("prototypes", "syntheses")


def atom_distances(done: Results) -> tuple[AtomDistances, ...]:
    """Of every set whose method or weights.mode weighs atoms: of its prototypes, and of what was made of them.

    At most MAX_PANELS classes, and of each at most as many real latents as the metric `wasserstein` keeps.
    """
    sets = [v.config.method for v in done.prepared.variants if v.config.weights.mode and v.method.uses_prototypes]
    atoms = {name: _atoms(done, name) for name in sets if name in done.plans and name in done.syntheses}
    rows: dict[tuple[str, Literal["prototypes", "syntheses"]], list[tuple[float, float, float]]] = {}
    if atoms and done.classes is not None:
        for index, table in islice(done.classes.classes(["latent"]), MAX_PANELS):
            real = _rows(table["latent"])
            real = real[evenly(len(real), Wasserstein.limit)]
            for name, columns in atoms.items():
                mine = columns["class_index"] == index
                for what in WHAT:
                    values = of_class(real, columns[what][mine], columns["weight"][mine])
                    rows.setdefault((name, what), []).append(values)
    return tuple(AtomDistances(name, what, *np.array(distances).T) for (name, what), distances in rows.items())


def of_class(real: np.ndarray, atoms: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """W2 squared of real (N, D), mass 1/N each, to atoms (K, D): of equal masses, of weights (K,), and the least that
    masses can give, those of the Voronoi cells."""
    cost = squared_distances(real, atoms).astype(np.float64)
    equal = transport(cost, np.ones(len(atoms)))
    return equal, equal if np.ptp(weights) == 0 else transport(cost, weights), float(cost.min(axis=1).mean())


def numbers(done: Results, distances: Sequence[AtomDistances]) -> dict[str, float]:
    """For result.json: w2/prototypes/equal, weighted and least of the run's own set, metrics/SET/w2/... of others."""
    return {
        f"{key_prefix(done, d.set)}w2/{d.what}/{kind}": round(value, 6)
        for d in distances
        for kind, value in d.overall().items()
    }


def _atoms(done: Results, name: str) -> dict[str, np.ndarray]:
    """Columns of a set in the order of its slots: class_index, weight (M,), prototypes and syntheses (M, D)."""
    plan, syntheses = (
        _sorted(table.read([*schemas.PLACE, *more]))
        for table, more in ((done.plans[name], ["prototype"]), (done.syntheses[name], ["weight", "latent"]))
    )
    return {
        "class_index": syntheses["class_index"].to_numpy(),
        "weight": syntheses["weight"].to_numpy(),
        "prototypes": _rows(plan["prototype"]),
        "syntheses": _rows(syntheses["latent"]),
    }


def _sorted(table: pa.Table) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in schemas.PLACE])


def _rows(column: pa.ChunkedArray) -> np.ndarray:
    return schemas.tensor_numpy(column).reshape(len(column), -1).astype(np.float32)
