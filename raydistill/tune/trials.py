"""What is measured of candidates: sets drawn by several seeds, and students trained on them, all that is equal once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from raydistill.config import Config
from raydistill.errors import OutOfMemory
from raydistill.evaluation.score import Score
from raydistill.pipeline.steps import Steps
from raydistill.results.pairing import TrainingOutcome
from raydistill.stages.evaluation import measure
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainer import Training, body, curve
from raydistill.tune.drawing import Candidate, Drawing, Drawn
from raydistill.tune.study import fit_of

if TYPE_CHECKING:
    from raydistill.planning.pace import Pace

Key = tuple[str, int]  # the name of a candidate, and a seed
Curve = Sequence[tuple[int, float]]  # image visits and accuracy of each test


@dataclass(frozen=True)
class Measurement:
    """What came of a candidate: every training, network calls an image (0 for real images), planned seconds an image (0
    if nobody wants to know), and metrics, means over seeds. Or `failed`: why there is nothing.

    `stopped`: after how many tests, of a trial that was not trained to the end; its outcomes are the accuracies of that
    test. `visits` of its trainings, and what they are `in_full`. `curves`: of each student (visits, top-1) at every
    test, the mean over seeds. `ref`: its set of the first seed. `batch`: what a full GPU has made of sample.batch.
    """

    candidate: Candidate
    outcomes: tuple[TrainingOutcome, ...] = ()
    calls: float = 0.0
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    failed: str = ""
    stopped: int = 0
    visits: int = 0
    in_full: int = 0
    curves: Mapping[str, Curve] = field(default_factory=dict)
    ref: SetRef | None = None
    batch: int | None = None


class Stopping(Protocol):
    """Who decides at each rung, a number of tests, which trials go no further, by their numbers."""

    rungs: tuple[int, ...]

    def stopped(self, rung: int, values: Mapping[int, float]) -> set[int]: ...


@dataclass(frozen=True)
class _Trained:
    """What came of one training, and how many images it saw of how many."""

    outcome: TrainingOutcome
    curve: Curve
    visits: int
    in_full: int


class Trials:
    """Measures candidates on the images that `steps` are of. `config` is what they change, nothing in it resolved.

    A seed draws the set and the student's start and order of data: the same for every candidate. By `pace` the seconds
    are planned.
    """

    def __init__(self, config: Config, steps: Steps, metrics: bool = False, pace: Pace | None = None) -> None:
        self.steps, self.metrics, self.pace = steps, metrics, pace
        self.drawing = Drawing(config, steps)

    def measure(
        self, candidates: Sequence[Candidate], seeds: Sequence[int], stopping: Stopping | None = None
    ) -> list[Measurement]:
        """In their order; trials as far as `stopping` lets them. Raises StageFailed where none is at fault."""
        drawn, failed = self.drawing.draw(candidates, seeds)
        trained: dict[Key, list[_Trained]] = {}
        stopped: dict[str, int] = {}
        for rung in stopping.rungs if stopping else ():
            assert stopping is not None
            tested = [d for d in drawn if d.candidate.number is not None and d.candidate.name not in stopped]
            at_rung = dict(self._fits(tested, failed, rung))
            names = {d.candidate.number: d.candidate.name for d in tested if d.candidate.name not in failed}
            lost = stopping.stopped(rung, {n or 0: _mean(at_rung, name) for n, name in names.items()})
            stopped |= {names[number]: rung for number in lost}
            trained |= {key: t for key, t in at_rung.items() if stopped.get(key[0]) == rung}
        whole = [d for d in drawn if d.candidate.name not in stopped and d.candidate.name not in failed]
        trained |= dict(self._fits(whole, failed))
        return [
            Measurement(c, failed=failed[c.name])
            if c.name in failed
            else self._measured([(d, trained[_key(d)]) for d in drawn if d.candidate == c], stopped.get(c.name, 0))
            for c in candidates
        ]

    def _fits(
        self, drawn: Sequence[Drawn], failed: dict[str, str], rung: int = 0
    ) -> Iterator[tuple[Key, list[_Trained]]]:
        """Trains to the end or to a rung, in a fit for all whose students are trained alike.

        If that is too much for a GPU, each candidate has a fit of its own, and whoever fills it is among the `failed`.
        """
        fits: dict[str, list[Drawn]] = {}
        for d in drawn:
            fits.setdefault(fit_of(d.prepared.config), []).append(d)
        for fit in fits.values():
            names = list(dict.fromkeys(d.candidate.name for d in fit))
            try:
                yield from self._fit(fit, rung)
            except OutOfMemory as e:
                if len(names) == 1:
                    failed[names[0]] = str(e)
                    continue
                for name in names:
                    yield from self._fits([d for d in fit if d.candidate.name == name], failed, rung)

    def _fit(self, fit: Sequence[Drawn], rung: int) -> list[tuple[Key, list[_Trained]]]:
        steps, sets = self.steps.beside(fit[0].prepared), [(d.ref, d.seed) for d in fit]
        if not rung:
            return [
                (_key(d), [_whole(d, t) for t in of_set]) for d, of_set in zip(fit, steps.paired(sets), strict=True)
            ]
        return [
            (_key(d), [_partial(d, t, curve(t, to)) for t, to in of_set])
            for d, of_set in zip(fit, steps.rungs(sets, rung), strict=True)
        ]

    def _measured(self, sets: Sequence[tuple[Drawn, list[_Trained]]], stopped: int) -> Measurement:
        trained = [t for _, of_set in sets for t in of_set]
        drawn = [d for d, _ in sets]
        requested = drawn if self.metrics else []
        rows = [measure.values(self.steps.beside(d.prepared).measured(d.ref)) for d in requested]
        names = set.intersection(*map(set, rows)) if rows else set()
        return Measurement(
            drawn[0].candidate,
            tuple(t.outcome for t in trained),
            sum(map(_calls, drawn)) / len(drawn),
            0.0 if self.pace is None else sum(self.pace.seconds(d.prepared, _nfe(d)) for d in drawn) / len(drawn),
            {name: sum(r[name] for r in rows) / len(rows) for name in sorted(names)},
            stopped=stopped,
            visits=sum(t.visits for t in trained),
            in_full=sum(t.in_full for t in trained),
            curves=_curves(trained),
            ref=drawn[0].ref,
            batch=drawn[0].batch,
        )


def _key(d: Drawn) -> Key:
    return d.candidate.name, d.seed


def _mean(trained: Mapping[Key, Sequence[_Trained]], name: str) -> float:
    """Top-1 accuracy of a candidate, the mean over its seeds and students."""
    values = [t.outcome.top1 for (of, _), ts in trained.items() if of == name for t in ts]
    return sum(values) / len(values)


def _whole(d: Drawn, t: Training) -> _Trained:
    committed = body(t)
    assert committed is not None, "its manifest was sealed"
    score = Score.of(committed)
    outcome = TrainingOutcome(
        set=d.candidate.name,
        digest=d.ref.digest,
        student=t.student,
        generation=d.seed,
        training=d.seed,
        top1=score.last,
        balanced=score.balanced,
        test=committed["test"],
        answers=score.answers(),
    )
    return _Trained(outcome, score.curve, t.recipe.visits, t.recipe.visits)


def _partial(d: Drawn, t: Training, curve: Curve) -> _Trained:
    """At a rung nobody keeps answers: accuracy is over images there, also where classes are uneven."""
    visits, top1 = curve[-1]
    outcome = TrainingOutcome(d.candidate.name, d.ref.digest, t.student, d.seed, d.seed, top1, top1)
    return _Trained(outcome, curve, visits, t.recipe.visits)


def _curves(trained: Sequence[_Trained]) -> dict[str, Curve]:
    """By student; trainings of one student are tested after the same visits."""
    of_student: dict[str, list[Curve]] = {}
    for t in trained:
        of_student.setdefault(t.outcome.student, []).append(t.curve)
    return {
        student: [(tests[0][0], sum(top1 for _, top1 in tests) / len(tests)) for tests in zip(*curves, strict=True)]
        for student, curves in of_student.items()
    }


def _calls(d: Drawn) -> float:
    """Network calls an image; the doubled batch of classifier-free guidance is one."""
    return _nfe(d) / (1 if d.prepared.config.sampler.cfg_scale == 1 else 2)


def _nfe(d: Drawn) -> float:
    """Network calls an image, of which such a doubled batch is two."""
    if not d.prepared.variants[0].method.generates:
        return 0.0
    assert d.ref.distilled is not None
    return d.ref.distilled.numbers().nfe.mean
