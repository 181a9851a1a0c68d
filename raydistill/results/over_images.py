"""The error of the test images, for which nothing but the answers to each of them is needed.

Answers come class by class, (n,) bool each: `evaluation.score.Score.answers`; for the errors also the share, 0 to 1, of
several students that are right. `balanced` means classes count alike,
otherwise images do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from raydistill.results.statistics import LEVEL, RESAMPLES, ImageError, Interval
from raydistill.seeding import generator

Answers = Sequence[np.ndarray]


def mcnemar(a: Answers, b: Answers) -> float:
    """The exact two-sided p that a pair of trainings is right equally often, from the images on which they differ."""
    only_a, only_b = (sum(int((x & ~y).sum()) for x, y in zip(*pair, strict=True)) for pair in ((a, b), (b, a)))
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def bootstrap(a: Answers, b: Answers, balanced: bool = False) -> Interval:
    """The 95 % interval of the difference of one pair of trainings, test images of each class drawn again in pairs."""
    rng = generator("results.over_images", [len(x) for x in a], RESAMPLES)
    total = np.zeros(RESAMPLES)
    for x, y, weight in zip(a, b, _weights(a, balanced), strict=True):
        wins, losses, n = int((x & ~y).sum()), int((y & ~x).sum()), len(x)
        if n:  # drawing n of n images again is a multinomial of wins, losses and ties
            drawn = rng.multinomial(n, [wins / n, losses / n, max(0.0, 1 - (wins + losses) / n)], RESAMPLES)
            total += weight * (drawn[:, 0] - drawn[:, 1]) / n
    low, high = np.quantile(total, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def error(pairs: Sequence[tuple[Answers, Answers]], balanced: bool = False) -> float:
    """The standard error that the choice of test images leaves in the mean difference of these pairs of trainings."""
    weights = _weights(pairs[0][0], balanced)
    variance = 0.0
    for c, weight in enumerate(weights):
        each = np.mean([a[c].astype(np.float64) - b[c] for a, b in pairs], axis=0)
        if len(each) > 1:  # a single image says nothing of the others of its class
            variance += weight**2 * float(each.var(ddof=1)) / len(each)
    return math.sqrt(variance)


def parts(units: Sequence[Sequence[tuple[Answers, Answers]]], balanced: bool = False) -> ImageError:
    """`error` of the means of at least two units of pairs, split by what more units would take away.

    An image's mean difference varies from image to image because images differ, which lasts, and because each training
    errs on others, a variance that n units divide by n. The second is known from the spread between units.
    """
    lasting = fading = 0.0
    for c, weight in enumerate(_weights(units[0][0][0], balanced)):
        each = np.array([np.mean([a[c].astype(np.float64) - b[c] for a, b in unit], axis=0) for unit in units])
        if (n := each.shape[1]) > 1:
            of_a_unit = float(each.var(0, ddof=1).mean())
            fading += weight**2 * of_a_unit / n
            lasting += weight**2 * (float(each.mean(0).var(ddof=1)) - of_a_unit / len(units)) / n
    return ImageError(math.sqrt(max(0.0, lasting)), math.sqrt(fading))


def _weights(answers: Answers, balanced: bool) -> list[float]:
    """The share of each class in the accuracy."""
    sizes = [len(x) for x in answers]
    there = sum(n > 0 for n in sizes)
    return [(1 / there if n else 0.0) if balanced else n / sum(sizes) for n in sizes]
