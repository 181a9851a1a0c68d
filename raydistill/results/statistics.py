"""What differences between trained students are worth: intervals, tests and how many seeds it would take.

Differences come as clusters: an array of them a generation seed, a number a training in it. Where there is one
generation seed the trainings are the units, and all that is said is of these sets; where there are several, each seed
is one unit, however often it was trained on. Pure numpy and scipy; every draw is fixed, so equal numbers give equal
intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from raydistill.seeding import generator

LEVEL = 0.95
RESAMPLES = 10_000
POWER = 0.8  # with which `seeds_for` would see a difference
MOST = 1_000_000  # seeds: more is never
ROUNDING = 1e-9  # of a fraction: far below one image of any test set
QUADRATURE = 400  # points, of the chance with the error of test images
Z = float(stats.norm.ppf((1 + LEVEL) / 2))
Clusters = Sequence[np.ndarray]


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    def widened(self, centre: float, error: float) -> Interval:
        """With an independent standard error on top."""
        extra = Z * error
        return Interval(centre - math.hypot(centre - self.low, extra), centre + math.hypot(self.high - centre, extra))


@dataclass(frozen=True)
class ImageError:
    """The standard error that the choice of test images leaves in a mean over pairs of trainings: what `lasting` is of
    it however many there are, and what is `fading` with their number, given for one pair."""

    lasting: float = 0.0
    fading: float = 0.0

    def of(self, pairs: int) -> float:
        return math.hypot(self.lasting, self.fading / math.sqrt(pairs))


NO_ERROR = ImageError()


def mean(clusters: Clusters) -> float:
    """The mean over clusters of their means."""
    return float(np.mean([c.mean() for c in clusters]))


def units(clusters: Clusters) -> np.ndarray:
    """What counts as independent: the mean of each generation seed, or with one of those its trainings."""
    return np.array([c.mean() for c in clusters]) if len(clusters) > 1 else np.asarray(clusters[0], np.float64)


def resampled(clusters: Clusters, draws: int = RESAMPLES) -> np.ndarray:
    """(draws,) means of the hierarchical bootstrap: generation seeds first, then the trainings of each drawn."""
    sizes = np.array([len(c) for c in clusters])
    values = np.zeros((len(clusters), sizes.max()))
    for row, c in zip(values, clusters, strict=True):
        row[: len(c)] = c
    rng = generator("results.bootstrap", sizes.tolist(), draws)
    seeds = rng.integers(len(clusters), size=(draws, len(clusters)))
    many = sizes[seeds][..., None]
    trainings = (rng.random((*seeds.shape, sizes.max())) * many).astype(np.int64)
    drawn = np.arange(sizes.max()) < many  # a cluster that is smaller than the largest gives as many as it has
    sums = (values[seeds[..., None], trainings] * drawn).sum(-1)
    return (sums / many[..., 0]).mean(1)


def bootstrap(clusters: Clusters, draws: int = RESAMPLES) -> Interval | None:
    """The 95 % interval of the mean by the hierarchical bootstrap; None for a single unit, which has no spread.

    Resampling n units gives too narrow an interval (of three, never one beyond the three), and two levels count the
    spread within a seed twice. So the interval is stretched about the mean to the width of Student's t over the units,
    which is right for few of them; how it leans is the bootstrap's.
    """
    each, centre = units(clusters), mean(clusters)
    if len(each) < 2:
        return None
    low, high = (float(q) for q in np.quantile(resampled(clusters, draws), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    if high == low:
        return Interval(centre, centre)
    stretch = 2 * _quantile(len(each)) * _standard_error(each) / (high - low)
    return Interval(centre + stretch * (low - centre), centre + stretch * (high - centre))


def paired_t(clusters: Clusters) -> tuple[Interval, float] | None:
    """The interval and the two-sided p of the paired t test over units; None for a single one."""
    each, centre = units(clusters), mean(clusters)
    if len(each) < 2:
        return None
    error = _standard_error(each)
    half = _quantile(len(each)) * error
    if error == 0:
        return Interval(centre, centre), 1.0 if centre == 0 else 0.0
    return Interval(centre - half, centre + half), float(2 * stats.t.sf(abs(centre) / error, len(each) - 1))


def ahead(clusters: Clusters) -> float:
    """P(A > B): the share of pairs in which A is ahead, a tie one half, mean over generation seeds."""
    return float(np.mean([np.mean((c > 0) + 0.5 * (c == 0)) for c in clusters]))


def holm(p: Sequence[float]) -> list[float]:
    """The p of a family of tests after Holm, in their order: below 0.05 holds although so many were asked."""
    order = np.argsort(p, kind="stable")
    adjusted, running = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = running
    return adjusted


def power(n: int, deviation: float, difference: float, images: ImageError = NO_ERROR) -> float:
    """The chance that n pairs of this standard deviation give an interval on the right side of 0.

    With an error of the test images the interval is `Interval.widened` by it, and what lasts of it moves the mean, too:
    the chance is the mean over what n pairs may show of their own deviation (chi squared, n - 1 degrees of freedom).
    """
    if images == NO_ERROR:
        return float(stats.nct.sf(_quantile(n), n - 1, difference * math.sqrt(n) / deviation))
    shown = deviation * np.sqrt(stats.chi2.ppf((np.arange(QUADRATURE) + 0.5) / QUADRATURE, n - 1) / (n - 1))
    half = np.hypot(_quantile(n) * shown / math.sqrt(n), Z * images.of(n))
    return float(stats.norm.sf((half - difference) / math.hypot(deviation / math.sqrt(n), images.lasting)).mean())


def seeds_for(clusters: Clusters, difference: float = 0.01, images: ImageError = NO_ERROR) -> int | None:
    """How many units would tell such a difference from 0 in four of five cases, by the spread that was found.

    Without `images` on the test images that there are, with them also on others like them. None for a single unit, or
    where a million would not do.
    """
    each = units(clusters)
    if len(each) < 2:
        return None
    deviation = float(each.std(ddof=1))
    if deviation == 0 and images == NO_ERROR:
        return 2
    high = 2
    while power(high, deviation, difference, images) < POWER:
        high *= 2
        if high > MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, deviation, difference, images) >= POWER else (middle, high)
    return max(2, high)


def alike(clusters: Clusters) -> bool:
    """Whether all units are the same but for the rounding of floating-point numbers, which is no spread."""
    return float(np.ptp(units(clusters))) <= ROUNDING


def unrounded(clusters: Clusters, step: float) -> Clusters:
    """Differences that are all the same given the spread that counting in steps of `step` hides; 0 hides none.

    A few pairs may agree to the last image by chance, which would make an interval of no width: their units are moved
    apart, evenly about their mean, to the deviation of a rounding error, step / sqrt(12).
    """
    each = units(clusters)
    if len(each) < 2 or not step or not alike(clusters):
        return clusters
    offsets = np.linspace(-1, 1, len(each))
    offsets *= step / math.sqrt(12) / offsets.std(ddof=1)
    return [c + d for c, d in zip(clusters, offsets, strict=True)] if len(clusters) > 1 else [clusters[0] + offsets]


def _standard_error(each: np.ndarray) -> float:
    return float(each.std(ddof=1)) / math.sqrt(len(each))


def _quantile(n: int) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
