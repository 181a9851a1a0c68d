"""logs/status.html: the news of a run as a page for a phone, drawn whenever they are written."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from newsfiles import is_news
from spoil import small_run, told

from raydistill import outlook as outlooks
from raydistill import signals
from raydistill.errors import StageFailed
from raydistill.outlook import Expected, StageNews, SweepNews
from raydistill.progress import Progress, Retried, Started, listening, tell
from raydistill.results import costs, news, regularly, status_page
from raydistill.results.news import PAGE, Reporter, RunNews, reporting
from raydistill.results.status import status
from raydistill.results.status_page import MOST, render
from raydistill.store.claims import hold
from raydistill.store.location import Location
from raydistill.store.rundir import RunDir

HOUR = 1_795_950_000.0  # 2026-11-29 11:00:00 UTC
SECRET = "s3cr3t-s3cr3t-s3cr3t"


@pytest.fixture
def root(tmp_path: Path) -> Location:
    RunDir(str(tmp_path / "run")).claim()
    return Location.of(str(tmp_path / "run"))


def at_hour(*stages: StageNews, **known: Any) -> RunNews:
    """News of a run that began a minute ago."""
    known = {"title": "digits, 1 image per class by mgd3", **known}
    return RunNews("node-7", 4711, HOUR - 60, HOUR, stages, **known)


def going_on(**known: Any) -> StageNews:
    """40 of 100 were there, 20 came in ten seconds."""
    return replace(StageNews("sample mgd3", "images", 100, 40, 20, HOUR - 10, None, "working"), **known)


ENCODE = StageNews("encode", "images", 268, 0, 268, HOUR - 60, HOUR - 10, "finished")
PLAN = (Expected("encode", 268, 50.0), Expected("sample mgd3", 100, 50.0))


class Words(HTMLParser):
    """The words of a page, its tags, and how wide its bars are."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts, self.tags, self.bars = list[str](), set[str](), list[str]()
        self.feed(html.replace(html[html.index("<style>") : html.index("</style>")], "<style>"))

    def handle_starttag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attributes)
        self.bars += [value or "" for name, value in attributes if name == "style"]

    def handle_data(self, data: str) -> None:
        self.texts += [" ".join(data.split())] if data.strip() else []


def written(root: Location) -> str:
    return (root / PAGE).read().decode()


class TestNumbers:
    def test_are_those_of_the_news(self, root: Location) -> None:
        page = Words(render(root, at_hour(ENCODE, going_on(), expected=PLAN, spent=3600.0, price=2.0)))
        assert {"digits, 1 image per class by mgd3", "As of 2026-11-29 11:00:00 UTC"} <= set(page.texts)
        assert {"80 %", "about 20s left", "stage 2 of 2"} <= set(page.texts)
        assert {"node-7, process 4711", "2026-11-29 10:59:00 UTC (1m00s)"} <= set(page.texts)
        assert {"1h00m", "2.01 at 2 an hour"} <= set(page.texts)
        stages = page.texts[page.texts.index("Stages, the latest first") + 1 :][:10]
        assert stages[:5] == ["sample mgd3", "60/100 images", "2/s", "10s", "20s left"]
        assert stages[5:] == ["encode", "268/268 images", "5.36/s", "50s", "finished"]
        assert page.bars == ["width: 80.0%", "width: 60.0%", "width: 100.0%"]

    def test_retries_have_their_number_and_the_last_ones_reason(self, root: Location) -> None:
        text = render(root, at_hour(going_on(retries=2, reason="node-3: the actor died")))
        assert "20s left, 2 units tried again" in text and "tried again: node-3: the actor died" in text

    def test_of_a_sweep_are_its_trials(self, root: Location) -> None:
        sweep = SweepNews(2, 8, 4, 30, as_of=HOUR, counted=4, seconds=40.0)
        page = Words(render(root, at_hour(going_on(), sweep=sweep)))
        assert {"13 %", "about 4m20s left", "2 of 8 trials done"} <= set(page.texts)

    def test_without_a_plan_or_a_price_nothing_is_said_of_either(self, root: Location) -> None:
        page = Words(render(root, at_hour(going_on())))
        assert len(page.bars) == 1 and "Cost" not in page.texts

    def test_of_many_stages_are_those_of_the_latest(self, root: Location) -> None:
        many = [replace(ENCODE, stage=f"stage {i}") for i in range(MOST + 7)]
        page = Words(render(root, at_hour(*many)))
        assert f"stage {MOST + 6}" in page.texts and "stage 6" not in page.texts
        assert "And 7 that began earlier." in page.texts


class TestTheEnd:
    def test_is_not_asked_for_again(self, root: Location) -> None:
        going, ended = at_hour(going_on()), at_hour(ENCODE, over=True)
        (seconds,) = re.findall(r'<meta http-equiv="refresh" content="(\d+)">', render(root, going))
        assert 5 <= int(seconds) <= 10 and 'http-equiv="refresh"' not in render(root, ended)

    def test_says_what_ended_it(self, root: Location) -> None:
        stopped = going_on(state="stopped", ended=HOUR)
        text = render(root, at_hour(stopped, over=True, error="StageFailed: no GPU", expected=PLAN))
        assert "It ended in sample mgd3; the same command goes on" in text and "StageFailed: no GPU" in text
        assert "80 %" not in text

    def test_leads_to_the_report_once_there_is_one(self, root: Location) -> None:
        assert "report.html" not in render(root, at_hour(ENCODE, over=True))
        (root / "report.html").write(b"")
        assert '<a href="../report.html">' in render(root, at_hour(ENCODE, over=True))
        assert "report.html" not in render(root, at_hour(ENCODE)), "it is an earlier run's"


