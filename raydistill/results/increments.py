"""How a set grew, and what its parts say of each other: redundancy, gain and forgetting, what was chosen (LGD)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from raydistill.evaluation.recipe import Recipe
from raydistill.evaluation.score import unpacked
from raydistill.metrics.redundancy import redundancy
from raydistill.report.increments import ChoiceRow, GrowthRow, PartMatrix
from raydistill.report.line import Line
from raydistill.stages.evaluation.trainer import Training, body, score
from raydistill.stages.syntheses.increment import CHOSEN, REJECTED
from raydistill.stages.syntheses.numbers import MeanStd
from raydistill.stages.syntheses.numbers import of as numbers_of
from raydistill.state import Results


def matrices(done: Results) -> tuple[PartMatrix, ...]:
    """Of every set that was cut into parts and every student: trained on part i, tested on part j, mean over seeds."""
    shown = []
    for name, distilled in done.syntheses.items():
        rows: dict[str, dict[int, list[list[float]]]] = {}
        for t in done.on_parts:  # in the order of the parts, for each student and seed
            result = body(t)
            if t.set.digest == distilled.digest and result is not None:
                rows.setdefault(t.student, {}).setdefault(t.seed, []).append(result["increments"])
        for student, seeds in rows.items():
            each = np.array(list(seeds.values()))
            value = float(np.mean([redundancy(matrix) for matrix in each]))
            grew = len(distilled.parts) == each.shape[1]
            shown.append(PartMatrix(name, student, each.mean(0), value, name == done.prepared.config.method, grew))
    return tuple(shown)


def growth(done: Results) -> tuple[GrowthRow, ...]:
    """Of the run's own set, if it grew by increments: what its student knew after each."""
    rows: list[GrowthRow] = []
    before: np.ndarray | None = None
    for count, t in enumerate(_students(done), 1):
        result = score(t)
        if result is None or result.right is None or result.tested is None:
            continue
        right = np.concatenate(unpacked(result.right, result.tested))
        learned, forgotten = (None, None)
        if before is not None:
            learned, forgotten = float((right & ~before).mean()), float((before & ~right).mean())
        rows.append(GrowthRow(count, t.set.images, result.last, learned, forgotten))
        before = right
    return tuple(rows)


def choices(done: Results) -> tuple[ChoiceRow, ...]:
    """Of the run's own set, if it grew: what its increments were led and chosen by, those that were."""
    rows = []
    grown = done.syntheses.get(done.prepared.config.method)
    for i, part in enumerate(() if grown is None else grown.parts, 1):
        seen = numbers_of(part)
        chosen, rejected = (
            seen.trace[name, 0].mean if (name, 0) in seen.trace else None for name in (CHOSEN, REJECTED)
        )
        steps = seen.curves().get("score", [])
        if chosen is not None or steps:
            rows.append(ChoiceRow(i, chosen, rejected, line(f"increment {i}", steps)))
    return tuple(rows)


def pushes(done: Results) -> dict[int, dict[str, float]]:
    """Of the run's own set, if it grew: by increment (from 1 on) how far each guidance that leads it pushed, as a share
    of the network's own part of the step; mean over slots and the steps at which it acts."""
    grown = done.syntheses.get(done.prepared.config.method)
    growth = None if grown is None else done.prepared.variants[0].growth
    if grown is None or growth is None:
        return {}
    by_increment: dict[int, dict[str, float]] = {}
    for i, part in enumerate(grown.parts):
        sampling = (growth.next if i else growth.first).sampling
        names = [] if sampling is None else [g.name for g in sampling.acting]
        curves = numbers_of(part).curves()
        for name in names:
            if steps := curves.get("push" if len(names) == 1 else f"push {name}"):
                by_increment.setdefault(i + 1, {})[name] = MeanStd.pooled([seen for _, seen in steps]).mean
    return by_increment


def line(name: str, values: Sequence[tuple[int, MeanStd]]) -> Line:
    """Mean and std at each step index."""
    x = np.array([step for step, _ in values], np.float64)
    mean, std = (np.array([getattr(v, kind) for _, v in values], np.float64) for kind in ("mean", "std"))
    return Line(name, x, mean, std)


def numbers(done: Results) -> dict[str, float]:
    """redundancy/STUDENT of every set that was cut; of the run's own, if it grew, parts/STUDENT/I/J,
    increments/I/accuracy, learned, forgotten (shares of the test images), chosen, rejected and score/STEP (S, mean over
    slots), push/NAME of each guidance, and learnability/chosen and rejected."""
    flat: dict[str, float] = {}
    for m in matrices(done):
        prefix = "" if m.main else f"metrics/{m.set.replace(' ', '_')}/"
        flat[f"{prefix}redundancy/{m.student}"] = round(m.redundancy, 6)
        if m.main and m.grew:
            cells = np.ndenumerate(m.share)
            flat |= {f"parts/{m.student}/{i + 1}/{j + 1}": round(float(v), 6) for (i, j), v in cells}
    for row in growth(done):
        values = {"accuracy": row.accuracy, "learned": row.learned, "forgotten": row.forgotten}
        flat |= {f"increments/{row.increments}/{k}": round(v, 6) for k, v in values.items() if v is not None}
    for c in choices(done):
        steps = {f"score/{int(x)}": float(v) for x, v in zip(c.score.x, c.score.mean, strict=True)}
        scores = {"chosen": c.chosen, "rejected": c.rejected, **steps}
        flat |= {f"increments/{c.increment}/{k}": round(v, 6) for k, v in scores.items() if v is not None}
    for increment, terms in pushes(done).items():
        flat |= {f"increments/{increment}/push/{name}": round(push, 6) for name, push in terms.items()}
    of_method = done.syntheses.get(done.prepared.config.method)  # None where all images are trained on as they are
    trace = {} if of_method is None else of_method.numbers().trace
    for key, name in (("chosen", CHOSEN), ("rejected", REJECTED)):
        if (name, 0) in trace:
            flat[f"learnability/{key}"] = round(trace[name, 0].mean, 6)
    return flat


def about_the_last(done: Results) -> list[str]:
    """Why the whole set has no line among the increments, if it has none: nothing was trained on it as they were."""
    trained = done.students.get(done.prepared.config.method, [])
    if not trained or not done.trainings or len(list(_students(done))) > len(trained):
        return []
    last = trained[-1]
    return [
        f"The whole set has no line among the increments: these trained {last.student} with hard labels and seed "
        f"{last.seed}, and none of this evaluation's trainings on it did (lgd.student, evaluate.students)"
    ]


def _students(done: Results) -> Iterator[Training]:
    """Of the run's own curriculum, on the first increment, the first two, ..., all if that was trained alike."""
    name = done.prepared.config.method
    if not (trained := done.students.get(name, [])):
        return
    yield from trained
    last = trained[-1]
    for t in done.trainings:
        whole = t.set.digest == done.syntheses[name].digest
        if whole and (t.student, t.seed) == (last.student, last.seed) and _alike(t.recipe, last.recipe):
            yield t


def _alike(a: Recipe, b: Recipe) -> bool:
    """Whether two recipes differ in nothing but what goes by the number of images, and how often they are tested."""
    return replace(a, **{key: getattr(b, key) for key in ("epochs", "visits", "batch", "evaluations")}) == b
