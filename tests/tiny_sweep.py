"""A sweep so small that it can be stopped anywhere: two classes of digits, two sampler steps, no Ray.

Ray Tune's searchers suggest as in a real one; only its trials, which do nothing but wait, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
from tiny_run import few

from raydistill.config import Config
from raydistill.distributed import search, students
from raydistill.distributed.search import FAILED, Proposal, Rounds
from raydistill.pipeline import preflight, steps
from raydistill.stages.evaluation.trainer import Job, StudentTrainer
from raydistill.stages.runner import one_by_one, serial
from raydistill.state import Prepared
from raydistill.tune import sweep
from raydistill.tune.trials import Trials


def config(run_dir: Path, space: dict[str, Any], **tune: Any) -> Config:
    few = {"samples": 6, "seeds": 2, "together": 2, "finalists": 2, "final_seeds": 2}
    return tiny_run.config(run_dir=str(run_dir), tune={**few, "space": space, **tune})


@contextmanager
def searched(inner: Any, width: int, total: int, measure: Callable[..., Any], *_: Any) -> Iterator[None]:
    """`search.searched` without Ray: the rounds are the real ones."""
    rounds = Rounds(inner, width, total)
    number = 0
    while rounds.suggested < total:
        proposals: list[Proposal] = []
        while rounds.full.empty():
            rounds.suggest(str(number))
            number += 1
        proposals = rounds.full.get()
        results: Sequence[dict[str, Any]] = measure(proposals)
        rounds.measured |= {p.trial_id: r for p, r in zip(proposals, results, strict=True)}
        for p, result in sorted(zip(proposals, results, strict=True), key=lambda r: -r[0].number):  # out of step
            rounds.on_trial_complete(p.trial_id, dict(result), error=FAILED in result)
    yield


def fit(job: Job, *_: Any) -> None:
    """`students.fit` in this process."""
    trainer = StudentTrainer(job, torch.device("cpu"), "cpu")
    for t in job.trainings:
        trainer.run(t)


def few_images(config: Config) -> Prepared:
    """`preflight.prepare` on some of the images."""
    p = preflight.prepare(config)
    return replace(p, splits=replace(p.splits, train=few(p.splits.train, 24), test=few(p.splits.test, 16)))


def without_ray(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list that gets the number of trainings of every fit."""
    fits: list[int] = []

    def counted(job: Job, *rest: Any) -> None:
        fits.append(len(job.trainings))
        fit(job, *rest)

    monkeypatch.setattr(sweep, "prepare", few_images)
    monkeypatch.setattr(steps, "on_ray", lambda p, nodes: serial)
    monkeypatch.setattr(steps, "together_on_ray", lambda p, nodes: one_by_one(serial))
    monkeypatch.setattr(students, "fit", counted)
    monkeypatch.setattr(search, "searched", searched)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")  # so that nothing is tracked in the current folder
    return fits


def killed_in_round(number: int, start: Callable[[], object]) -> None:
    """Starts a sweep that is killed as it begins to measure that round, counted from 1."""
    real, rounds = Trials.measure, [0]

    def measure(self: Trials, *rest: Any) -> Any:
        rounds[0] += 1
        if rounds[0] == number:
            raise KeyboardInterrupt
        return real(self, *rest)

    with pytest.MonkeyPatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(Trials, "measure", measure)
        start()
