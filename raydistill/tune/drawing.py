"""The sets of candidates: those of a round are sampled at once; a full GPU halves the batch of whoever filled it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raydistill.config import Config, changed
from raydistill.errors import BadInput, OutOfMemory, RaydistillError, StageFailed
from raydistill.methods.resolve import Variant
from raydistill.pipeline import curriculum
from raydistill.pipeline.steps import Steps
from raydistill.pipeline.varied import varied
from raydistill.progress import say
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.runner import Stage
from raydistill.state import Prepared

OF_A_TRIAL = ("non-finite", "out of memory")  # in the line of a failure that ends the trial alone
BATCH = "sample.batch"


@dataclass(frozen=True)
class Candidate:
    """A name and the values that make it, by dotted keys; none for the configuration as it is. `number`: of a trial."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)
    number: int | None = None


@dataclass(frozen=True)
class Planned:
    """A candidate and a seed with what they come to. `batch`: what a full GPU has made of sample.batch."""

    candidate: Candidate
    seed: int
    prepared: Prepared
    stage: Stage  # which samples it, or its first increment
    batch: int | None

    @property
    def variant(self) -> Variant:
        return self.prepared.variants[0]


@dataclass(frozen=True)
class Drawn:
    """A candidate and a seed with their set."""

    candidate: Candidate
    seed: int
    prepared: Prepared
    ref: SetRef
    batch: int | None = None


@dataclass
class Drawing:
    """Draws the sets of candidates by `steps`; `config` is what they change."""

    config: Config
    steps: Steps

    def draw(self, candidates: Sequence[Candidate], seeds: Sequence[int]) -> tuple[list[Drawn], dict[str, str]]:
        """The sets, candidate by candidate, and by name why one has none. Raises what is no fault of a candidate."""
        drawn: dict[str, list[Drawn]] = {}
        failed: dict[str, str] = {}
        left: dict[str, int | None] = {c.name: None for c in candidates}
        while left:
            errors: dict[str, RaydistillError] = {}
            planned = [p for c in candidates if c.name in left for p in self._plans(c, seeds, left[c.name], errors)]
            self._sample(planned, errors)
            for p in planned:
                if p.candidate.name not in errors:
                    self._finish(p, drawn.setdefault(p.candidate.name, []), errors)
            again: dict[str, int | None] = {}
            for name, e in errors.items():
                drawn.pop(name, None)
                half = (left[name] or self.config.sample.batch) // 2
                if isinstance(e, OutOfMemory) and half:
                    say("tune", f"{name}: {e}; again with {BATCH}={half}")
                    again[name] = half
                elif of_a_trial(e):
                    failed[name] = str(e)
                else:
                    raise e
            left = again
        return [d for c in candidates for d in drawn.get(c.name, [])], failed

    def plan(self, candidate: Candidate, seed: int, batch: int | None = None) -> Planned:
        """Raises BadInput where its values contradict each other."""
        halved = {BATCH: batch} if batch else {}
        config = changed(self.config, {**candidate.values, **halved, "seed": self.config.seed + seed})
        p = varied(self.steps.prepared, config)
        v = p.variants[0]
        stage = self.steps.beside(p).sampling(v if v.growth is None else v.growth.first)
        return Planned(candidate, seed, p, stage, batch)

    def _plans(
        self, candidate: Candidate, seeds: Sequence[int], batch: int | None, errors: dict[str, RaydistillError]
    ) -> list[Planned]:
        try:
            return [self.plan(candidate, seed, batch) for seed in seeds]
        except (BadInput, StageFailed) as e:
            errors[candidate.name] = e
            return []

    def _sample(self, planned: Sequence[Planned], errors: dict[str, RaydistillError]) -> None:
        """All at once what actors sample: none of them waits while any set has batches left."""
        pooled = [p for p in planned if p.stage.style == "actors"]
        if pooled:
            for p, error in zip(pooled, self.steps.run_together([p.stage for p in pooled]), strict=True):
                if error is not None:
                    errors.setdefault(p.candidate.name, error)

    def _finish(self, p: Planned, drawn: list[Drawn], errors: dict[str, RaydistillError]) -> None:
        steps, v = self.steps.beside(p.prepared), p.variant
        try:
            images = steps.weighed(v) if v.growth is None else curriculum.grow(steps, v)[0]
        except (BadInput, StageFailed) as e:
            errors[p.candidate.name] = e
        else:
            drawn.append(Drawn(p.candidate, p.seed, p.prepared, SetRef.of(p.candidate.name, images), p.batch))


def of_a_trial(e: RaydistillError) -> bool:
    """Whether a failure ends a trial alone: contradictory values, samples that are not finite, too little memory."""
    return isinstance(e, BadInput) or (isinstance(e, StageFailed) and any(words in str(e) for words in OF_A_TRIAL))
