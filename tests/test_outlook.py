"""How far a run is as a whole, beside each of its stages: what is counted, and what a terminal and `status` show."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from samples import coloured_png
from tiny_run import TinyRun

from raydistill import config as configuration
from raydistill import outlook as outlooks
from raydistill import progress as terminal
from raydistill.outlook import Expected, Outlook, Overall, StageNews, overall
from raydistill.pipeline.preflight import prepare
from raydistill.planning import ahead
from raydistill.progress import Progress, Started, Tried, listening, say, within
from raydistill.results.news import Reporter
from raydistill.results.status import status
from raydistill.stages import runner
from raydistill.store.claims import hold
from raydistill.store.location import Location
from raydistill.store.rundir import RunDir

PLAN = [Expected("encode", 100, 10.0), Expected("sample", 50, 30.0), Expected("evaluate", 6, 60.0)]


def news(stage: str, total: int, done: int, start: float, end: float | None = None, before: int = 0) -> StageNews:
    return StageNews(stage, "units", total, before, done, start, end, "working" if end is None else "finished")


class Tty(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A young run is told of at once, and every look is shown."""
    monkeypatch.setattr(outlooks, "AFTER_S", 0.0)
    monkeypatch.setattr(terminal, "QUIET_S", 0.0)
    monkeypatch.setattr(terminal, "NEWS_S", 0.01)


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestCounting:
    def test_the_rest_goes_on_at_the_pace_of_what_is_done(self) -> None:
        stages = [news("encode", 100, 100, 0.0, 20.0)]  # twice as long as planned
        assert overall(PLAN, stages, [], 20.0) == Overall(1, 3, pytest.approx(0.1), pytest.approx(180.0))

    def test_the_stage_at_work_goes_on_at_its_own_rate(self) -> None:
        stages = [news("encode", 100, 100, 0.0, 10.0), news("sample", 50, 10, 10.0)]
        whole = overall(PLAN, stages, [], 22.0)  # 40 images left at 1.2 s; 22 s took what was planned as 16
        assert whole is not None and (whole.stage, whole.of) == (2, 3)
        assert whole.left == pytest.approx(40 * 1.2 + 60 * 22 / 16) and whole.share == pytest.approx(0.16)

    def test_what_earlier_runs_did_counts_as_done_and_says_nothing_of_the_pace(self) -> None:
        assert overall(PLAN, [], ["encode", "sample"], 5.0) == Overall(2, 3, pytest.approx(0.4), None)
        late = [news("evaluate", 2, 1, 0.0)]  # 4 of 6 were found finished: the fit has only the others
        whole = overall(PLAN, late, ["encode", "sample"], 30.0)
        assert whole is not None and whole.share == pytest.approx(0.9) and whole.left == pytest.approx(30.0)
        half = overall(PLAN, [news("sample", 50, 5, 0.0, before=25)], ["encode"], 9.0)
        assert half is not None and half.share == pytest.approx(0.28)

    def test_a_stage_that_was_passed_over_is_not_waited_for(self) -> None:
        whole = overall(PLAN, [news("encode", 100, 100, 0.0, 10.0), news("evaluate", 6, 0, 10.0)], [], 11.0)
        assert whole is not None and whole.share == pytest.approx(0.4) and whole.left == pytest.approx(60.0)

    def test_parts_of_one_name_are_counted_one_by_one(self) -> None:
        plan = [Expected("sample", 30, 30.0, parts=3)]
        stages = [news("sample", 10, 10, 0.0, 10.0), news("sample", 10, 5, 10.0)]
        whole = overall(plan, stages, [], 15.0)
        assert whole is not None and whole.share == pytest.approx(0.5) and whole.left == pytest.approx(15.0)
        again = overall(plan, [], ["sample", "sample"], 1.0)
        assert again is not None and again.share == pytest.approx(2 / 3)

    def test_nothing_is_said_without_a_plan_or_when_all_is_done(self) -> None:
        assert overall([], [news("encode", 100, 10, 0.0)], [], 9.0) is None
        assert overall(PLAN, [], ["encode", "sample", "evaluate"], 1.0) is None

    def test_it_reads_as_a_line(self) -> None:
        assert Overall(2, 9, 0.418, 754.0).text() == "stage 2 of 9, 41 % of the work, about 12m34s left"
        assert Overall(1, 9, 0.0, None).text() == "stage 1 of 9, 0 % of the work"

    def test_a_stage_that_is_found_finished_is_told(self, tmp_path: Path) -> None:
        tiny, heard = TinyRun(tmp_path / "run"), Outlook()
        runner.run(tiny.stage("encode"), runner.serial)
        with listening(heard):
            runner.run(tiny.stage("encode"), runner.serial)
        assert heard.skipped == ["encode"] and not heard.stages

    def test_a_young_run_counts_no_plan_and_one_that_cannot_be_counted_goes_on(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails() -> list[Expected]:
            raise ZeroDivisionError

        assert Outlook(fails).overall() is None and Outlook(fails).expected is None
        monkeypatch.setattr(outlooks, "AFTER_S", 0.0)
        assert Outlook(fails).plan() == ()


class TestSweep:
    def test_trials_go_on_as_those_before_and_what_was_found_finished_says_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]
        monkeypatch.setattr(outlooks.time, "time", lambda: now[0])
        heard = Outlook()
        heard(Tried(0, 8, 0, 30))
        assert heard.overall() == Overall(0, 8, 0.0, None, "{} of {} trials done")
        now[0] = 2.0
        heard(Tried(2, 8, 4, 30))  # by an earlier run
        assert heard.overall() == Overall(2, 8, 4 / 30, None, "{} of {} trials done")
        heard(Started("sample sets", "images", 9, 0))
        now[0] = 42.0
        heard(Tried(4, 8, 8, 30))
        now[0] = 45.0
        whole = heard.overall()
        assert whole is not None and whole.left == pytest.approx(22 * 40 / 4 - 3)
        assert whole.text() == "4 of 8 trials done, 26 % of the work, about 3m37s left"
        now[0] = 1000.0
        assert heard.overall() == Overall(4, 8, 8 / 30, None, "{} of {} trials done"), "longer than those before"
        heard(Tried(8, 8, 30, 30))
        assert heard.overall() is None

    def test_status_says_it(self, tmp_path: Path) -> None:
        RunDir(str(tmp_path / "run")).claim()
        root = Location.of(str(tmp_path / "run"))
        reporter = Reporter(root)
        reporter(Started("encode", "images", 100, 50))
        reporter(Tried(2, 8, 4, 30))
        reporter.write()
        with hold(root, "run_dir", "0" * 16):
            assert "\noverall: 2 of 8 trials done, 13 % of the work" in status(str(root))
        tree = json.loads((root / "logs/news.json").read())
        (root / "logs/news.json").write(json.dumps(tree | {"sweep": {"trials": "2"}}).encode())
        assert "nobody is at work" in status(str(root))


