"""What is told of a training of weights while it goes on: a stage of steps, by `status` and on a page, as of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raydistill.config import load
from raydistill.distributed.pretrain.job import Reader
from raydistill.distributed.pretrain.loop import News
from raydistill.errors import BadInput, StageFailed
from raydistill.models.checkpoint import WORK
from raydistill.outlook import Outlook, StageNews
from raydistill.pipeline import weights
from raydistill.progress import listening
from raydistill.results import costs, news
from raydistill.results.status import status
from raydistill.store.claims import hold
from raydistill.store.location import Location

PLAN: Any = SimpleNamespace(
    target="generator", validate_every=50, config=SimpleNamespace(pretrain=SimpleNamespace(steps=100))
)


def heard(monkeypatch: pytest.MonkeyPatch, *posted: News | None) -> StageNews:
    """The stage of a training whose workers have posted this, one look after the other."""
    looks: Iterator[News | None] = iter(posted)
    monkeypatch.setattr("ray.get", lambda *_, **__: (next(looks), []))
    board: Any = SimpleNamespace(read=SimpleNamespace(remote=lambda _: None))
    outlook = Outlook()
    with listening(outlook), Reader(board, PLAN) as reader:
        for _ in posted:
            reader.probe()
        stages = list(outlook.stages)
    assert [s.state for s in stages] == ["working"]
    return outlook.stages[0]


def post(first: int, step: int) -> News:
    return News(first, step, 0.5, 10.0, None)


def test_a_training_is_a_stage_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = heard(monkeypatch, None, post(0, 1), post(0, 60), post(0, 100))
    assert (stage.stage, stage.unit, stage.total, stage.before) == ("pretrain generator", "steps", 100, 0)
    assert (stage.done, stage.state) == (100, "finished")


def test_steps_of_an_earlier_run_are_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = heard(monkeypatch, post(40, 41), post(40, 70))
    assert (stage.before, stage.done, stage.state) == (40, 30, "stopped")


def test_steps_that_are_made_again_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = heard(monkeypatch, post(0, 70), post(40, 41), post(40, 90))
    assert (stage.before, stage.done) == (0, 90)


def train(out: Path, monkeypatch: pytest.MonkeyPatch, ends: Any) -> None:
    """A training whose work is to tell of half of its steps, and then `ends`."""

    def work(config: Any) -> str:
        with hold(Location.of(str(out)) / WORK, "pretrain.out", "0" * 16, alone=True):
            heard(monkeypatch, post(0, 50))
            ends()
        return str(out)

    monkeypatch.setattr("raydistill.pipeline.weights.job.pretrain", work)
    weights.pretrain(load("quickstart", [f"pretrain.out={out}"]))


def test_one_that_stopped_is_known_by_where_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise StageFailed("pretrain: no place for 3 workers")

    with pytest.raises(StageFailed):
        train(tmp_path, monkeypatch, fails)
    text = status(str(tmp_path))
    assert (
        text.startswith(f"{tmp_path}: nobody is at work")
        and "it ended in pretrain generator; the same command goes on" in text
    )
    assert "50/100 steps" in text and "it ended with: StageFailed: pretrain: no place for 3 workers" in text
    assert "training of a generator" in (tmp_path / WORK / news.PAGE).read_text()


def test_one_at_work_is_told_of_also_where_another_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "training.json").write_text("{}")
    said: list[str] = []

    def looked_at() -> None:
        assert costs.read(Location.of(str(tmp_path)) / WORK) == {}, "only what came to its end is counted"
        said.append(status(str(tmp_path)))

    train(tmp_path, monkeypatch, looked_at)
    assert ": at work" in said[0]


def test_one_that_is_finished_says_what_it_is_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"objective": "flow", "steps": 3000, "train_seconds": 754.2, "final_loss": 0.12345}
    train(tmp_path, monkeypatch, lambda: (tmp_path / "training.json").write_text(json.dumps(record)))
    assert [p.name for p in tmp_path.iterdir()] == ["training.json"]
    said = f"{tmp_path}: a training of weights that is finished, flow, 3,000 steps, in 12m34s, loss 0.1235"
    assert status(str(tmp_path)) == said


ODD = '{"objective": 3, "steps": "many", "final_loss": -Infinity, "train_seconds": 1' + "0" * 400 + "}"


@pytest.mark.parametrize("text", ["", "[]", ODD, ODD.replace("-Infinity", "1e999")], ids=len)
def test_a_record_that_cannot_be_read_is_told_without_numbers(tmp_path: Path, text: str) -> None:
    (tmp_path / "training.json").write_text(text)
    assert status(str(tmp_path)) == f"{tmp_path}: a training of weights that is finished"


def test_a_home_is_found_where_the_training_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def work(config: Any) -> str:
        heard(monkeypatch, post(0, 50))
        raise StageFailed("later")

    monkeypatch.setattr("raydistill.pipeline.weights.job.pretrain", work)
    with pytest.raises(StageFailed):
        weights.pretrain(load("quickstart", ["pretrain.out=~/out"]))
    assert (tmp_path / "out" / WORK / news.NAME).exists() and not (tmp_path / "~").exists()


def test_what_is_refused_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    keys = [f"pretrain.out={out}", f"pretrain.init={tmp_path}", "pretrain.target=vae"]
    with pytest.raises(BadInput, match=r"pretrain\.init"):
        weights.pretrain(load("quickstart", keys))
    assert not out.exists()
