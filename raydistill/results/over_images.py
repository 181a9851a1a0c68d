"""The error of the test images, for which nothing but the answers to each of them is needed.

Answers come class by class, (n,) bool each: `evaluation.score.Score.answers`; for the errors also the share, 0 to 1, of
several students that are right. `balanced` means classes count alike, otherwise images do. Images are drawn within
their class; classes of a single one, which says nothing of others of its class, are drawn together (collapsed strata).
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
    for classes, weight in _strata(a, balanced):
        x, y = _joined(a, classes), _joined(b, classes)
        wins, losses, n = int((x & ~y).sum()), int((y & ~x).sum()), len(x)
        # drawing n of n images again is a multinomial of wins, losses and ties, which has (n - 1) / n of the variance
        drawn = rng.multinomial(n, [wins / n, losses / n, max(0.0, 1 - (wins + losses) / n)], RESAMPLES)
        centre, again = (wins - losses) / n, (drawn[:, 0] - drawn[:, 1]) / n
        total += weight * (centre + math.sqrt(n / max(1, n - 1)) * (again - centre))
    low, high = np.clip(np.quantile(total, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]), -1, 1)
    return Interval(float(low), float(high))


def error(pairs: Sequence[tuple[Answers, Answers]], balanced: bool = False) -> float:
    """The standard error that the choice of test images leaves in the mean difference of these pairs of trainings."""
    variance = 0.0
    for classes, weight in _strata(pairs[0][0], balanced):
        each = np.mean([_differences(pair, classes) for pair in pairs], axis=0)
        if len(each) > 1:
            variance += weight**2 * float(each.var(ddof=1)) / len(each)
    return math.sqrt(variance)


def parts(units: Sequence[Sequence[tuple[Answers, Answers]]], balanced: bool = False) -> ImageError:
    """`error` of the means of at least two units of pairs, split by what more units would take away.

    An image's mean difference varies from image to image because images differ, which lasts, and because each training
    errs on others, a variance that n units divide by n. The second is known from the spread between units.
    """
    lasting = fading = 0.0
    for classes, weight in _strata(units[0][0][0], balanced):
        each = np.array([np.mean([_differences(pair, classes) for pair in unit], axis=0) for unit in units])
        if (n := each.shape[1]) > 1:
            of_a_unit = float(each.var(0, ddof=1).mean())
            fading += weight**2 * of_a_unit / n
            lasting += weight**2 * (float(each.mean(0).var(ddof=1)) - of_a_unit / len(units)) / n
    return ImageError(math.sqrt(max(0.0, lasting)), math.sqrt(fading))


def step(pairs: Sequence[tuple[Answers | None, Answers | None]]) -> float:
    """What one test image is of an accuracy, in which differences are counted; 0 where it is not known how many there
    are, and where each pair is right on the very same images, as a set beside itself is: counting hides nothing."""
    first = pairs[0][0]
    return 0.0 if first is None or all(alike(a, b) for a, b in pairs) else 1 / sum(map(len, first))


def alike(a: Answers | None, b: Answers | None) -> bool:
    """Whether two trainings are known to be right on the very same images."""
    return a is not None and b is not None and all(map(np.array_equal, a, b))


def _strata(answers: Answers, balanced: bool) -> list[tuple[list[int], float]]:
    """Classes whose images are drawn among each other, and their share in the accuracy; none of a class without."""
    sizes = [len(x) for x in answers]
    there, total = sum(n > 0 for n in sizes), sum(sizes)
    strata = [[c] for c, n in enumerate(sizes) if n > 1]
    single = [c for c, n in enumerate(sizes) if n == 1]
    strata += [single] if single else []
    return [(s, len(s) / there if balanced else sum(sizes[c] for c in s) / total) for s in strata]


def _joined(answers: Answers, classes: Sequence[int]) -> np.ndarray:
    return np.concatenate([answers[c] for c in classes])


def _differences(pair: tuple[Answers, Answers], classes: Sequence[int]) -> np.ndarray:
    a, b = (_joined(answers, classes) for answers in pair)
    return a.astype(np.float64) - b
