"""Spot machines that are lost: the closed form, and the simulation against it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raydistill.planning.losses import Crew, expected_seconds, gang_seconds, simulate


def test_without_losses_units_are_shared_out_in_rounds() -> None:
    for units, workers in ((7, 3), (9, 3), (1, 5), (500, 100)):
        outcome = simulate(units, 10.0, [Crew(workers, 1, True)], 0.0, 60.0)
        assert (outcome.seconds, outcome.lost, outcome.wasted) == (10.0 * math.ceil(units / workers), 0, 0)
    assert expected_seconds(10.0, 0.0, 60.0) == 10.0


def test_machines_at_their_full_price_are_not_lost() -> None:
    assert simulate(40, 600.0, [Crew(4, 2, False)], 100.0, 60.0).seconds == 5 * 600.0


@pytest.mark.parametrize(("losses", "back_s"), [(1.0, 0.0), (4.0, 120.0), (20.0, 300.0)])
def test_one_worker_takes_what_the_closed_form_says(losses: float, back_s: float) -> None:
    """The mean over many runs lies within four standard errors of it."""
    seconds = [simulate(20, 300.0, [Crew(1, 1, True)], losses, back_s, seed).seconds for seed in range(300)]
    expected = 20 * expected_seconds(300.0, losses, back_s)
    assert abs(np.mean(seconds) - expected) < 4 * np.std(seconds) / math.sqrt(len(seconds))
    assert expected > 20 * 300.0


def test_a_hundred_workers_with_many_units_take_as_long_as_each_alone() -> None:
    """With a long queue nobody waits, but for the last round."""
    units, unit_s, losses, back_s = 20_000, 60.0, 2.0, 300.0
    outcome = simulate(units, unit_s, [Crew(100, 1, True)], losses, back_s)
    expected = units / 100 * expected_seconds(unit_s, losses, back_s)
    assert outcome.seconds == pytest.approx(expected, rel=0.03)
    up_hours = (100 * outcome.seconds - outcome.lost * back_s) / 3600
    assert outcome.lost == pytest.approx(losses * up_hours, rel=0.15)
    assert outcome.wasted == pytest.approx(outcome.lost * unit_s / 2, rel=0.15), "half a unit a loss"


def test_a_lost_node_loses_what_all_of_its_workers_were_at() -> None:
    wasted = {w: simulate(4000 * w, 60.0, [Crew(10, w, True)], 5.0, 60.0).wasted for w in (1, 4)}
    assert wasted[4] == pytest.approx(4 * wasted[1], rel=0.25)


def test_the_same_seed_is_the_same_story() -> None:
    once, again, other = (simulate(200, 60.0, [Crew(5, 1, True)], 10.0, 60.0, seed) for seed in (1, 1, 2))
    assert once == again != other


def test_a_gang_is_one_worker_that_is_lost_as_often_as_all() -> None:
    nodes = [Crew(9, 1, True), Crew(3, 1, False)]
    assert gang_seconds(8, 600.0, nodes, 0.5, 300.0) == pytest.approx(8 * expected_seconds(600.0, 4.5, 300.0))


def test_nobody_to_work_is_refused() -> None:
    with pytest.raises(ValueError, match="no node has a worker"):
        simulate(1, 1.0, [Crew(3, 0, True)], 0.0, 0.0)