class TestWhatIsShown:
    def test_is_one_file_without_scripts(self, root: Location) -> None:
        text = render(root, at_hour(ENCODE, going_on(), expected=PLAN))
        assert "<script" not in text and "http" not in text.replace("http-equiv", "") and "url(" not in text

    def test_names_and_reasons_are_words_and_never_tags(self, root: Location) -> None:
        evil = '</b></style><script>alert(1)</script><img src=x onerror="alert(1)">\' \x1b[2J\u202e'
        stage = going_on(stage=evil, unit=evil, retries=1, reason=evil, state=evil, ended=HOUR)
        hostile = replace(at_hour(stage, over=True, error=evil, title=evil), host=evil)
        page, harmless = render(Location(f"/runs/{evil}"), hostile), render(root, at_hour(ENCODE, over=True))
        assert Words(page).tags <= Words(harmless).tags | {"p"}
        assert "\x1b" not in page and "\u202e" not in page and page.count("&lt;script&gt;") >= 6

    def test_secrets_are_covered_there_and_in_the_news(self, root: Location, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        link = "s3://key:word@bucket/a"
        run = reporting(root, title=f"{SECRET}, by mgd3")
        with pytest.raises(StageFailed), run, Progress(f"sample {SECRET}", "images", total=4):
            tell(Retried("sample", "a", f"denied {SECRET} at {link}"))
            raise StageFailed(f"cannot read {link} with {SECRET}")
        for text in (written(root), (root / news.NAME).read().decode()):
            assert SECRET not in text and "key:word" not in text and "cannot read s3://***@bucket/a with ***" in text
        assert news.read(root) is not None

    def test_is_its_owners_alone_and_nothing_that_a_run_reads(self, root: Location) -> None:
        reporter = Reporter(root)
        reporter(Started("encode", "images", 9, 0))
        reporter.write()
        path = Path(root.uri) / PAGE
        assert path.stat().st_mode & 0o777 == 0o600 and is_news(path)

    def test_is_whole_at_every_moment(self, root: Location, monkeypatch: pytest.MonkeyPatch) -> None:
        """A browser that loads an empty page does not load it again."""
        (root / PAGE).replace(b"old")
        seen = list[bytes]()
        monkeypatch.setattr(os, "fsync", lambda _: seen.append((root / PAGE).read()))
        (root / PAGE).replace(b"n")
        assert seen == [b"old"] and (root / PAGE).read() == b"n" and (root / "logs").list() == ["status.html"]


class TestARun:
    def test_draws_it_with_the_news_and_once_more_at_its_end(self, root: Location) -> None:
        with reporting(root, title="digits"), Progress("encode", "images", total=4, before=1) as progress:
            progress.advance(3)
        text = written(root)
        assert "4/4 images" in text and "All that was begun is finished" in text and "<h1>digits</h1>" in text

    def test_that_begins_nothing_leaves_none(self, root: Location) -> None:
        with reporting(root):
            pass
        assert not (root / PAGE).exists()

    def test_goes_on_where_the_page_cannot_be_drawn(self, root: Location, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(status_page, "render", lambda *_: 1 / 0)
        with reporting(root), Progress("encode", "images", total=1) as progress:
            progress.advance()
        assert not (root / PAGE).exists() and news.read(root).stages[0].done == 1  # type: ignore[union-attr]

    def test_counts_what_earlier_runs_cost(self, root: Location) -> None:
        costs.add(root, "encode", 3600.0, 268, "images")
        with reporting(root, price=12.0), Progress("sample", "images", total=1) as progress:
            progress.advance()
        assert "12.00 at 12 an hour" in written(root) and "1h00m, 12.00 at 12 an hour" in status(str(root))

    def test_that_a_signal_ends_says_so(self, root: Location) -> None:
        with reporting(root), Progress("encode", "images", total=4):
            for farewell in signals._farewells:
                farewell()
            text = written(root)
        assert "stopped by a signal" in text and "It ended in encode" in text and 'http-equiv="refresh"' not in text

    def test_with_it_verifies_clean(self, tmp_path: Path) -> None:
        run = small_run(tmp_path / "small")
        with reporting(Location.of(str(run))), Progress("encode", "images", total=1) as progress:
            progress.advance()
        assert (run / PAGE).exists() and told(run) == []

    def test_has_it_within_some_seconds(self, root: Location, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(regularly, "PERIOD_S", 0.01)
        with reporting(root), Progress("encode", "images", total=4):
            while not (root / PAGE).exists():
                time.sleep(0.01)
            assert "At work on" in written(root)


class TestStatus:
    def test_says_where_the_page_is_while_somebody_is_at_work(
        self, root: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outlooks, "AFTER_S", 0.0)
        reporter = Reporter(root, lambda: PLAN)
        with listening(reporter), Progress("encode", "images", total=4):
            reporter.write()
        with hold(root, "run_dir", "0" * 16):
            assert f"page: {root / PAGE}" in status(str(root))
        assert PAGE not in status(str(root))

    def test_says_what_ended_a_run_that_left_no_traceback(self, root: Location) -> None:
        with pytest.raises(KeyboardInterrupt), reporting(root), Progress("encode", "images", total=4):
            raise KeyboardInterrupt
        assert "it ended in encode" in status(str(root)) and "it ended with: KeyboardInterrupt" in status(str(root))
