"""What the accuracies say, in words: against random images at equal IPC, against the full data, against chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from raydistill.report.data import FULL, RANDOM, ReportData, ScoreRow
from raydistill.report.text import count, percent, plural, spread

Tone = Literal["better", "same", "worse", "open"]


@dataclass(frozen=True)
class Verdict:
    """One student's result. `claim` is the short statement, `detail` gives its numbers and their limits."""

    student: str
    tone: Tone
    claim: str
    detail: str


def verdicts(data: ReportData) -> list[Verdict]:
    """One a student that was trained on the distilled set, in the order of the scores."""
    return [_verdict(main, data) for main in data.scores if main.main]


def find(scores: tuple[ScoreRow, ...], name: str, student: str) -> ScoreRow | None:
    """The score of a baseline set for a student."""
    return next((s for s in scores if s.set == name and s.student == student and not s.main), None)


def _verdict(main: ScoreRow, data: ReportData) -> Verdict:
    rand = find(data.scores, RANDOM, main.student) if main.set != RANDOM else None
    full = find(data.scores, FULL, main.student)
    tone, claim = _against_random(main, rand)
    detail = [
        f"Trained on the {plural(main.images, 'distilled image')}, {main.student} reaches "
        f"{_value(main)} {_seeds(main)}."
    ]
    if rand:
        equal = "at equal IPC" if rand.images == main.images else f"({count(rand.images)} of them)"
        detail.append(f"Random real images {equal} give {_value(rand)}.")
    if full:
        detail.append(f"The full data give {_value(full)}{_kept(main, full)}.")
    detail.append(_against_chance(main, data.chance))
    return Verdict(main.student, tone, claim, " ".join(filter(None, detail)))


def _against_random(main: ScoreRow, rand: ScoreRow | None) -> tuple[Tone, str]:
    """A difference counts once it exceeds the two standard deviations, added in quadrature."""
    name = main.set
    if rand is None:
        return "open", f"{name}: {_value(main)}, not compared with random images"
    if not math.isfinite(main.last_mean - rand.last_mean):
        return "open", f"{name}: no valid accuracy to compare"
    gap = main.last_mean - rand.last_mean
    points = f"{percent(abs(gap))} points"
    side = "above" if gap > 0 else "below"
    if min(main.seeds, rand.seeds) < 2:
        return "open", f"{name} is {points} {side} random images, on one seed: the spread is unknown"
    if abs(gap) <= math.hypot(main.last_std, rand.last_std):
        return "same", f"{name} does not measurably beat random images: {points} {side}, within the spread over seeds"
    if gap > 0:
        return "better", f"{name} beats random images by {points}"
    return "worse", f"{name} does not beat random images: it is {points} below them"


def _against_chance(main: ScoreRow, chance: float) -> str:
    if main.last_mean - main.last_std <= chance:
        return f"This cannot be told from chance ({percent(chance)} %)."
    return f"Chance is {percent(chance)} %."


def _kept(main: ScoreRow, full: ScoreRow) -> str:
    if not (full.last_mean > 0 and math.isfinite(main.last_mean)):
        return ""
    return f", of which the distilled set keeps {100 * main.last_mean / full.last_mean:.0f} %"


def _value(score: ScoreRow) -> str:
    """'52.1 ± 0.8 %', which no line break parts."""
    return f"{spread(score.last_mean, score.last_std, score.seeds)} %".replace(" ", "\N{NO-BREAK SPACE}")


def _seeds(score: ScoreRow) -> str:
    spread_over = f"mean ± std over {score.seeds} seeds" if score.seeds > 1 else "one seed"
    return f"(end of training, {spread_over})"
