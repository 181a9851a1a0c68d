"""What the accuracies say, in words: which set is best, and the run's own against random images, all and chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from raydistill.report import wording
from raydistill.report.data import Difference, Judgement
from raydistill.report.scores import BOUNDS, FULL_BALANCED, RANDOM, Measure, ScoreRow
from raydistill.report.text import count, percent, plural, spread

Tone = Literal["better", "same", "worse", "open"]


@dataclass(frozen=True)
class Verdict:
    """One student's result. `claim` is the short statement, `best` one on the best of all sets where there are more
    than the run's own and random images; `detail` gives the numbers and their limits."""

    student: str
    tone: Tone
    claim: str
    best: str
    detail: str

    @property
    def claims(self) -> list[str]:
        return [c for c in (self.best, self.claim) if c]


def verdicts(judged: Judgement) -> list[Verdict]:
    """One a student that was trained on the distilled set, in the order of the scores."""
    return [_verdict(main, judged) for main in judged.scores if main.main]


def find(scores: tuple[ScoreRow, ...], name: str, student: str) -> ScoreRow | None:
    """The score of a baseline set for a student."""
    return next((s for s in scores if s.set == name and s.student == student and not s.main), None)


def between(judged: Judgement, a: str, b: str, student: str) -> Difference | None:
    """Set `a` minus set `b` by the measure that leads; None where their trainings were not compared."""
    for d in judged.differences:
        if d.student == student and d.measure == judged.measure and {d.a, d.b} == {a, b}:
            return d if d.a == a else d.turned()
    return None


def _verdict(main: ScoreRow, judged: Judgement) -> Verdict:
    rand = find(judged.scores, RANDOM, main.student) if main.set != RANDOM else None
    bounds = [b for name in BOUNDS if (b := find(judged.scores, name, main.student))]
    tone, claim = _against_random(main, rand, judged)
    detail = [
        f"Trained on the {plural(main.images, 'distilled image')}, {main.student} reaches "
        f"{_value(main, judged)} {_seeds(main)}."
    ]
    if rand:
        equal = "at equal IPC" if rand.images == main.images else f"({count(rand.images)} of them)"
        detail.append(f"Random real images {equal} give {_value(rand, judged)}.")
    if bounds:
        detail.append(f"The full data give {_bounds(bounds, judged)}.{_kept(main, bounds, judged.measure)}")
    detail.append(_against_chance(main, judged))
    return Verdict(main.student, tone, claim, _best(main, judged), " ".join(filter(None, detail)))


def _against_random(main: ScoreRow, rand: ScoreRow | None, judged: Judgement) -> tuple[Tone, str]:
    """Better or worse only where the interval of the paired difference says so."""
    name = _this(main)
    if rand is None:
        return "open", f"{name}: {_value(main, judged)}, not compared with random images"
    if not math.isfinite(main.last_mean - rand.last_mean):
        return "open", f"{name}: no valid accuracy to compare"
    d = between(judged, main.set, RANDOM, main.student)
    if d is None:
        return "open", f"{name} and random images have no seeds in common: not compared"
    side = "above" if d.mean > 0 else "below"
    side = side if f"{abs(d.mean):.3f}" != "0.000" else "apart from"  # 0.0 points
    if d.sign > 0:
        return "better", f"{name} beats random images by {_told(d)}"
    if d.sign < 0:
        return "worse", f"{name} does not beat random images: it is {_told(d.turned())} below them"
    shown = wording.size(d if d.mean >= 0 else d.turned())
    if d.low is None:
        return "open", f"{name} is {shown} {side} random images: {wording.conclusion(d)}"
    return (
        "same",
        f"{name} does not measurably beat random images: {shown} {side.removesuffix(' from')}, {wording.conclusion(d)}",
    )


