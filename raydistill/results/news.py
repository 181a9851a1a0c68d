"""logs/news.json: how far a run has come, written while it goes on, for those who look from elsewhere (`status`).

It is news, not a result: nothing is read back by a run, and it may be lost.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from raydistill import strict_json
from raydistill.identity import canonical
from raydistill.progress import Advanced, Event, Finished, Retried, Started
from raydistill.results.regularly import regularly
from raydistill.store.location import Location

NAME = "logs/news.json"


@dataclass(frozen=True)
class StageNews:
    """Of one stage of the run that wrote it: `before` of `total` units were finished earlier, `done` by this run.

    `state` is "working", "finished" or "stopped"; times are seconds since 1970 by the driver's clock. `retries` counts
    units that were tried once more.
    """

    stage: str
    unit: str
    total: int
    before: int
    done: int
    started: float
    ended: float | None
    state: str
    retries: int = 0

    def seconds(self, now: float) -> float:
        return max(0.0, (now if self.ended is None else self.ended) - self.started)

    def left(self, now: float) -> float | None:
        """Seconds left at the rate of this run; None where nothing is known of it."""
        if self.state != "working" or not self.done or not self.seconds(now):
            return None
        return (self.total - self.before - self.done) * self.seconds(now) / self.done


@dataclass(frozen=True)
class RunNews:
    """Of one run of a run directory; stages in the order in which they began."""

    host: str
    pid: int
    since: float
    written: float
    stages: tuple[StageNews, ...]

    @classmethod
    def of(cls, tree: object) -> RunNews:
        """Raises ValueError or TypeError for what is none."""
        if not isinstance(tree, dict) or not isinstance(tree.get("stages"), list):
            raise ValueError("no news")
        numbers = [tree.get("pid"), tree.get("since"), tree.get("written")]
        numbers += [s.get(key) for s in tree["stages"] for key in ("total", "before", "done", "started")]
        numbers += [s.get("retries", 0) for s in tree["stages"]]
        if any(type(n) not in (int, float) for n in numbers):
            raise ValueError("a number is of another type")
        return cls(**{**tree, "stages": tuple(StageNews(**s) for s in tree["stages"])})


def read(root: Location) -> RunNews | None:
    """What was written last; None if nothing was, or nothing that can be read."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return RunNews.of(strict_json.mapping((root / NAME).read()))
    return None


class Reporter:
    """Listens to a run and keeps its news; a store that fails costs nothing."""

    def __init__(self, root: Location) -> None:
        self.root, self.since = root, time.time()
        self.stages: list[StageNews] = []
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        now = time.time()
        with self._lock:
            match event:
                case Started():
                    fresh = StageNews(event.stage, event.unit, event.total, event.before, 0, now, None, "working")
                    self.stages.append(fresh)
                case Advanced():
                    self._change(event.stage, lambda s: replace(s, done=s.done + event.units))
                case Retried():
                    self._change(event.stage, lambda s: replace(s, retries=s.retries + 1))
                case Finished():
                    state = "finished" if event.whole else "stopped"
                    self._change(event.stage, lambda s: replace(s, ended=now, state=state))

    def _change(self, stage: str, change: Callable[[StageNews], StageNews]) -> None:
        """Of several of one name the one that began last and works; a pool knows `sample`, not `sample mgd3`."""
        for i in reversed(range(len(self.stages))):
            if f"{self.stages[i].stage} ".startswith(f"{stage} ") and self.stages[i].state == "working":
                self.stages[i] = change(self.stages[i])
                return

    def write(self) -> None:
        """Nothing as long as no stage has begun: a run that finds all of it finished leaves its directory as it is."""
        if not self.stages:
            return
        with self._lock:
            news = RunNews(socket.gethostname(), os.getpid(), self.since, time.time(), tuple(self.stages))
        with contextlib.suppress(OSError):
            (self.root / NAME).write(canonical(asdict(news)).encode())


def reporting(root: Location) -> contextlib.AbstractContextManager[None]:
    """Within, `root`'s news are written every few seconds, and once more at the end."""
    return regularly(Reporter(root), "news")
