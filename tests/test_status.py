"""`raydistill status`: what a run tells of itself while it goes on, and what is to be read of it afterwards."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from raydistill import cli
from raydistill.errors import BadInput
from raydistill.identity import canonical
from raydistill.progress import Progress, listening
from raydistill.results import costs, news
from raydistill.results.news import Reporter, RunNews, StageNews
from raydistill.results.status import status
from raydistill.store.claims import hold
from raydistill.store.location import Location
from raydistill.store.rundir import MARKER, RunDir


@pytest.fixture
def root(tmp_path: Path) -> Location:
    RunDir(str(tmp_path / "run")).claim()
    return Location.of(str(tmp_path / "run"))


def worked(root: Location, *stages: StageNews, since: float = 0.0, written: float = 100.0) -> None:
    reporter = Reporter(root)
    reporter.stages, reporter.since = list(stages), since
    reporter.write()
    tree = json.loads((root / news.NAME).read())
    (root / news.NAME).write(json.dumps(tree | {"written": written}).encode())


def test_a_stage_is_seen_while_it_goes_on_and_when_it_ends(root: Location) -> None:
    reporter = Reporter(root)
    with listening(reporter), Progress("sample", "images", total=10, before=2) as progress:
        progress.advance(3)
        reporter.write()
        (stage,) = news.read(root).stages  # type: ignore[union-attr]
        assert (stage.stage, stage.total, stage.before, stage.done, stage.state) == ("sample", 10, 2, 3, "working")
    reporter.write()
    (stage,) = news.read(root).stages  # type: ignore[union-attr]
    assert stage.state == "finished" and stage.ended is not None


def test_a_stage_that_raised_is_stopped_and_a_second_one_of_its_name_is_another(root: Location) -> None:
    reporter = Reporter(root)
    with listening(reporter):
        with pytest.raises(ZeroDivisionError), Progress("sample", "images", total=4):
            raise ZeroDivisionError
        with Progress("sample", "images", total=4) as progress:
            progress.advance(4)
    assert [(s.state, s.done) for s in reporter.stages] == [("stopped", 0), ("finished", 4)]


def test_time_left_is_that_of_this_runs_rate(root: Location) -> None:
    stage = StageNews("sample", "images", total=100, before=40, done=20, started=0.0, ended=None, state="working")
    assert stage.left(now=10.0) == pytest.approx(20.0)  # 40 left at 2 a second
    assert StageNews("sample", "images", 100, 40, 0, 0.0, None, "working").left(10.0) is None


def test_units_that_take_minutes_do_not_make_the_time_left_grow_while_they_are_waited_for() -> None:
    fit = StageNews("evaluate", "trainings", total=6, before=0, done=2, started=0.0, ended=None, state="working")
    waiting = replace(fit, advanced=90.0)  # two at a time, each pair in 90 s
    assert [waiting.left(now) for now in (90.0, 120.0, 170.0)] == pytest.approx([180.0, 150.0, 100.0])
    assert waiting.left(300.0) is None, "it takes longer than it should: nobody knows"
    assert waiting.worked(170.0) == 90.0 and waiting.seconds(170.0) == 170.0


def test_it_says_who_works_how_far_it_is_and_what_it_has_cost(root: Location) -> None:
    costs.add(root, "encode", 3600.0, 268, "images")
    encode = StageNews("encode", "images", 268, 0, 268, 0.0, 60.0, "finished")
    worked(root, encode, StageNews("sample", "images", 100, 40, 20, 60.0, None, "working"), written=70.0)
    with hold(root, "run_dir", "0" * 16):
        lines = status(str(root), price=2.0, now=70.0).splitlines()
    assert ": at work on " in lines[0] and lines[0].endswith("since 1m10s")
    assert lines[1].split() == ["encode", "268/268", "images", "1m00s", "4.47/s", "finished"]
    assert lines[2].split() == ["sample", "60/100", "images", "10s", "2/s", "20s", "left"]
    assert lines[3] == "in stages, over all runs: 1h00m, 2.01 at 2 an hour"


def test_a_driver_that_is_not_heard_of_is_said_to_be_silent(root: Location) -> None:
    worked(root, StageNews("sample", "images", 100, 40, 0, 60.0, None, "working"), written=70.0)
    with hold(root, "run_dir", "0" * 16):
        assert "no news for 5m00s" in status(str(root), now=370.0)


def test_afterwards_it_says_where_it_ended_and_why(root: Location) -> None:
    worked(root, StageNews("sample", "images", 100, 0, 20, 10.0, 20.0, "stopped"))
    (root / "logs/error.txt").write(b"Traceback\nStageFailed: sample: no GPU\n")
    text = status(str(root), now=130.0)
    assert "nobody is at work since 30s; it ended in sample; the same command goes on" in text
    assert "it ended with: StageFailed: sample: no GPU" in text


def test_an_error_of_an_earlier_run_is_not_told_again(root: Location) -> None:
    (root / "logs/error.txt").write(b"old")
    worked(root, StageNews("sample", "images", 9, 0, 9, 1.0, 2.0, "finished"), since=time.time() + 60)
    assert "it ended with" not in status(str(root))


def test_a_run_that_begins_nothing_leaves_the_directory_as_it_is(root: Location) -> None:
    with news.reporting(root):
        pass
    assert not (root / news.NAME).exists()


@pytest.mark.parametrize("end", ["failed", "killed"])
def test_a_run_that_finds_all_finished_makes_the_end_of_the_one_before_good(end: str, root: Location) -> None:
    """One that failed, or was killed, behind its last stage: what was left to do has no news of its own."""
    with contextlib.suppress(OSError), news.reporting(root), Progress("encode", "images", 1):
        raise OSError("no space left on device")
    before = news.read(root)
    assert before is not None and before.over and "no space left" in before.error
    if end == "killed":
        (root / news.NAME).replace(canonical(asdict(replace(before, over=False, error=""))).encode())
    with news.reporting(root):
        pass
    after = news.read(root)
    assert after is not None and after.over and after.error == "" and after.stages == before.stages


def test_a_number_that_nothing_counts_is_no_news(root: Location) -> None:
    worked(root, StageNews("sample", "images", 100, 0, 20, 10.0, None, "working"))
    text = (root / news.NAME).read().replace(b'"total": 100', b'"total": 1' + b"0" * 400)
    (root / news.NAME).write(text)
    assert len(text) > 400
    assert news.read(root) is None and "nobody is at work" in status(str(root))
    with pytest.raises(ValueError, match="larger"):
        costs.Cost.of({"seconds": 10**400, "units": 1, "unit": "images"})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"stages": [{}]}', '{"stages": [], "pid": "x"}', "\0"])
def test_news_that_cannot_be_read_are_no_news(root: Location, text: str) -> None:
    (root / news.NAME).write(text.encode())
    assert news.read(root) is None and "nobody is at work" in status(str(root))


@pytest.mark.parametrize(
    "spoiled",
    [
        {"stages": [1]},
        {"stages": {"stage": "sample"}},
        {"expected": [1]},
        {"expected": 1},
        {"skipped": [[]]},
        {"sweep": [1]},
        {"over": "no"},
        {"price": "much"},
        *({"stages": [{key: value}]} for key in ("ended", "advanced") for value in ("soon", [1], 10**400)),
    ],
    ids=lambda spoiled: str(spoiled)[:40],
)
def test_news_with_a_value_of_another_kind_are_no_news(root: Location, spoiled: dict[str, Any]) -> None:
    worked(root, StageNews("sample", "images", 100, 0, 20, 10.0, None, "working"))
    tree = json.loads((root / news.NAME).read())
    if isinstance(spoiled.get("stages"), list) and isinstance(spoiled["stages"][0], dict):
        spoiled = {"stages": [tree["stages"][0] | spoiled["stages"][0]]}
    (root / news.NAME).write(json.dumps(tree | spoiled).encode())
    assert news.read(root) is None and "nobody is at work" in status(str(root))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match=MARKER):
        status(str(tmp_path))
    assert cli.main(["status", str(tmp_path / "gone")]) == 2 and "give the run directory" in capsys.readouterr().err


@pytest.mark.ray
def test_a_finished_run_is_looked_at(reference: object, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = reference  # type: ignore[misc]
    assert cli.main(["status", str(run), "--watch"]) == 0
    out = capsys.readouterr().out
    assert "nobody is at work" in out and "all that was begun is finished" in out and "report.html" in out
    assert isinstance(news.read(Location.of(str(run))), RunNews)
    for stage in ("encode", "cluster", "sample", "evaluate"):
        assert f"  {stage} " in out
