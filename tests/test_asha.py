"""ASHA: which trials it stops, by a closed form and in a sweep, what that saves, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_sweep

from raydistill.config import Config, changed
from raydistill.errors import BadInput
from raydistill.tune import sweep
from raydistill.tune.rungs import Halving, Rungs

RATES = {"evaluate": {"protocol": {"lr": [1e-8, 0.01, 1e-7, 0.003]}}}  # the first of two learns nothing


def asha(run: Path, **tune: Any) -> Config:
    few = {"search": "grid", "samples": 4, "seeds": 1, "together": 2, "finalists": 3, "final_seeds": 2}
    longer = {"evaluate.protocol.visits": 72, "evaluate.protocol.evaluations": 4}
    return changed(tiny_sweep.config(run, RATES, **few, scheduler="asha", **tune), longer)


def study(config: Config) -> dict[str, Any]:
    return json.loads((Path(config.run_dir or "") / "study.json").read_text())


@pytest.mark.parametrize(("reduction", "left"), [(2, {4, 5, 6, 7}), (4, {6, 7})])
def test_of_trials_that_come_in_at_once_one_in_so_many_goes_on(reduction: int, left: set[int]) -> None:
    """Trial i learns 1 - exp(-(i + 1) t): whoever is ahead at a rung is ahead for good."""
    halving = Halving(Rungs((1, reduction), reduction, 16))
    curves = {i: [0.0, (i + 1) / 10, (i + 1) / 9] for i in range(8)}
    assert set(curves) - halving.stopped(1, {i: c[1] for i, c in curves.items()}) == left
    assert 7 not in halving.stopped(reduction, {i: curves[i][2] for i in left})


def test_what_went_before_counts_and_order_within_a_round_does_not() -> None:
    """The cutoff of 0.0, 0.1, ... 0.7 in halves is 0.35; of these, 0.2 and 0.46 it is still."""
    forth, back = Halving(Rungs((2,), 2, 4)), Halving(Rungs((2,), 2, 4))
    early = {i: i / 10 for i in range(8)}
    assert forth.stopped(2, early) == back.stopped(2, dict(reversed(early.items()))) == {0, 1, 2, 3}
    late = {8: 0.2, 9: 0.46}
    assert forth.stopped(2, late) == back.stopped(2, dict(reversed(late.items()))) == {8}
    assert forth.stopped(2, {10: 0.9}) == set(), "the best so far is never stopped"


def test_a_sweep_stops_who_is_behind_saves_their_visits_and_trains_finalists_in_full(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """72 visits with four tests, looked at after the second: a stopped training sees 36 of them."""
    tiny_sweep.without_ray(monkeypatch)
    config = asha(tmp_path / "run")
    sweep.main(config)
    found = study(config)
    assert [t["stopped"] for t in found["trials"]] == [2, 0, 2, 0]
    assert [t["visits"] for t in found["trials"]] == [36, 72, 36, 72]
    numbers = {"tests": [2], "reduction": 2, "whole": 4, "stopped": 2, "visits": 216, "in_full": 288}
    assert found["asha"] == numbers
    assert len(found["again"]) == 3 and all(len(m["trainings"]) == 2 for m in found["again"])
    page = (tmp_path / "run" / "study.html").read_text()
    assert page.count("stopped after 2 of 4 tests") == 2 and "25&nbsp;% saved" in page


def test_decisions_are_the_same_after_a_kill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Killed behind the first rung of the second round; a rung that was reached is not climbed again."""
    fits = tiny_sweep.without_ray(monkeypatch)
    sweep.main(whole := asha(tmp_path / "whole"))
    trained = sum(fits)
    fits.clear()
    real, rounds = Halving.stopped, [0]

    def killed(self: Halving, *rest: Any) -> Any:
        rounds[0] += 1
        if rounds[0] == 2:
            raise KeyboardInterrupt
        return real(self, *rest)

    broken = asha(tmp_path / "broken")
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(Halving, "stopped", killed)
        sweep.main(broken)
    sweep.main(broken)
    for name in ("study.json", "best.yaml"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sum(fits) == trained and study(whole) == study(broken)


@pytest.mark.parametrize(
    ("tune", "line"),
    [
        ({"rungs": 2}, "more rungs than the 2 tests of a training have room for; lower tune.rungs to 1"),
        ({"reduction": 3}, "more rungs than the 2 tests .* have room for; give tune.scheduler=none"),
        ({"objectives": ["network_calls"]}, "give tune.objectives=\\[accuracy\\]"),
        ({"space": {"evaluate": {"protocol": {"batch": [4, 8]}}}}, "leave the knob out, or give tune.scheduler=none"),
        ({"budget": 5.0}, "give tune.price_per_hour"),
    ],
)
def test_what_cannot_be_compared_at_rungs_is_refused_before_anything_starts(
    tune: dict[str, Any], line: str, tmp_path: Path
) -> None:
    config = tiny_sweep.config(tmp_path / "run", **{"space": RATES, "search": "grid", "scheduler": "asha"} | tune)
    with pytest.raises(BadInput, match=line):
        sweep.main(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("remedy", [{"rungs": 1}, {"rungs": 2, "scheduler": "none"}])
def test_the_remedies_for_too_many_rungs_hold(remedy: dict[str, Any], tmp_path: Path) -> None:
    sweep.planned(tiny_sweep.config(tmp_path / "run", RATES, **{"scheduler": "asha", "search": "grid"} | remedy))


def test_keys_that_nobody_reads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"tune.rungs: tune.scheduler=none does not read it; give tune.scheduler=asha"):
        sweep.main(tiny_sweep.config(tmp_path / "run", RATES, search="grid", rungs=3), ["tune.rungs"])
