"""Which trainings of two sets belong together: the same generation seed, and the same training seed, which is the
student's weights at the start and the order of its data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from raydistill.report.data import Measure


@dataclass(frozen=True)
class TrainingOutcome:
    """What came of one training. `digest` says which images it was on, `generation` by which seed they were made.

    `generation` is None for a set without one, such as the full data. `test` says on which images it was tested, and
    `answers` which of them are right, (n,) bool a class; empty and None in what older versions committed. `curve` has
    (images seen, top-1) of every test; empty too. `rules` names the protocol where trainings of several runs meet.
    """

    set: str
    digest: str
    student: str
    generation: int | None
    training: int
    top1: float
    balanced: float
    test: str = ""
    answers: tuple[np.ndarray, ...] | None = None
    curve: tuple[tuple[int, float], ...] = ()
    rules: str = ""

    def value(self, measure: Measure) -> float:
        return self.top1 if measure == "top-1" else self.balanced


Pair = tuple[TrainingOutcome, TrainingOutcome]
Seeds = Mapping[int | None, Mapping[int, TrainingOutcome]]  # generation seed -> training seed -> outcome


def matched(a: Sequence[TrainingOutcome], b: Sequence[TrainingOutcome]) -> list[list[Pair]]:
    """The pairs of two sets for one student, a list a generation seed; none where they have no seeds in common.

    Two sets of one draw each are paired by training seed, whatever seeds made them. A set that every generation seed
    makes the same, beside one that is drawn anew, gives each pair a training of its own: it is used once.
    """
    of_a, of_b = seeds(a), seeds(b)
    if len(of_a) == 1 and len(of_b) == 1:
        (one,), (two,) = of_a.values(), of_b.values()
        clusters = [[(one[t], two[t]) for t in sorted(one.keys() & two.keys())]]
    elif len(of_b) == 1:
        clusters = _beside(of_a, next(iter(of_b.values())))
    elif len(of_a) == 1:
        clusters = [[(y, x) for x, y in pairs] for pairs in _beside(of_b, next(iter(of_a.values())))]
    else:
        clusters = [
            [(of_a[g][t], of_b[g][t]) for t in sorted(of_a[g].keys() & of_b[g].keys())]
            for g in sorted(of_a.keys() & of_b.keys(), key=str)
        ]
    return [pairs for pairs in clusters if pairs]


def seeds(outcomes: Sequence[TrainingOutcome]) -> Seeds:
    """By generation and training seed. Seeds that made the same images are one: nothing was drawn."""
    same = len({o.digest for o in outcomes}) == 1
    by_generation: dict[int | None, dict[int, TrainingOutcome]] = {}
    for o in outcomes:
        by_generation.setdefault(None if same else o.generation, {})[o.training] = o
    return by_generation


def _beside(drawn: Seeds, fixed: Mapping[int, TrainingOutcome]) -> list[list[Pair]]:
    """Each outcome of the drawn sets with that of its training seed; what is left goes to the first without."""
    left, partners = dict(sorted(fixed.items())), dict[tuple[int | None, int], TrainingOutcome]()
    order = sorted(((g, t) for g in drawn for t in drawn[g]), key=lambda at: (at[0] is None, at[0] or 0, at[1]))
    partners |= {(g, t): left.pop(t) for g, t in order if t in left}
    partners |= {at: left.pop(next(iter(left))) for at in order if at not in partners and left}
    return [
        [(outcome, partners[g, t]) for t, outcome in sorted(drawn[g].items()) if (g, t) in partners]
        for g in sorted(drawn, key=str)
    ]
