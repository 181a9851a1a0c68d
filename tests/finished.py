"""A finished run of the command line that starts no Ray: stages and trainings run in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from newsfiles import is_news
from running import TINY

from raydistill import cli
from raydistill.distributed import executors, students
from raydistill.stages import runner
from raydistill.stages.evaluation import trainer


@contextmanager
def without_ray() -> Iterator[None]:
    """Whatever has work left is done here, one unit after the other."""

    def fit(job: trainer.Job, *_: Any) -> None:
        worker = trainer.StudentTrainer(job, torch.device("cpu"), "cpu")
        for training in job.trainings:
            worker.run(training)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executors, "on_ray", lambda config, keep: runner.serial)
        patch.setattr(students, "fit", fit)
        yield


def distill(run: Path) -> int:
    """Exit code of the command that makes the run, or finds it finished."""
    with without_ray():
        return cli.main(["distill", *TINY, f"run_dir={run}"])


def files(root: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative path, but for those that nothing reads back."""
    names = (p for p in sorted(root.rglob("*")) if p.is_file() and not is_news(p))
    return {str(p.relative_to(root)): p.read_bytes() for p in names}