class TestShowing:
    @pytest.mark.usefixtures("at_once")
    def test_elsewhere_it_is_a_line_of_its_own_while_a_stage_goes_on(self, capsys: pytest.CaptureFixture[str]) -> None:
        heard, err = Outlook(lambda: PLAN), ""
        with within(heard), listening(heard), Progress("encode", "images", 100) as progress:
            progress.advance(50)
            for _ in range(2000):
                time.sleep(0.01)
                err += capsys.readouterr().err
                if "overall" in err:
                    break
            progress.advance(50)
        err += capsys.readouterr().err
        lines = err.splitlines()
        assert "overall       stage 1 of 3, 5 % of the work, about" in err
        assert lines[-1].startswith("encode        100/100 images") and "\r" not in err

    @pytest.mark.usefixtures("at_once")
    def test_on_a_terminal_two_bars_stand_below_what_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stderr", tty := Tty())
        monkeypatch.setenv("COLUMNS", "120")
        heard = Outlook(lambda: PLAN)
        with within(heard), listening(heard), Progress("encode", "images", 100) as progress:
            progress.advance(50)
            until(lambda: "overall" in tty.getvalue())
            say("generator", "{news}")
            progress.advance(50)
        rows = screen(tty.getvalue())
        assert rows[0] == "generator     {news}" and rows[1].startswith("encode        ████████████████ 100/100 images")
        assert rows[2:] == [""]  # the overall line is gone, and the cursor at the start of the next one
        assert "overall       ▊                stage 1 of 3, 5 % of the work, about" in tty.getvalue()

    def test_status_says_it_while_somebody_is_at_work(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outlooks, "AFTER_S", 0.0)
        RunDir(str(tmp_path / "run")).claim()
        root = Location.of(str(tmp_path / "run"))
        reporter = Reporter(root, lambda: PLAN)
        reporter(Started("encode", "images", 100, 50))
        reporter.write()
        with hold(root, "run_dir", "0" * 16):
            assert "\noverall: stage 1 of 3, 5 % of the work\n" in status(str(root))
        assert "overall" not in status(str(root))
        tree = json.loads((root / "logs/news.json").read())
        (root / "logs/news.json").write(json.dumps(tree | {"expected": [{"stage": 1}]}).encode())
        assert "nobody is at work" in status(str(root))


