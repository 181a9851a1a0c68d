"""What searchers suggest: against a known quadratic, in rounds, and the same again, with and without Ray's trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_sweep import searched

from raydistill.config import RayConfig
from raydistill.distributed import search
from raydistill.distributed.search import FAILED, Kind, Listed, Proposal
from raydistill.store.location import Location
from raydistill.tune.objectives import front

ONE = {"accuracy": "max"}


def square(trial: Any) -> None:
    trial.suggest_float("x", -1.0, 1.0)
    trial.suggest_float("y", -1.0, 1.0)


class Bowl:
    """-(x - 0.3)^2 - (y + 0.6)^2, whose best is 0; every seventh trial has none. Keeps the rounds."""

    def __init__(self) -> None:
        self.rounds: list[list[tuple[float, float]]] = []
        self.best = -10.0

    def __call__(self, proposals: Sequence[Proposal]) -> list[dict[str, Any]]:
        self.rounds.append([(p.values["x"], p.values["y"]) for p in proposals])
        results: list[dict[str, Any]] = []
        for p, (x, y) in zip(proposals, self.rounds[-1], strict=True):
            value = -((x - 0.3) ** 2) - (y + 0.6) ** 2
            if p.number % 7 == 6:
                results.append({FAILED: "non-finite"})
                continue
            self.best = max(self.best, value)
            results.append({"accuracy": value, "network_calls": abs(x)})
        return results


def suggested(kind: Kind, seed: int, samples: int = 40, ways: Any = ONE) -> Bowl:
    bowl = Bowl()
    with searched(search.optunas(kind, square, ways, seed, samples), 4, samples, bowl):
        pass
    return bowl


def test_tpe_comes_nearer_than_random_draws() -> None:
    nearest = {kind: [-suggested(kind, seed).best for seed in range(8)] for kind in ("tpe", "random")}  # type: ignore[arg-type]
    wins = sum(t < r for t, r in zip(nearest["tpe"], nearest["random"], strict=True))
    assert wins >= 6 and sum(nearest["tpe"]) < sum(nearest["random"]) / 2


@pytest.mark.parametrize("kind", ["tpe", "random", "nsga2"])
def test_every_seed_that_a_run_takes_suggests(kind: Kind) -> None:
    """Optuna's samplers take no more than 32 bits."""
    assert suggested(kind, 2**63 - 1, 4).rounds != suggested(kind, 2**32 + 1, 4).rounds
    assert suggested(kind, 2**32 - 1, 4).rounds


@pytest.mark.parametrize("kind", ["tpe", "random", "nsga2"])
def test_a_seed_suggests_the_same_again_and_another_does_not(kind: Kind) -> None:
    ways = {"accuracy": "max", "network_calls": "min"} if kind == "nsga2" else ONE
    first = suggested(kind, 0, 22, ways)
    assert first.rounds == suggested(kind, 0, 22, ways).rounds != suggested(kind, 1, 22, ways).rounds
    assert [len(r) for r in first.rounds] == [4, 4, 4, 4, 4, 2]


def test_a_list_is_suggested_in_its_order() -> None:
    bowl, cells = Bowl(), [{"x": i / 10, "y": 0.0} for i in range(5)]
    with searched(Listed(cells), 3, 5, bowl):
        pass
    assert bowl.rounds == [[(0.0, 0.0), (0.1, 0.0), (0.2, 0.0)], [(0.3, 0.0), (0.4, 0.0)]]


def test_the_front_is_what_none_is_better_than() -> None:
    points = [{"a": a, "c": c} for a, c in ((0.5, 10.0), (0.4, 5.0), (0.4, 6.0), (0.5, 10.0), (0.3, 5.0), (0.9, 99.0))]
    assert front(points, {"a": "max", "c": "min"}) == [0, 1, 3, 5]


@pytest.mark.ray
def test_trials_of_ray_tune_change_nothing_of_what_is_suggested(tmp_path: Path) -> None:
    """Whatever order its trials end in; one of them fails, and the others go on."""
    bowl = Bowl()
    inner = search.optunas("tpe", square, ONE, 0, 10)
    with search.searched(inner, 4, 10, bowl, RayConfig(), Location.of(str(tmp_path))):
        pass
    assert bowl.rounds == suggested("tpe", 0, 10).rounds and len(bowl.rounds) == 3


def test_a_trial_that_is_lost_while_it_waits_is_told_as_the_driver_measured_it() -> None:
    """Its node may go before anything is measured, or after; for Tune it has failed, for the sweep it has not."""
    told: list[tuple[str, dict[str, Any] | None, bool]] = []

    class Kept(Listed):
        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            told.append((trial_id, result, error))

    rounds = search.Rounds(Kept([{"x": i} for i in range(4)]), 2, 4)
    assert [rounds.suggest(t) for t in "ab"] == [{"x": 0}, {"x": 1}]
    rounds.on_trial_complete("a", None, error=True)
    rounds.on_trial_complete("b", None, error=True)
    assert rounds.suggest("c") is None and not told, "nothing is measured yet"
    rounds.measured |= {"a": {"accuracy": 0.5}, "b": {FAILED: "non-finite"}}
    assert rounds.suggest("c") == {"x": 2}
    assert told == [("a", {"accuracy": 0.5}, False), ("b", None, True)]
