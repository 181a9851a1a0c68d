"""What the report shows beyond the scores: learning curves, classes, one embedding of all images, and guidance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from raydistill.report.data import (
    ClassScores,
    ClassSeries,
    Confusion,
    Curves,
    Embedding,
    GuidanceEnd,
    GuidanceTrace,
    Line,
)
from raydistill.report.projection import plane
from raydistill.results.numbers import tested
from raydistill.stages.evaluation.trainer import score
from raydistill.stages.syntheses import numbers
from raydistill.stages.syntheses.increment import CHOSEN, REJECTED
from raydistill.stages.syntheses.numbers import Numbers
from raydistill.state import Results
from raydistill.store import schemas

REAL_SHOWN = 600
MADE_SHOWN = 400
MEANINGS = {
    "push": ("Push", "Length of what guidance adds, as a share of the network's own part of the step."),
    "cosine": ("Along the tangent", "Cosine between the pull to the prototype and the local tangent of real latents."),
    "distance": ("Distance to the manifold", "From the sample to the tangent plane, per square root of the dimension."),
    "explained": ("Local spectrum", "Share of the variance of the nearest real latents that the tangent carries."),
    "removed": ("Removed", "Share of the pull's length that the projection takes away."),
    "trusted": ("Trusted", "Share of the pull to the prototype that the trust regions leave; 1 = all of it."),
    "ahead": (
        "Predicted end",
        "Distance of the predicted image to the prototype before the pull, root mean square over its entries.",
    ),
    "detour": ("Detour", "Length of the way so far, over the straight line from its start; 1 = straight."),
    "score": ("Score", "The current model's loss less omega times the reference's, of the predicted image."),
    "similarity": ("Similarity", "Cosine of the predicted image and the nearest in memory."),
    "correction": ("Correction", "Length of the pull onto the plane, as a share of the sample's length."),
}


def curves(done: Results) -> tuple[Curves, ...]:
    """Test accuracy over visits, of every set: mean and std over its draws or, of a single one, over trainings."""
    known: dict[str, dict[str, list[tuple[str, Sequence[tuple[int, float]]]]]] = {}
    for t in done.trainings:
        result = score(t)
        if result is not None:
            known.setdefault(t.student, {}).setdefault(t.set.name, []).append((t.set.digest, result.curve))
    main = done.prepared.config.method
    return tuple(
        Curves(student, tuple(band(name, trained, name == main) for name, trained in sets.items()))
        for student, sets in known.items()
    )


def band(name: str, trained: Sequence[tuple[str, Sequence[tuple[int, float]]]], main: bool = False) -> Line:
    """The line of a set from its trainings: on which images each was, and its (visits, accuracy) at every test. Of
    several draws each counts once, as in the scores."""
    shared = min(len(curve) for _, curve in trained)
    values = np.array([[accuracy for _, accuracy in curve[:shared]] for _, curve in trained])
    visits = np.array([v for v, _ in trained[0][1][:shared]], np.float64)
    draws = dict.fromkeys(draw for draw, _ in trained)
    if len(draws) > 1:
        values = np.array([values[[d == draw for d, _ in trained]].mean(0) for draw in draws])
    return Line(name, visits, values.mean(0), _std(values), main)


def classwise(done: Results) -> tuple[ClassScores, ...]:
    """Accuracy of each class for every set, where there is more than one class."""
    names = tuple(c.class_name for c in done.prepared.splits.train.classes)
    main, train = done.prepared.config.method, done.prepared.splits.train
    counts = tuple(zip(train.counts.tolist(), tested(done).tolist(), strict=True))
    return tuple(
        ClassScores(
            student,
            names,
            tuple(ClassSeries(n, np.mean([r.per_class for r in results], 0), n == main) for n, results in sets.items()),
            counts,
        )
        for student, sets in _results(done).items()
        if len(names) > 1
    )


def confusions(done: Results) -> tuple[Confusion, ...]:
    """Of the distilled set, over all training seeds of a student."""
    names = tuple(c.class_name for c in done.prepared.splits.train.classes)
    main = done.prepared.config.method
    matrices = []
    for student, sets in _results(done).items():
        counts = [np.array(r.confusion, np.float64) for r in sets.get(main, ()) if getattr(r, "confusion", None)]
        if counts:
            total = np.sum(counts, axis=0)
            matrices.append(Confusion(student, main, names, total / np.maximum(total.sum(1, keepdims=True), 1)))
    return tuple(matrices)


def embedding(done: Results) -> Embedding | None:
    """Real latents, evenly from all classes, and syntheses of the run's method in one plane."""
    p = done.prepared
    assert done.classes is not None
    classes = p.splits.train.classes
    each = max(1, REAL_SHOWN // len(classes))
    if len(classes) > REAL_SHOWN:
        return None
    real, real_class = [], []
    for class_index, table in done.classes.classes(["latent"]):
        rows = np.linspace(0, len(table) - 1, min(each, len(table))).astype(int)
        part = schemas.tensor_numpy(table.take(pa.array(rows))["latent"])
        real.append(part.reshape(len(part), -1).astype(np.float32))
        real_class += [class_index] * len(rows)
    syntheses = _syntheses(done, ["class_index", "latent"])
    z = schemas.tensor_numpy(syntheses["latent"])
    rows = np.linspace(0, len(z) - 1, min(MADE_SHOWN, len(z))).astype(int)
    z = z[rows].reshape(len(rows), -1).astype(np.float32)
    points, how = plane(np.concatenate(real), z)
    count = len(real_class)
    return Embedding(
        points[:count],
        np.array(real_class),
        points[count:],
        syntheses["class_index"].to_numpy()[rows],
        tuple(c.class_name for c in classes),
        how,
    )


def guidance(done: Results) -> tuple[GuidanceTrace, ...]:
    """The trace of the run's own method, mean and std over slots at each step."""
    traces = []
    for name, steps in _numbers(done).curves().items():
        if name in (CHOSEN, REJECTED):
            continue
        title, meaning = MEANINGS.get(name, (name, ""))
        if name.startswith("push "):
            title, meaning = f"Push of {name.removeprefix('push ')}", MEANINGS["push"][1]
        x = np.array([s for s, _ in steps], np.float64)
        mean, std = (np.array([getattr(value, of) for _, value in steps]) for of in ("mean", "std"))
        traces.append(GuidanceTrace(title, meaning, Line(name, x, mean, std, True)))
    return tuple(traces)


def ends(done: Results) -> tuple[GuidanceEnd, ...]:
    """Where the samples of the run's own method ended, mean and std over slots: their landing, and a flow's detour.

    Nothing of images that were picked: they have no trace.
    """
    counted = _numbers(done)
    if not counted.trace:
        return ()
    chosen, rejected = (counted.trace.get((name, 0)) for name in (CHOSEN, REJECTED))
    rows = [
        (
            "Landing",
            "distance of the result to its prototype, root mean square over the entries of a latent",
            counted.landing,
        ),
        ("Score of the chosen", "the current model's loss less omega times the reference's", chosen),
        ("Score of the rejected", "mean over the other candidates of a slot", rejected),
        (
            "Length of the way",
            "over the straight distance from noise to image; 1 = a straight line",
            counted.path_ratio,
        ),
    ]
    return tuple(GuidanceEnd(name, meaning, v.mean, v.std) for name, meaning, v in rows if v is not None)


def _numbers(done: Results) -> Numbers:
    """Of the run's own set; of a curriculum without its first increment, which another method made."""
    distilled = done.syntheses[done.prepared.config.method]
    if done.prepared.variants[0].growth is None:
        return distilled.numbers()
    return Numbers.pooled([numbers.of(part) for part in distilled.parts[1:]])


def _syntheses(done: Results, columns: list[str]) -> pa.Table:
    return done.syntheses[done.prepared.config.method].read(columns)


def _results(done: Results) -> dict[str, dict[str, list]]:
    """Finished results by student and set, in order of appearance."""
    by_student: dict[str, dict[str, list]] = {}
    for student, name, result in _scored(done):
        by_student.setdefault(student, {}).setdefault(name, []).append(result)
    return by_student


def _scored(done: Results) -> Iterator[tuple]:
    for t in done.trainings:
        result = score(t)
        if result is not None:
            yield t.student, t.set.name, result


def _std(values: np.ndarray) -> np.ndarray:
    return values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
