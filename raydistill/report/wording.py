"""A difference between two sets in words: how large, between what, and whether it can be told from noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raydistill.report.data import Difference
from raydistill.report.scores import ScoreRow
from raydistill.report.text import count, number, percent, plural

OPEN = "cannot be told apart"
ALIKE = "all pairs alike, so no spread was seen"
HOLDS = 0.05  # of p after Holm
MEASURES = {"top-1": "an image", "balanced": "a class"}


def points(value: float) -> str:
    """0.0214 -> '2.1', with a true minus."""
    return percent(value).replace("-", "\N{MINUS SIGN}") if round(1000 * value) else "0.0"


def interval(low: float | None, high: float | None) -> str:
    """'[0.5, 3.7]' in points; '–' where there is none."""
    return "–" if low is None or high is None else f"[{points(low)}, {points(high)}]".replace(" ", "\N{NO-BREAK SPACE}")


def size(d: Difference) -> str:
    """'2.1 points [0.5, 3.7]' of a difference: its interval over seeds, of a single pair that of the test images."""
    bounds = (d.low, d.high) if d.low is not None else (d.tested_low, d.tested_high)
    return " ".join(filter(None, (f"{points(d.mean)} points", interval(*bounds) if bounds[0] is not None else "")))


def seeds(d: Difference) -> str:
    """'3 training seeds'."""
    kind = "generation seed" if d.generations > 1 else "training seed"
    return plural(d.units, kind)


def conclusion(d: Difference) -> str:
    """What the interval says: better, worse, or how many seeds it would take. What it depends on stands in brackets."""
    if d.low is None and d.units > 1:
        return f"{ALIKE} at {seeds(d)}: more would show one"
    if d.low is None:
        known = " on these test images" if d.tested_sign else ""
        return f"one pair of trainings{known}: another seed may turn it"
    short = verdict(d)
    return f"{short} at {seeds(d)}; {needed(d)}" if short == OPEN else short


def verdict(d: Difference) -> str:
    """The same in the words of a table that has the numbers beside it."""
    if d.low is None:
        return ALIKE if d.units > 1 else "one pair of trainings"
    if not d.sign:
        return "no difference" if d.mean == 0 and d.low == d.high else OPEN
    limits = []
    if not d.tested_sign:
        limits.append("on these test images")
    if d.holm is not None and d.holm >= HOLDS:
        limits.append(f"taken alone: p = {d.holm:.2g} among all pairs")
    return ("better" if d.sign > 0 else "worse") + (f" ({'; '.join(limits)})" if limits else "")


def needed(d: Difference) -> str:
    """How many seeds would do; where none do because other test images may differ, how many do on these."""
    if d.needed is None:
        return "no number would resolve one point"
    if d.needed_tested is None:
        return f"{count(d.needed)} would resolve one point on these test images"
    return f"{count(d.needed_tested)} would resolve one point"


def needed_in_short(d: Difference) -> str:
    """'24', '18 here' where that is on these test images alone, '–' where no number is known."""
    if d.needed is None:
        return "–"
    return f"{count(d.needed)} here" if d.needed_tested is None else count(d.needed_tested)


def length(score: ScoreRow) -> str:
    """'in 4,000 image visits, 2.97 epochs' of a training; empty where it is not known."""
    if not score.visits or not score.images:
        return ""
    epochs = score.visits / score.images
    return f"in {count(score.visits)} image visits, {number(epochs)} epoch{'' if epochs == 1 else 's'}"


def storage(score: ScoreRow) -> str:
    """'1,234' kB of images, '1,234 + 500' with the soft labels that are stored beside them; a dash for what is not
    known."""
    if score.stored is None:
        return "–"
    images, labels = score.stored
    return " + ".join(number(n / 1000) for n in (images, *([labels] if labels else [])))


def how_many(d: Difference) -> str:
    """'5' pairs; '3 x 2' of three units of two; '7 in 3' where they are not equally many."""
    if d.units == d.pairs:
        return str(d.pairs)
    return f"{d.pairs} in {d.units}" if d.pairs % d.units else f"{d.units} x {d.pairs // d.units}"


@dataclass(frozen=True)
class DifferenceRow:
    """A difference as a line of a table."""

    a: str
    b: str
    note: str  # student and measure, where there are several
    mean: str
    over_seeds: str
    over_images: str
    ahead: str
    holm: str
    pairs: str
    needed: str
    words: str


def rows(differences: Sequence[Difference]) -> list[DifferenceRow]:
    """Lines of a table; the larger set stands first."""
    several = len({d.student for d in differences}) > 1, len({d.measure for d in differences}) > 1
    lines = []
    for d in (d if d.mean >= 0 else d.turned() for d in differences):
        notes = [d.student if several[0] else "", MEASURES[d.measure] if several[1] else ""]
        lines.append(
            DifferenceRow(
                d.a,
                d.b,
                ", ".join(filter(None, notes)),
                points(d.mean),
                interval(d.low, d.high),
                interval(d.tested_low, d.tested_high),
                f"{d.ahead:.2f}",
                "–" if d.holm is None else f"{d.holm:.2g}",
                how_many(d),
                needed_in_short(d),
                verdict(d),
            )
        )
    return lines