def best(judged: Judgement, student: str, main: ScoreRow | None = None, what: str = "sets") -> str:
    """The best of all by its mean: against `main`, or where that is the best or there is none, against the next."""
    rows = [s for s in judged.scores if s.student == student and s.set not in BOUNDS]
    rows = [s for s in rows if math.isfinite(s.value(judged.measure))]
    rows.sort(key=lambda s: -s.value(judged.measure))
    if len(rows) < 2 or (main is not None and main not in rows):
        return ""
    first = rows[0]
    other = rows[1] if main is None or first is main else main
    d = between(judged, first.set, other.set, student)
    if d is None:
        why = "another protocol, other test images or seeds, or made by an older version"
        return f"Not compared in pairs: {first.set}, {_value(first, judged)}, and {other.set} ({why})"
    head = f"Best of {len(rows)} {what}: {first.set}, {_value(first, judged)}"
    if d.mean < 0:  # the mean over all seeds of each says one thing, the pairs another
        first, other, d = other, first, d.turned()
        head = f"On the seeds that both have: {first.set}"
    unlike = (
        f", with {count(first.images)} images against {count(other.images)}" if first.images != other.images else ""
    )
    if d.sign > 0:
        return f"{head}, {_told(d)} better than {other.set}{unlike}"
    return f"{head}, {wording.size(d)} ahead of {other.set}{unlike}: {wording.conclusion(d)}"


def _best(main: ScoreRow, judged: Judgement) -> str:
    """Empty where there is nothing to name beside the run's own set and random images."""
    names = {s.set for s in judged.scores if s.student == main.student and s.set not in BOUNDS}
    return "" if names <= {main.set, RANDOM} else best(judged, main.student, main)


def _told(d: Difference) -> str:
    """The size of a difference that the interval shows, with what it depends on."""
    return wording.size(d) + wording.conclusion(d).removeprefix("better")


def _this(main: ScoreRow) -> str:
    """One draw is this set, as a folder is whatever drew the others; a method is judged over several."""
    return main.set if main.generations > 1 else f"This {main.set} set"


def _against_chance(main: ScoreRow, judged: Judgement) -> str:
    """Above chance only where neither the seeds nor the test images can be what lifts it."""
    if not math.isfinite(main.last_mean):
        return ""
    mean, std, chance = main.value(judged.measure), main.std(judged.measure), judged.chance_of(judged.measure)
    over_seeds = 0.0 if std is None else float(stats.t.ppf(0.975, main.units - 1)) * std / math.sqrt(main.units)
    if mean - math.hypot(over_seeds, 1.96 * guessing_error(judged)) <= chance:
        return f"This cannot be told from chance ({_percent(percent(chance))})."
    return f"Chance is {_percent(percent(chance))}."


def guessing_error(judged: Judgement) -> float:
    """Standard error, by the choice of test images, of the accuracy of a student that guesses by the chance p: of each
    of the n images p (1 - p) / n, of the mean over K classes the mean of their p (1 - p) / n_k over K. A fraction; 0
    where the images are not known."""
    p, tested = judged.chance_of(judged.measure), [n for n in judged.tested if n]
    if not tested:
        return 0.0
    parts = sum(1 / n for n in tested) / len(tested) ** 2 if judged.measure == "balanced" else 1 / sum(tested)
    return math.sqrt(p * (1 - p) * parts)


def _bounds(bounds: Sequence[ScoreRow], judged: Judgement) -> str:
    """Each with its length."""
    how = {FULL_BALANCED: "drawn evenly from the classes, "}
    said = [" ".join(filter(None, (how.get(b.set, "") + _value(b, judged), wording.length(b)))) for b in bounds]
    return "; ".join(said)


def _kept(main: ScoreRow, bounds: Sequence[ScoreRow], measure: Measure) -> str:
    """Of the best bound."""
    mine, all_of_it = main.value(measure), max(b.value(measure) for b in bounds)
    if not (all_of_it > 0 and math.isfinite(mine)):
        return ""
    of_it = "that" if len(bounds) == 1 else "the best of these"
    return f" The distilled set keeps {100 * mine / all_of_it:.0f} % of {of_it}."


def _value(score: ScoreRow, judged: Judgement) -> str:
    """'52.1 ± 0.8 %', which no line break parts; where the mean over classes leads, that and the other behind it."""
    if judged.measure == "top-1":
        return _percent(spread(score.last_mean, score.last_std))
    a_class = _percent(spread(score.balanced_mean, score.balanced_std))
    return f"{a_class} a class ({_percent(percent(score.last_mean))} an image)"


def _percent(number: str) -> str:
    return f"{number} %".replace(" ", "\N{NO-BREAK SPACE}")


def _seeds(score: ScoreRow) -> str:
    over = "one seed"
    if score.generations > 1:
        over = f"mean ± std over {score.generations} generation seeds, {score.seeds} trainings"
    elif score.seeds > 1:
        over = f"mean ± std over {score.seeds} seeds"
    return f"(end of training, {over})"
