"""Every pair of sets against each other, for every student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from raydistill.report.data import Difference, Measure
from raydistill.results import over_images
from raydistill.results import statistics as st
from raydistill.results.pairing import Pair, TrainingOutcome, matched


def table(outcomes: Sequence[TrainingOutcome], measures: Sequence[Measure] = ("top-1",)) -> list[Difference]:
    """All pairs of sets in the order in which they come, by student and measure; Holm over the pairs of each."""
    rows = []
    for student in dict.fromkeys(o.student for o in outcomes):
        sets: dict[str, list[TrainingOutcome]] = {}
        for o in outcomes:
            if o.student == student:
                sets.setdefault(o.set, []).append(o)
        for measure in measures:
            pairs = (difference(a, b, measure) for a, b in combinations(sets.values(), 2))
            rows += adjusted([d for d in pairs if d is not None])
    return rows


def adjusted(family: Sequence[Difference]) -> list[Difference]:
    """The differences of one table with their p after Holm."""
    tested = [d for d in family if d.p is not None]
    holm = dict(zip(map(id, tested), st.holm([d.p for d in tested if d.p is not None]), strict=True))
    return [replace(d, holm=holm.get(id(d))) for d in family]


def difference(
    a: Sequence[TrainingOutcome], b: Sequence[TrainingOutcome], measure: Measure = "top-1"
) -> Difference | None:
    """Set `a` minus set `b` for their student; None where no trainings belong together, or by other rules."""
    paired = matched(a, b)
    pairs = [pair for cluster in paired for pair in cluster]
    if not pairs or any(x.test != y.test or x.rules != y.rules for x, y in pairs):
        return None
    clusters = [np.array([x.value(measure) - y.value(measure) for x, y in cluster]) for cluster in paired]
    centre = st.mean(clusters)
    plain = Difference(
        pairs[0][0].set,
        pairs[0][1].set,
        pairs[0][0].student,
        measure,
        centre,
        pairs=len(pairs),
        units=len(st.units(clusters)),
        generations=len(clusters),
        ahead=st.ahead(clusters),
    )
    if plain.units == 1:
        return _of_one_pair(plain, pairs[0])
    clusters = list(st.unrounded(clusters, over_images.step([(x.answers, y.answers) for x, y in pairs])))
    interval, check = st.bootstrap(clusters), st.paired_t(clusters)
    if interval is None or check is None or (st.alike(clusters) and not _of_one_set(pairs)):
        return plain  # all pairs alike, and nobody knows of how many images: no spread was seen
    units = paired if len(paired) > 1 else [[pair] for pair in pairs]
    tested = _with_images(interval, centre, pairs, measure)
    return replace(
        plain,
        low=interval.low,
        high=interval.high,
        t_low=check[0].low,
        t_high=check[0].high,
        tested_low=None if tested is None else tested.low,
        tested_high=None if tested is None else tested.high,
        p=check[1],
        needed=st.seeds_for(clusters),
        needed_tested=None if tested is None else st.seeds_for(clusters, images=_of_images(units, measure)),
    )


def _of_one_set(pairs: Sequence[Pair]) -> bool:
    """Whether both sides are the same images, or right on the very same test images: a set beside itself."""
    return all(x.digest == y.digest or over_images.alike(x.answers, y.answers) for x, y in pairs)


def _of_one_pair(plain: Difference, pair: Pair) -> Difference:
    a, b = (o.answers for o in pair)
    if a is None or b is None or a[0].dtype != bool:  # of the mean over students no image is right or wrong
        return plain
    tested = over_images.bootstrap(a, b, plain.measure == "balanced")
    mcnemar = over_images.mcnemar(a, b) if plain.measure == "top-1" else None  # it counts images, of whatever class
    return replace(plain, tested_low=tested.low, tested_high=tested.high, p=mcnemar)


def _of_images(units: Sequence[Sequence[Pair]], measure: Measure) -> st.ImageError:
    known = [[(x.answers, y.answers) for x, y in pairs if x.answers and y.answers] for pairs in units]
    return over_images.parts(known, measure == "balanced")


def _with_images(interval: st.Interval, centre: float, pairs: Sequence[Pair], measure: Measure) -> st.Interval | None:
    answers = [(x.answers, y.answers) for x, y in pairs]
    known = [(x, y) for x, y in answers if x is not None and y is not None]
    if len(known) < len(answers):
        return None
    return interval.widened(centre, over_images.error(known, measure == "balanced"))
