"""logs/news.json: how far a run has come, written while it goes on, for those who look from elsewhere (`status`).

It is news, not a result: nothing is read back by a run, and it may be lost.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from raydistill import strict_json
from raydistill.identity import canonical
from raydistill.outlook import Expected, Outlook, Overall, StageNews, SweepNews, overall
from raydistill.progress import within
from raydistill.results.regularly import regularly
from raydistill.store.location import Location

NAME = "logs/news.json"


@dataclass(frozen=True)
class RunNews:
    """Of one run of a run directory; stages in the order in which they began, `expected` those of its plan. `sweep`:
    of a run that is one."""

    host: str
    pid: int
    since: float
    written: float
    stages: tuple[StageNews, ...]
    skipped: tuple[str, ...] = ()
    expected: tuple[Expected, ...] = ()
    sweep: SweepNews | None = None

    @classmethod
    def of(cls, tree: object) -> RunNews:
        """Raises ValueError or TypeError for what is none."""
        if not isinstance(tree, dict) or not isinstance(tree.get("stages"), list):
            raise ValueError("no news")
        numbers = [tree.get("pid"), tree.get("since"), tree.get("written")]
        numbers += [s.get(key) for s in tree["stages"] for key in ("total", "before", "done", "started")]
        numbers += [s.get("retries", 0) for s in tree["stages"]]
        expected, skipped = tree.get("expected", []), tree.get("skipped", [])
        numbers += [e.get(key) for e in expected for key in ("total", "seconds", "parts")]
        sweep = None if tree.get("sweep") is None else SweepNews(**tree["sweep"])
        numbers += asdict(sweep).values() if sweep else []
        if any(type(n) not in (int, float) for n in numbers):
            raise ValueError("a number is of another type")
        stages = tuple(StageNews(**s) for s in tree["stages"])
        planned = tuple(Expected(**e) for e in expected)
        known = {"stages": stages, "skipped": tuple(skipped), "expected": planned, "sweep": sweep}
        return cls(**{**tree, **known})

    def overall(self, now: float) -> Overall | None:
        if self.sweep is not None:
            return self.sweep.overall(now)
        return overall(self.expected, self.stages, self.skipped, now)


def read(root: Location) -> RunNews | None:
    """What was written last; None if nothing was, or nothing that can be read."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return RunNews.of(strict_json.mapping((root / NAME).read()))
    return None


class Reporter(Outlook):
    """Keeps the news of a run."""

    def __init__(self, root: Location, expect: Callable[[], Sequence[Expected]] = tuple) -> None:
        super().__init__(expect)
        self.root = root

    def write(self) -> None:
        """Nothing as long as no stage has begun: a run that finds all of it finished leaves its directory as it is."""
        if not self.stages:
            return
        expected = tuple(self.plan())
        with self._lock:
            stages, skipped, sweep = tuple(self.stages), tuple(self.skipped), self.sweep
        news = RunNews(socket.gethostname(), os.getpid(), self.since, time.time(), stages, skipped, expected, sweep)
        (self.root / NAME).write(canonical(asdict(news)).encode())


@contextlib.contextmanager
def reporting(root: Location, expect: Callable[[], Sequence[Expected]] = tuple) -> Iterator[None]:
    """Within, `root`'s news are written every few seconds, and once more at the end; the terminal shows the whole."""
    reporter = Reporter(root, expect)
    with within(reporter), regularly(reporter, "news"):
        yield
