"""The page of a run while it goes on, drawn from its news: one file without scripts, that reloads itself."""

from __future__ import annotations

import time

from raydistill.errors import printable
from raydistill.progress import clock
from raydistill.report import text
from raydistill.report.page import environment
from raydistill.results import standing
from raydistill.results.news import RunNews
from raydistill.results.regularly import PERIOD_S
from raydistill.results.standing import StageRow
from raydistill.store.location import Location

REFRESH_S = 8  # after which a browser asks again, while the run goes on
MOST = 50  # stages that are shown, of a sweep for example


def render(root: Location, news: RunNews) -> str:
    """The whole page as HTML text; `root` is asked for the run's other pages once it has ended."""
    rows = [StageRow.of(stage, news.written) for stage in reversed(news.stages)]
    html = (
        environment()
        .get_template("status.html")
        .render(
            refresh=None if news.over else REFRESH_S,
            period=f"{PERIOD_S:g}",
            root=printable(str(root)),
            title=printable(news.title or root.name),
            written=utc(news.written),
            overall=None if news.over else news.overall(news.written),
            conclusion=standing.conclusion(news.stages, news.error) if news.over else "",
            error=printable(news.error),
            facts=_facts(news),
            rows=rows[:MOST],
            earlier=len(rows[MOST:]),
            pages=standing.pages(root) if news.over else (),
        )
    )
    return text.printable_lines(html)


def utc(seconds: float) -> str:
    """Of seconds since 1970: 2026-11-29 10:21:04 UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _facts(news: RunNews) -> list[tuple[str, str]]:
    seconds = news.spent + standing.working_seconds(news.stages, news.written)
    cost = standing.money(seconds, news.price)
    return [
        ("Worked on" if news.over else "At work on", f"{printable(news.host)}, process {news.pid}"),
        ("Since", f"{utc(news.since)} ({clock(news.written - news.since)})"),
        ("In stages, over all runs", clock(seconds)),
        *([("Cost", cost)] if cost else []),
    ]
