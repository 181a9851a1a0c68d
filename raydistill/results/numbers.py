"""result.json: flat numbers of a finished run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from raydistill.errors import StageFailed
from raydistill.methods.weighting import sample_size_a_class
from raydistill.metrics.ddranking import lrs
from raydistill.report.data import Difference
from raydistill.report.scores import FULL, RANDOM, TO_THE_END, ScoreRow
from raydistill.results import costs, increments
from raydistill.stages.evaluation import measure
from raydistill.stages.evaluation.trainer import Training, body, score
from raydistill.state import Results

STORED = ("images", "labels")  # of which a set takes bytes


def metrics(done: Results) -> dict[str, float]:
    """Flat metrics: accuracy/STUDENT/mean for the run's own set, accuracy/SET/STUDENT/mean for others; time/STAGE_s.

    accuracy/mean_over_students and accuracy/worst_student: of the run's own set, across the students. VALUE/SPACE of
    `metrics.names` for the run's own set, metrics/SET/VALUE/SPACE for others, and own_class_nearest/latent of what was
    made (metrics/own_class.py). All under metrics/SET/ are other sets'.
    """
    flat: dict[str, float] = {}
    rows = score_rows(done)
    accuracies = [s.last_mean for s in rows if s.main]
    if accuracies:
        flat |= {
            "accuracy/mean_over_students": round(sum(accuracies) / len(accuracies), 6),
            "accuracy/worst_student": min(accuracies),
        }
    for s in rows:
        prefix = f"accuracy/{s.student}" if s.main else f"accuracy/{s.set.replace(' ', '_')}/{s.student}"
        values = {
            "mean": s.last_mean,
            "std": s.last_std,
            "best_mean": s.best_mean,
            "best_std": s.best_std,
            "balanced_mean": s.balanced_mean,
            "balanced_std": s.balanced_std,
        }
        flat |= {f"{prefix}/{k}": v for k, v in values.items() if v is not None}
    if done.teaching is None:
        flat |= label_robust(rows)
    for name, sealed in done.measured.items():
        flat |= {f"{key_prefix(done, name)}{value}": n for value, n in measure.values(sealed).items()}
    for name, check in done.checks.items():
        flat[f"{key_prefix(done, name)}own_class_nearest/latent"] = round(check.share, 6)
    for name in done.syntheses:
        if (size := sample_size(done, name)) is not None:
            flat[f"{key_prefix(done, name)}effective_sample_size"] = round(size, 6)
    flat |= increments.numbers(done)
    flat |= network_calls(done)
    flat |= storage(done)
    if done.teaching is not None:
        flat["teacher/accuracy"] = done.teaching.accuracy
    for name, cost in sorted(costs.read(done.prepared.run.root).items()):
        flat[f"time/{name.replace(' ', '_')}_s"] = cost.seconds
    return finite(json.loads(json.dumps(flat)))


def tested(done: Results) -> np.ndarray:
    """Images per class, (classes,) int64, that students were tested on: those of the test split that can be used."""
    for t in done.trainings:
        finished = score(t)
        if finished is not None and finished.tested is not None:
            return np.array(finished.tested)
    return done.prepared.splits.test.counts


def finite(flat: dict[str, float]) -> dict[str, float]:
    """The numbers as they are. Raises StageFailed for one that JSON cannot hold, by its name."""
    for name, value in flat.items():
        if not math.isfinite(value):
            raise StageFailed(
                f"report: {name} is {value}, and result.json holds finite numbers alone; mend what it is made of (a "
                "metric, a student or weights of your own), or leave that out"
            )
    return flat


def sample_size(done: Results, name: str) -> float | None:
    """(sum w)^2 / sum w^2 of a set whose images weigh unequally, its mean over the classes; a folder's by its own
    weights. None where the images of each class weigh the same, whatever that is."""
    distilled, judged = done.syntheses[name], done.prepared.judged
    if judged is None or name != judged.name:
        size, classes = distilled.effective_sample_size, len(done.prepared.splits.train.classes)
    else:
        labels = judged.listing.labels
        size = distilled.effective_sample_size or sample_size_a_class(judged.weights, labels)
        classes = len(np.unique(labels))
    even = size is None or math.isclose(size, distilled.rows / classes, rel_tol=1e-9)
    return None if even else size


def key_prefix(done: Results, name: str) -> str:
    """What stands before the numbers of a set: nothing for the run's own."""
    return "" if name == done.prepared.config.method else f"metrics/{name.replace(' ', '_')}/"


