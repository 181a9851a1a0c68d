"""What is measured of candidates: sets drawn by several seeds, and students trained on them, all that is equal once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raydistill.config import Config, changed
from raydistill.errors import BadInput, StageFailed
from raydistill.evaluation.score import Score
from raydistill.pipeline import curriculum
from raydistill.pipeline.steps import Steps
from raydistill.pipeline.varied import varied
from raydistill.results.pairing import TrainingOutcome
from raydistill.stages.evaluation import measure
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainer import Training, body
from raydistill.state import Prepared
from raydistill.tune.study import fit_of

OF_A_TRIAL = ("non-finite", "out of memory")  # in the line of a failure that ends the trial alone


@dataclass(frozen=True)
class Candidate:
    """A name and the values that make it, by dotted keys; none for the configuration as it is."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """What came of a candidate: every training, network calls an image (0 for real images), and metrics, means over
    seeds. Or `failed`: why there is nothing."""

    candidate: Candidate
    outcomes: tuple[TrainingOutcome, ...] = ()
    calls: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    failed: str = ""


@dataclass(frozen=True)
class _Drawn:
    """The set of a candidate and a seed."""

    candidate: Candidate
    seed: int
    prepared: Prepared
    ref: SetRef


class Trials:
    """Measures candidates on the images that `steps` are of. `config` is what they change, nothing in it resolved.

    A seed draws the set and the student's start and order of data: the same for every candidate.
    """

    def __init__(self, config: Config, steps: Steps, metrics: bool = False) -> None:
        self.config, self.steps, self.metrics = config, steps, metrics

    def measure(self, candidates: Sequence[Candidate], seeds: Sequence[int]) -> list[Measurement]:
        """In their order. Raises StageFailed for what is no fault of a candidate."""
        drawn: list[_Drawn] = []
        failed: dict[str, str] = {}
        for c in candidates:
            try:
                drawn += [self._draw(c, seed) for seed in seeds]
            except (BadInput, StageFailed) as e:
                if isinstance(e, StageFailed) and not any(words in str(e) for words in OF_A_TRIAL):
                    raise
                failed[c.name] = str(e)
        trained = dict(self._trained(drawn))
        return [
            Measurement(c, failed=failed[c.name])
            if c.name in failed
            else self._measured(c, [(d, trained[c.name, d.seed]) for d in drawn if d.candidate.name == c.name])
            for c in candidates
        ]

    def _draw(self, candidate: Candidate, seed: int) -> _Drawn:
        config = changed(self.config, {**candidate.values, "seed": self.config.seed + seed})
        p = varied(self.steps.prepared, config)
        steps, v = self.steps.beside(p), p.variants[0]
        distilled = steps.weighed(v) if v.growth is None else curriculum.grow(steps, v)[0]
        return _Drawn(candidate, seed, p, SetRef.of(candidate.name, distilled))

    def _trained(self, drawn: Sequence[_Drawn]) -> Iterator[tuple[tuple[str, int], list[Training]]]:
        """By candidate and seed; a fit for all whose students are trained alike."""
        fits: dict[str, list[_Drawn]] = {}
        for d in drawn:
            fits.setdefault(fit_of(d.prepared.config), []).append(d)
        for fit in fits.values():
            every = self.steps.beside(fit[0].prepared).paired([(d.ref, d.seed) for d in fit])
            for d, of_set in zip(fit, every, strict=True):
                yield (d.candidate.name, d.seed), of_set

    def _measured(self, candidate: Candidate, sets: Sequence[tuple[_Drawn, list[Training]]]) -> Measurement:
        outcomes = tuple(_outcome(d, t) for d, of_set in sets for t in of_set)
        calls = [_calls(d) for d, _ in sets]
        rows = [measure.values(self.steps.beside(d.prepared).measured(d.ref)) for d, _ in sets] if self.metrics else []
        names = set.intersection(*map(set, rows)) if rows else set()
        means = {name: sum(r[name] for r in rows) / len(rows) for name in sorted(names)}
        return Measurement(candidate, outcomes, sum(calls) / len(calls), means)


def _outcome(d: _Drawn, t: Training) -> TrainingOutcome:
    committed = body(t)
    assert committed is not None, "its manifest was sealed"
    score = Score.of(committed)
    return TrainingOutcome(
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


def _calls(d: _Drawn) -> float:
    """Network calls an image; the doubled batch of classifier-free guidance is one."""
    v = d.prepared.variants[0]
    if not v.method.generates:
        return 0.0
    assert d.ref.distilled is not None
    return d.ref.distilled.numbers().nfe.mean / (1 if v.config.sampler.cfg_scale == 1 else 2)
