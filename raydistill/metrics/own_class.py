"""Are syntheses of the classes that they were made for? They lie nearer to the real mean of their own than to others'.

Images of classes in another order, or counted from another number, do not; nor do those of a generator that has learned
nothing. Guidance towards real images of a class pulls any image to its mean, so that of guided sets this says less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import bdtrc

from raydistill.metrics.sets import squared_distances

LEVEL = 0.01  # chance is excluded below this probability
SHOWN = 3  # pairs of classes that are named


def nearest_means(z: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The class whose mean (C, D) float32 is nearest to each latent z (n, D) float32: (n,) int64."""
    return squared_distances(z, means).argmin(axis=1)


@dataclass(frozen=True)
class OwnClass:
    """How many syntheses made for a class lie nearest to the mean of which: pairs (P, 3) of own, nearest, count."""

    pairs: np.ndarray
    classes: int

    @classmethod
    def of(cls, labels: np.ndarray, nearest: np.ndarray, classes: int) -> OwnClass:
        """Of classes (n,) for which syntheses were made, and those whose means are nearest (n,)."""
        pairs, counts = np.unique(np.stack([labels, nearest], axis=1), axis=0, return_counts=True)
        return cls(np.column_stack([pairs, counts]).astype(np.int64), classes)

    @cached_property
    def images(self) -> int:
        return int(self.pairs[:, 2].sum())

    @cached_property
    def hits(self) -> int:
        """Syntheses that lie nearest to the mean of their own class."""
        return self.shifted(np.arange(self.classes), 0)

    @property
    def share(self) -> float:
        return self.hits / self.images

    @property
    def chance(self) -> float:
        """Hits to be expected if the nearest class had nothing to do with the own one."""
        return self.images / self.classes

    @property
    def p_value(self) -> float:
        """Probability of so many hits or more by chance: exact, binomial, one-sided."""
        return at_least(self.hits, self.images, 1 / self.classes)

    @property
    def tells(self) -> bool:
        """Whether there are enough images for a rate of twice chance (for few classes: a third of the way from chance
        to all) to stand out: only then does a low rate say something."""
        rate = min(2 / self.classes, 1 / self.classes + (1 - 1 / self.classes) / 3)
        return at_least(int(rate * self.images), self.images, 1 / self.classes) < LEVEL

    def shifted(self, position: np.ndarray, by: int) -> int:
        """Syntheses nearest to a class that stands `by` after their own, by positions (C,)."""
        labels, nearest, counts = self.pairs.T
        return int(counts[position[nearest] - position[labels] == by].sum())


def at_least(hits: int, images: int, rate: float) -> float:
    """P(X >= hits) for X binomial of `images` trials at `rate`."""
    return 1.0 if hits <= 0 else float(bdtrc(hits - 1, images, rate))


def warning(check: OwnClass, class_ids: Sequence[str]) -> str | None:
    """What there is to say of a set, in one line; None if its images are nearer to their own classes than by chance.

    A low rate among few images is no more than told, unless the images are of the class before or after.
    """
    if check.p_value < LEVEL:
        return None
    position = positions(class_ids)
    counts = {by: check.shifted(position, by) for by in (1, -1)}
    by = max(counts, key=counts.__getitem__)
    shift = at_least(counts[by], check.images, 1 / check.classes) < LEVEL / len(counts) and counts[by] > check.hits
    if not shift and not check.tells and check.hits > check.chance:
        return None
    lie = "synthesis lies" if check.images == 1 else "syntheses lie"
    text = (
        f"{check.hits} of {check.images} {lie} nearest to the real mean of their own class, and chance gives "
        f"{check.chance:.3g} (p = {check.p_value:.2g}): "
    )
    if not (shift or check.tells):
        return f"{text}too few to tell whether they are of these classes"
    strange = sorted((-n, label, nearest) for label, nearest, n in check.pairs.tolist() if label != nearest)[:SHOWN]
    named = ", ".join(f"{class_ids[label]!r} to {class_ids[nearest]!r} ({-n})" for n, label, nearest in strange)
    text += f"they may not be of the images' classes; most often they lie nearest from {named}"
    if shift:
        text += f"; {counts[by]} lie one class {'on' if by > 0 else 'back'}, as if the numbers began elsewhere"
    return text


def positions(class_ids: Sequence[str]) -> np.ndarray:
    """(C,) int64: the number that an id is, if all are numbers; else its place among them."""
    if all(c.isascii() and c.isdecimal() and len(c) < 10 for c in class_ids):
        return np.array([int(c) for c in class_ids])
    return np.arange(len(class_ids))
