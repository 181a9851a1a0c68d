"""What trainings were sure of, image by image of the sets that they were trained on (LGD's diagnostic)."""

from __future__ import annotations

import numpy as np

from raydistill.evaluation.cartography import shares
from raydistill.report.cartography import DataMap
from raydistill.results.numbers import key_prefix
from raydistill.stages.evaluation.trainer import score
from raydistill.state import Results


def maps(done: Results) -> tuple[DataMap, ...]:
    """Of a run whose own set grew by increments: every set that was made, and every student, mean over the seeds.

    Of a set that was drawn several times the first draw.
    """
    grown = done.syntheses.get(done.prepared.config.method)
    if grown is None or len(grown.parts) < 2:
        return ()
    seen: dict[tuple[str, str], list[np.ndarray]] = {}
    for t in done.trainings:
        distilled, result = done.syntheses.get(t.set.name), score(t)
        if distilled is None or t.set.digest != distilled.digest or result is None or result.truth_mean is None:
            continue
        seen.setdefault((t.set.name, t.student), []).append(np.array([result.truth_mean, result.truth_spread]))
    return tuple(_map(done, name, student, np.mean(values, axis=0)) for (name, student), values in seen.items())


def numbers(done: Results) -> dict[str, float]:
    """cartography/STUDENT/hard, informative, easy: shares of the run's own images; of others under metrics/SET/."""
    return {
        f"{key_prefix(done, m.set)}cartography/{m.student}/{kind}": round(share, 6)
        for m in maps(done)
        for kind, share in m.shares.items()
    }


def _map(done: Results, name: str, student: str, values: np.ndarray) -> DataMap:
    rows = [part.rows for part in done.syntheses[name].parts]
    main = name == done.prepared.config.method
    return DataMap(name, student, values[0], values[1], np.repeat(np.arange(len(rows)), rows), main, shares(*values))
