"""How near the atoms of a set are to the real latents of their class: Wasserstein-2 before and after weighting."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from raydistill import registry
from raydistill.clustering.points import Whole
from raydistill.config import Config
from raydistill.methods.weighting import weigh
from raydistill.metrics.sets import squared_distances
from raydistill.metrics.wasserstein import Wasserstein, transport
from raydistill.report.atoms import KINDS, AtomCurve, AtomDistances
from raydistill.report.page import MAX_PANELS
from raydistill.report.projection import spread as evenly
from raydistill.results.numbers import key_prefix
from raydistill.stages.evaluation.measure import vectors
from raydistill.state import Results
from raydistill.store import schemas

CURVE_CLASSES, CURVE_ROWS = 10, 500
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
            real = vectors(table["latent"])
            real = real[evenly(len(real), Wasserstein.limit)]
            for name, columns in atoms.items():
                mine = columns["class_index"] == index
                for what in [what for what in WHAT if what in columns]:
                    values = of_class(real, columns[what][mine], columns["weight"][mine])
                    rows.setdefault((name, what), []).append(values)
    return tuple(AtomDistances(name, what, *np.array(distances).T) for (name, what), distances in rows.items())


def of_class(real: np.ndarray, atoms: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """W2 squared of real (N, D), mass 1/N each, to atoms (K, D): of equal masses, of weights (K,), and the least that
    masses can give, those of the Voronoi cells."""
    cost = squared_distances(real, atoms).astype(np.float64)
    equal = transport(cost, np.ones(len(atoms)))
    return equal, equal if np.ptp(weights) == 0 else transport(cost, weights), float(cost.min(axis=1).mean())


def curve(done: Results) -> AtomCurve | None:
    """How W2 would fall with more atoms, where the run's own method weighs them: the first CURVE_CLASSES classes, of
    each CURVE_ROWS latents, quantised here as the run quantises, for K = 1, 2, 5, 10, ... up to ipc, or to 10.

    None for a clustering that makes a tree, and where a class has too few latents for two K.
    """
    config = done.prepared.variants[0].config
    name, mode = config.cluster.algorithm or "kmeans", config.weights.mode
    kind = registry.get("clustering", name)
    weighs = mode and done.prepared.variants[0].method.uses_prototypes and config.method in done.plans
    if not weighs or kind.makes == "tree" or done.classes is None:
        return None
    info, classes = done.prepared.splits.train.classes, []
    for index, table in islice(done.classes.classes(["latent"]), CURVE_CLASSES):
        real = vectors(table["latent"])
        classes.append((info[index], real[evenly(len(real), CURVE_ROWS)]))
    ks = counts(config.ipc, min(len(real) for _, real in classes))
    if len(ks) < 2:
        return None
    values = [[_quantised(real, kind, config, c.class_id, k) for c, real in classes] for k in ks]
    equal, weighted, least = np.moveaxis(np.array(values), 2, 0)
    names = tuple(c.class_name for c, _ in classes)
    return AtomCurve(name, np.array(ks), equal, weighted, least, classes[0][1].shape[1], names)


def counts(ipc: int, images: int) -> list[int]:
    """1, 2, 5, 10, 20, ... up to ipc, which is among them, or to 10; at most half as many as there are images."""
    round_numbers = [m * 10**e for e in range(6) for m in (1, 2, 5)]
    most = min(max(ipc, 10), images // 2)
    return sorted({k for k in [*round_numbers, ipc] if k <= most})


def _quantised(real: np.ndarray, kind: Any, config: Config, class_id: str, k: int) -> tuple[float, float, float]:
    """W2 squared of latents (N, D) to k atoms: as `of_class` has it."""
    smaller = config.model_copy(update={"ipc": k})
    atoms = kind.of(smaller).cluster(Whole(real), class_id).centroids.astype(np.float32)
    nearest = squared_distances(real, atoms).argmin(axis=1)
    masses, w = np.bincount(nearest, minlength=len(atoms)), config.weights
    weights = weigh(np.maximum(masses, 1e-9), w.mode or "uniform", w.norm, w.gamma)
    return of_class(real, atoms, weights)


def numbers(done: Results, distances: Sequence[AtomDistances], fall: AtomCurve | None) -> dict[str, float]:
    """For result.json: w2/prototypes/equal, weighted and least of the run's own set, metrics/SET/w2/... of others;
    w2/curve/K/equal, weighted and least, and w2/slope."""
    flat = {f"{key_prefix(done, d.set)}w2/{d.what}/{kind}": v for d in distances for kind, v in d.overall().items()}
    if fall is not None:
        for kind in KINDS:
            flat |= {f"w2/curve/{k}/{kind}": v for k, v in zip(fall.k.tolist(), fall.overall(kind), strict=True)}
        flat |= {} if fall.slope is None else {"w2/slope": fall.slope}
    return {key: round(float(value), 6) for key, value in flat.items()}


def _atoms(done: Results, name: str) -> dict[str, np.ndarray]:
    """Columns of a set in the order of its slots: class_index, weight (M,), prototypes and syntheses (M, D).

    No prototypes of a set that grew: the plan of an increment is not that of the set.
    """
    plan, syntheses = (
        _sorted(table.read([*schemas.PLACE, *more]))
        for table, more in ((done.plans[name], ["prototype"]), (done.syntheses[name], ["weight", "latent"]))
    )
    columns = {
        "class_index": syntheses["class_index"].to_numpy(),
        "weight": syntheses["weight"].to_numpy(),
        "syntheses": vectors(syntheses["latent"]),
    }
    return columns if len(plan) < len(syntheses) else columns | {"prototypes": vectors(plan["prototype"])}


def _sorted(table: pa.Table) -> pa.Table:
    return table.sort_by([(name, "ascending") for name in schemas.PLACE])
