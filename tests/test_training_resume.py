"""A training that is interrupted continues at its last test and ends with the bits of an undisturbed one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_evaluation import CPU, images, recipe
from torch import Tensor, nn

from raydistill import registry
from raydistill.evaluation.recipe import Recipe
from raydistill.evaluation.score import Score
from raydistill.evaluation.train import Student, train_student
from raydistill.stages.evaluation.checkpoint import TrainingState
from raydistill.store import faults
from raydistill.store.location import Location

FULL = {"crop_scale": 0.5, "flip": True, "cutmix": 0.5, "jitter": 0.4, "lighting": 0.1, "patches": 2}


class Drops(nn.Module):
    """A student with everything that a state could forget: batch statistics, and a draw a step."""

    def __init__(self, classes: int, image_size: int, width: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        self.layers = nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(4 * width, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture
def drops() -> Any:
    registry._entries["student"]["drops"] = Drops
    yield
    del registry._entries["student"]["drops"]


class Stopped(BaseException):
    pass


def go(student: str, r: Recipe, state: TrainingState | None = None) -> tuple[Score, dict[str, Tensor]]:
    score, net = train_student(
        Student(student, 8, 2, 3), r, images(40, contrast=6.0), images(60, 2, 9, 6.0), CPU, keeper=state
    )
    return score, net.state_dict()


def stop_at(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def hook(stage: str, point: str, key: str) -> None:
        if (stage, key) == ("training", step):
            raise Stopped

    monkeypatch.setattr(faults, "hook", hook)


@pytest.mark.parametrize("student", ["convnet", "convnet_bn", "drops"])
@pytest.mark.parametrize("more", [{}, {"name": "rded", "bn_pass": True}])
@pytest.mark.parametrize("test", [0, 2])
def test_it_ends_as_an_undisturbed_one(
    student: str, more: dict[str, Any], test: int, drops: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SGD and AdamW, in the middle of an epoch; the state is gone through a file."""
    r = hard_labels(recipe(visits=260, evaluations=4, **{**FULL, **more}))
    undisturbed, weights = go(student, r)
    state = TrainingState(Location.of(str(tmp_path / "state")))
    steps = [5, 10, 15]  # of 20, three an epoch
    stop_at(str(steps[test]), monkeypatch)
    with pytest.raises(Stopped):
        go(student, r, state)
    monkeypatch.setattr(faults, "hook", None)
    kept = state.load()
    assert kept is not None and kept["found"]["step"] == steps[test]
    score, resumed = go(student, r, state)
    assert score == undisturbed
    assert all(torch.equal(resumed[k], weights[k]) for k in weights) and len(resumed) == len(weights)


def hard_labels(r: Recipe) -> Recipe:
    return replace(r, labels="hard", temperature=1.0, tested_from=0.0)


def test_a_torn_state_is_passed_over(tmp_path: Path) -> None:
    state = TrainingState(Location.of(str(tmp_path)))
    state.save(5, {"step": 5})
    whole = next(tmp_path.iterdir())
    (tmp_path / whole.name.replace("step-000000005", "step-000000009")).write_bytes(whole.read_bytes()[:-7])
    assert state.load() == {"step": 5}
    whole.write_bytes(b"x" + whole.read_bytes()[1:])
    assert state.load() is None


def test_only_the_latest_state_is_kept_and_then_none(tmp_path: Path) -> None:
    state = TrainingState(Location.of(str(tmp_path / "state")))
    for step in (5, 10, 15):
        state.save(step, {"step": step})
    assert len(list((tmp_path / "state").iterdir())) == 1 and state.load() == {"step": 15}
    state.forget()
    assert list(tmp_path.iterdir()) == [] and state.load() is None
    state.forget()


def test_the_extra_pass_moves_the_statistics_twice_a_step(drops: None) -> None:
    counts = []
    for on in (False, True):
        r = hard_labels(recipe(visits=80, evaluations=1, name="rded", bn_pass=on))
        counts.append(int(go("drops", r)[1]["layers.1.num_batches_tracked"]))
    assert counts == [6, 12]
