"""The events of a stage: whoever listens is told the same, and what stages cost is counted from them."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import TinyRun

from raydistill.errors import StageFailed
from raydistill.progress import Advanced, Committed, Event, Finished, Progress, Skipped, Started, listening, noun
from raydistill.results import costs
from raydistill.stages import runner
from raydistill.stages.runner import serial
from raydistill.store.location import Location


def told(events: list[Event]) -> list[object]:
    """Events without their seconds."""
    return [replace(e, seconds=0.0) if isinstance(e, Finished) else e for e in events]


def test_a_stage_starts_advances_and_finishes(tmp_path: Path) -> None:
    tiny, events = TinyRun(tmp_path / "run"), list[Event]()
    with listening(events.append):
        runner.run(tiny.stage("encode"), serial, "encode those")
        runner.run(tiny.stage("encode"), serial)  # which has nothing left to do
    advanced = [Advanced("encode those", n) for n in (6, 6, 6, 3)]
    whole = Finished("encode those", "images", 21, 0.0, True)
    committed = [e for e in events if isinstance(e, Committed)]
    assert [(e.key, e.units) for e in committed] == [(f"chunk-{i:06d}", n) for i, n in enumerate((6, 6, 6, 3))]
    assert all(e.stage == "encode those" and e.bytes > 0 for e in committed)
    rest = [e for e in told(events) if not isinstance(e, Committed)]
    assert rest == [Started("encode those", "images", 21, 0), *advanced, whole, Skipped("encode")]


@pytest.mark.parametrize("number", [1, 2])
def test_sets_that_are_drawn_together_cost_under_one_name(number: int, tmp_path: Path) -> None:
    stages = [TinyRun(tmp_path / f"{i}").stage("encode") for i in range(number)]
    root = Location.of(str(tmp_path))
    with listening(costs.listener(root)):
        runner.run_together(stages, lambda asked: [(s, r) for s, keys in asked for r in serial(s, keys)])
    assert {name: c.units for name, c in costs.read(root).items()} == {"encode sets": 21 * number}


def test_what_earlier_runs_finished_is_before(tmp_path: Path) -> None:
    tiny, events = TinyRun(tmp_path / "run"), list[Event]()
    stage = tiny.stage("encode")
    next(iter(serial(stage, stage.keys)))
    with listening(events.append):
        runner.run(stage, serial)
    assert events[0] == Started("encode", "images", 21, 6)
    assert told(events)[-1] == Finished("encode", "images", 15, 0.0, True)


def test_one_that_fails_is_not_whole_and_costs_nothing(tmp_path: Path) -> None:
    events, root = list[Event](), Location.of(str(tmp_path))
    with listening(events.append), listening(costs.listener(root)):
        with pytest.raises(StageFailed), Progress("sample", "images", 2) as progress:
            progress.advance()
            raise StageFailed("it")
        with Progress("plan", "slots", 2) as progress:
            progress.advance(2)
    assert told(events)[2] == Finished("sample", "images", 1, 0.0, False)
    known = costs.read(root)
    assert list(known) == ["plan"] and (known["plan"].units, known["plan"].unit) == (2, "slots")


def test_costs_of_several_runs_are_added(tmp_path: Path) -> None:
    root = Location.of(str(tmp_path))
    for units in (2, 0, 3):  # a run that had nothing to do counts nothing
        with listening(costs.listener(root)), Progress("sample", "images", 5) as progress:
            progress.advance(units)
    assert costs.read(root)["sample"].units == 5


def test_nobody_is_told_of_what_begins_after(tmp_path: Path) -> None:
    events = list[Event]()
    with listening(events.append):
        progress = Progress("verify", "kB", 2).__enter__()
    reader = threading.Thread(target=progress.advance)  # of what began before, by whatever thread
    reader.start()
    reader.join()
    with Progress("plan", "slots", 1):
        pass
    progress.__exit__(None)
    assert [type(e) for e in events] == [Started, Advanced, Finished] and {e.stage for e in events} == {"verify"}


@pytest.mark.parametrize(
    ("count", "unit", "named"),
    [(1, "sets", "set"), (2, "sets", "sets"), (1, "classes", "class"), (1, "images", "image"), (0, "slots", "slots")],
)
def test_a_unit_is_named_by_its_number(count: int, unit: str, named: str) -> None:
    assert noun(count, unit) == named