class TestPlanned:
    def test_a_plan_of_each_verb_ends_where_it_does(self, tmp_path: Path) -> None:
        prepared = prepare(configuration.load("quickstart", [f"run_dir={tmp_path / 'run'}", "seeds.generation=2"]))
        names = {until: [e.stage for e in ahead.expected(prepared, until)] for until in ("encode", "sample", "report")}
        assert names["encode"] == ["encode"] and names["sample"][-1] == "check dit"
        assert names["report"][-1] == "evaluate" and set(names["sample"]) < set(names["report"])
        parts = {u: {e.parts for e in ahead.expected(prepared, u)} for u in ("sample", "report")}
        assert parts == {"sample": {1}, "report": {1, 2}}

    @pytest.mark.ray
    def test_the_stages_of_a_run_are_those_of_its_plan(self, reference: object) -> None:
        run, _ = reference  # type: ignore[misc]
        tree = json.loads((Path(run) / "logs/news.json").read_text())
        expected = {e.stage for e in ahead.expected(prepare(configuration.load(f"{run}/config.yaml")), "report")}
        assert {s["stage"] for s in tree["stages"]} == expected


def test_more_than_ten_classes_are_folded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(12):
        for split in ("train", "val"):
            file = tmp_path / "images" / split / f"c{i:02d}" / "0.png"
            file.parent.mkdir(parents=True)
            file.write_bytes(coloured_png((200, 40, 40), seed=2 * i + len(split)))
    config = [
        f"source.path={tmp_path / 'images'}",
        f"run_dir={tmp_path / 'run'}",
        "method=random",
        "ipc=1",
        "evaluate.baselines=[]",
    ]
    prepare(configuration.load("quickstart", ["source.kind=imagefolder", *config]))
    err = capsys.readouterr().err
    assert "c09 1, ... 2 more)" in err and "c10 1" not in err
    assert err.count("has a single image") == 10 and "... and 2 more classes of a single image" in err


def screen(text: str, rows: int = 12, columns: int = 200) -> list[str]:
    """What a terminal shows of it, down to the row of the cursor."""
    cells, row, column = np.full((rows, columns), " "), 0, 0
    i = 0
    while i < len(text):
        if text.startswith("\x1b[A", i):
            row, i = row - 1, i + 3
            continue
        match text[i]:
            case "\n":
                row, column = row + 1, 0
            case "\r":
                column = 0
            case character:
                cells[row, column] = character
                column += 1
        i += 1
    return ["".join(line).rstrip() for line in cells[: row + 1]]