def label_robust(rows: Sequence[ScoreRow]) -> dict[str, float]:
    """hlr, ior and lrs of DD-Ranking (docs/metrics.md) for students trained on the set, random images and all of them,
    to the end where that was done.

    Under hard labels, where a set's own labels are hard ones: the two accuracies of the set are one.
    """
    last = {(s.student, "main" if s.main else s.set): s.last_mean for s in rows}
    flat: dict[str, float] = {}
    for student in dict.fromkeys(s.student for s in rows):
        main, random = (last.get((student, name)) for name in ("main", RANDOM))
        full = last.get((student, TO_THE_END), last.get((student, FULL)))
        if main is not None and random is not None and full is not None:
            flat |= {f"{name}/{student}": round(v, 6) for name, v in lrs(full, main, main, random).items()}
    return flat


def network_calls(done: Results) -> dict[str, float]:
    """network_calls of the run's own set, metrics/SET/network_calls of others: mean over images, of what is generated.

    The doubled batch of classifier-free guidance is one call.
    """
    flat: dict[str, float] = {}
    for v in done.prepared.variants:
        distilled = done.syntheses.get(v.config.method)
        if distilled is None or not v.method.generates:
            continue
        main = v.config.method == done.prepared.config.method
        calls = distilled.numbers().nfe.mean / (1 if v.config.sampler.cfg_scale == 1 else 2)
        flat["network_calls" if main else f"metrics/{v.config.method}/network_calls"] = round(calls, 6)
    return flat


def of_sets(done: Results, flat: Mapping[str, float]) -> list[tuple[str, str, bool, dict[str, float]]]:
    """Each generated set as `report.calls.charts` wants it: name, line, whether it is the run's own, its numbers."""
    sets = []
    for v in done.prepared.variants:
        name, main = v.config.method, v.config.method == done.prepared.config.method
        values = dict(flat)
        if not main:  # by the names that they have in a run of their own
            values = {k.replace(f"/{name}", "", 1): n for k, n in flat.items() if k.startswith(f"accuracy/{name}/")}
            values |= {
                k.removeprefix(f"metrics/{name}/"): n for k, n in flat.items() if k.startswith(f"metrics/{name}/")
            }
        sets.append((name, name, main, values))
    return sets


def storage(done: Results) -> dict[str, float]:
    """images/bytes and labels/bytes of the run's own set, metrics/SET/images/bytes of others: encoded images, and the
    soft labels stored with them; of the set of the run's own seed."""
    flat: dict[str, float] = {}
    for s in score_rows(done):
        if s.stored is not None:
            flat |= {f"{key_prefix(done, s.set)}{kind}/bytes": n for kind, n in zip(STORED, s.stored, strict=True)}
    return flat


def difference_numbers(differences: Sequence[Difference]) -> dict[str, float]:
    """difference/A/B/STUDENT/KEY of each pair of sets, A minus B; difference/A/B/STUDENT/balanced/KEY over classes."""
    flat: dict[str, float] = {}
    for d in differences:
        names = [d.a.replace(" ", "_"), d.b.replace(" ", "_"), d.student]
        prefix = "/".join(["difference", *names, *(["balanced"] if d.measure == "balanced" else [])])
        values = {k: v for k, v in vars(d).items() if k not in ("a", "b", "student", "measure") and v is not None}
        flat |= {f"{prefix}/{k}": round(v, 6) for k, v in values.items()}
    return flat


def score_rows(done: Results) -> list[ScoreRow]:
    """One row a set and student: the last, best and balanced accuracy, over the draws of the set and its trainings."""
    rows: dict[tuple[str, str], dict[str, list[tuple[float, float, float]]]] = {}
    first: dict[tuple[str, str], Training] = {}
    for t in done.trainings:
        result = score(t)
        if result is not None:
            draws = rows.setdefault((t.set.name, t.student), {})  # seeds that made the same images are one draw
            draws.setdefault(t.set.digest, []).append((result.last, result.best, result.balanced))
            first.setdefault((t.set.name, t.student), t)
    scores = []
    for (name, student), draws in rows.items():
        units = [np.mean(v, axis=0) for v in draws.values()] if len(draws) > 1 else next(iter(draws.values()))
        last, best, balanced = (_mean_std(np.array(values)) for values in zip(*units, strict=True))
        main, count = name == done.prepared.config.method, sum(map(len, draws.values()))
        of = first[name, student]
        row = ScoreRow(name, student, count, *last, *best, of.set.images, main, *balanced, len(draws))
        scores.append(replace(row, visits=of.recipe.visits, stored=_stored(of)))
    return scores


def _stored(t: Training) -> tuple[int, int] | None:
    """Bytes of the images, and of the soft labels that are stored with them."""
    images, labels = ((body(t) or {}).get("bytes", {}).get(kind) for kind in STORED)
    return None if images is None or labels is None else (images, labels)


def _mean_std(values: np.ndarray) -> tuple[float, float | None]:
    """Mean and sample standard deviation (None for one value, which has none), rounded to 6 digits."""
    return round(float(values.mean()), 6), round(float(values.std(ddof=1)), 6) if len(values) > 1 else None
