"""How many workers the next fit of students has, by what the cluster has by then. No Ray: its numbers are pretended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from tiny_run import TinyRun, config
from torch import nn

from raydistill.distributed import leaving, runtime
from raydistill.distributed.attempts import ATTEMPTS
from raydistill.distributed.fits import Unplaced
from raydistill.distributed.student_watch import Watch
from raydistill.errors import StageFailed
from raydistill.progress import Progress
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainer import KEY, Job
from raydistill.stages.evaluation.trainings import everything

LOST, DIED = Unplaced(died=False), Unplaced(died=True)


class Pretended:
    """A cluster that was joined, and the watch over six trainings on it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
        self.cpus = 0.0
        monkeypatch.setattr(runtime, "_local", False)
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": self.cpus})
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}] * 3)
        monkeypatch.setattr(leaving, "PROBED_EVERY_S", 1e9)  # asks nobody
        tiny = TinyRun(folder)
        asked = config(evaluate={"seeds": 6, "workers": workers})
        whole = SetRef("full data", tiny.train.digest, len(tiny.train), None)
        every = everything(asked, tiny.run, [whole], tiny.test, None, tiny.train)
        logs, checkpoints = tiny.run.root / "logs", tiny.run.root / "checkpoints"
        self.job = Job(tuple(every), asked.source, tiny.train, tiny.test, asked.evaluate, logs, checkpoints)
        self.watch = Watch(self.job, Progress("evaluate", "trainings", len(every)))
        self.watch.leaving.probed_at = 1e9

    def begins(self, cpus: float) -> int:
        self.cpus = cpus
        self.watch.begin(self.job)
        return self.watch.workers

    def resized(self, cpus: float, unplaced: Unplaced | None) -> int:
        self.cpus = cpus
        self.watch.resize(unplaced)
        return self.watch.workers


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda workers=0: Pretended(tmp_path, monkeypatch, workers)


def test_as_many_as_there_is_room_for_go_on(pretended: Any, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = pretended()
    assert [cluster.begins(5.0), cluster.resized(3.0, LOST), cluster.resized(0.0, LOST)] == [4, 2, 1]
    assert cluster.resized(5.0, None) == 4
    said = capsys.readouterr().err
    assert "the cluster has lost places: 6 trainings are left to 2 workers instead of 4" in said
    assert "the cluster has grown: 6 trainings are left to 4 workers instead of 1" in said


def test_a_number_that_was_asked_for_is_waited_for_until_it_was_there_once(pretended: Any) -> None:
    cluster = pretended(4)
    assert [cluster.begins(0.0), cluster.resized(2.0, LOST)] == [4, 4]
    assert [cluster.begins(4.0), cluster.resized(3.0, LOST), cluster.resized(9.0, None)] == [4, 2, 4]


def test_workers_that_keep_dying_as_they_start_end_the_run(pretended: Any) -> None:
    cluster = pretended()
    assert cluster.begins(3.0) == 2
    for _ in range(ATTEMPTS - 1):
        assert cluster.resized(3.0, DIED) == 2
    with pytest.raises(StageFailed, match="evaluate: a worker failed"):
        cluster.resized(3.0, DIED)


def test_machines_that_go_without_a_word_end_nothing_while_something_is_kept(
    pretended: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray Train gives up at the fourth loss of a fit, however much was finished in between."""
    cluster, lost = pretended(), RuntimeError("the actor died unexpectedly before finishing this task")
    assert cluster.begins(3.0) == 2
    state = cluster.watch.open[0].state(cluster.job.checkpoints)
    assert not cluster.watch.outlives(lost), "nothing was kept"
    state.save(1, {})
    assert cluster.watch.outlives(lost) and cluster.watch.lost
    assert "workers were lost 4 times; what they kept meanwhile is gone on with" in capsys.readouterr().err
    assert cluster.begins(3.0) == 2 and not cluster.watch.lost
    assert not cluster.watch.outlives(lost), "nothing more was kept"
    state.save(2, {})
    assert not cluster.watch.outlives(StageFailed("loss is not finite")), "what a worker raises comes again"


def test_a_training_whose_weights_are_kept_is_done_with_them(pretended: Any) -> None:
    """Its score may be committed by a run that kept none."""
    cluster = pretended()
    cluster.begins(3.0)
    for number, t in enumerate(cluster.job.trainings):
        if number < 2:
            t.artifact.commit(KEY, b"{}", rows=1, device="cpu", ext="json")
        if number < 1:
            t.checkpoint(cluster.job.checkpoints).write(nn.Linear(1, 1), {}, "cpu")
    assert [cluster.job.done(t) for t in cluster.job.trainings] == [True, True, False, False, False, False]
    keeping = replace(cluster.job, evaluate=cluster.job.evaluate.model_copy(update={"keep_weights": True}))
    cluster.watch.begin(keeping)
    cluster.watch.probe()
    assert cluster.watch.open == list(keeping.trainings[1:])
