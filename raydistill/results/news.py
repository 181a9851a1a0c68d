"""logs/news.json: how far a run has come, written while it goes on, for those who look from elsewhere (`status`).

logs/status.html is the same as a page. Both are news, not results: nothing is read back by a run, and they may be lost.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from raydistill import signals, strict_json
from raydistill.errors import one_line, printable
from raydistill.identity import canonical
from raydistill.outlook import Expected, Outlook, Overall, StageNews, SweepNews, overall
from raydistill.progress import within
from raydistill.redact import redact
from raydistill.results import costs
from raydistill.results.regularly import regularly
from raydistill.results.standing import seconds_spent
from raydistill.store.location import Location

NAME = "logs/news.json"
PAGE = "logs/status.html"
LARGEST = 1e15  # a larger number was put there by others
SCALARS: dict[type, tuple[type, ...]] = {str: (str,), bool: (bool,), int: (int, float), float: (int, float)}

Made = TypeVar("Made")


@dataclass(frozen=True)
class RunNews:
    """Of one run of a run directory; stages in the order in which they began, `expected` those of its plan. `sweep`:
    of a run that is one. `title` says what the run is, `price` what an hour of all machines costs; `spent` seconds
    went into stages that are done, over all runs. `over`: it has ended, with `error` if it was not done."""

    host: str
    pid: int
    since: float
    written: float
    stages: tuple[StageNews, ...]
    skipped: tuple[str, ...] = ()
    expected: tuple[Expected, ...] = ()
    sweep: SweepNews | None = None
    title: str = ""
    price: float | None = None
    spent: float = 0.0
    over: bool = False
    error: str = ""

    @classmethod
    def of(cls, tree: object) -> RunNews:
        """Raises ValueError or TypeError for what is none."""
        if not isinstance(tree, dict):
            raise ValueError("no news")
        stages, planned = (
            tuple(_made(kind, item) for item in _list(tree.get(key, [])))
            for key, kind in (("stages", StageNews), ("expected", Expected))
        )
        skipped = tuple(_list(tree.get("skipped", [])))
        if any(type(name) is not str for name in skipped):
            raise ValueError("a name is of another type")
        sweep = None if tree.get("sweep") is None else _made(SweepNews, tree["sweep"])
        known = {"stages": stages, "skipped": skipped, "expected": planned, "sweep": sweep}
        return _made(cls, {**tree, **known})

    def overall(self, now: float) -> Overall | None:
        if self.sweep is not None:
            return self.sweep.overall(now)
        return overall(self.expected, self.stages, self.skipped, now)


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("no list")
    return value


def _made(kind: type[Made], tree: object) -> Made:
    """Of a mapping of its fields. Raises ValueError or TypeError for a text, a number or a truth that is none."""
    if not isinstance(tree, dict):
        raise ValueError("no mapping")
    news = kind(**tree)
    for name, hint in get_type_hints(kind).items():
        value, kinds = getattr(news, name), get_args(hint) if isinstance(hint, UnionType) else (hint,)
        if not SCALARS.keys() & set(kinds) or (value is None and type(None) in kinds):
            continue
        if not any(type(value) in SCALARS.get(k, ()) for k in kinds):
            raise ValueError(f"{name} is of another type")
        if isinstance(value, int | float) and abs(value) >= LARGEST:
            raise ValueError(f"{name} is larger than any number that is counted here")
    return news


def read(root: Location) -> RunNews | None:
    """What was written last; None if nothing was, or nothing that can be read."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return RunNews.of(strict_json.mapping((root / NAME).read()))
    return None


class Reporter(Outlook):
    """Keeps the news of a run. `title` and `price` as of RunNews."""

    def __init__(
        self,
        root: Location,
        expect: Callable[[], Sequence[Expected]] = tuple,
        title: str = "",
        price: float | None = None,
    ) -> None:
        super().__init__(expect)
        self.root, self.title, self.price = root, title, price
        self.over, self.error = False, ""
        self._spent, self._counted = 0.0, -1
        self._writing = threading.Lock()

    def write(self) -> None:
        """Nothing as long as no stage has begun: a run that finds all of it finished leaves its directory as it is, but
        for news of an end that it has made good."""
        with self._writing:
            news = self._news() if self.stages else self._made_good()
            if news is None:
                return
            (self.root / NAME).replace(redact(canonical(asdict(news))).encode())
            from raydistill.results.status_page import render  # who only reads news needs none of what draws

            (self.root / PAGE).replace(render(self.root, news).encode())

    def end(self, error: str = "") -> None:
        """What is written from now on is of a run that has ended."""
        self.over, self.error = True, error

    def _news(self) -> RunNews:
        expected = tuple(self.plan())
        with self._lock:
            stages, skipped, sweep = tuple(self.stages), tuple(self.skipped), self.sweep
        return RunNews(
            host=socket.gethostname(),
            pid=os.getpid(),
            since=self.since,
            written=time.time(),
            stages=stages,
            skipped=skipped,
            expected=expected,
            sweep=sweep,
            title=printable(self.title),
            price=self.price,
            spent=self._seconds(stages),
            over=self.over,
            error=self.error,
        )

    def _made_good(self) -> RunNews | None:
        """The last news with a good end, where they had an error, or none: the run was killed behind its last stage."""
        last = read(self.root) if self.over and not self.error else None
        if last is None or (last.over and not last.error):
            return None
        return replace(last, over=True, error="", written=time.time())

    def _seconds(self, stages: Sequence[StageNews]) -> float:
        """Read again only when one more stage has ended, since a store may ask for money."""
        ended = sum(s.ended is not None for s in stages)
        if ended != self._counted:
            with contextlib.suppress(OSError):
                self._spent, self._counted = seconds_spent(costs.read(self.root)), ended
        return self._spent

    def _stopped(self) -> None:
        self.end("stopped by a signal")
        self.write()


@contextlib.contextmanager
def reporting(
    root: Location,
    expect: Callable[[], Sequence[Expected]] = tuple,
    title: str = "",
    price: float | None = None,
) -> Iterator[None]:
    """Within, `root`'s news are written every few seconds, and once more at the end; the terminal shows the whole."""
    reporter = Reporter(root, expect, title, price)
    with within(reporter), regularly(reporter, "news"), signals.farewell(reporter._stopped):
        try:
            yield
        except BaseException as e:
            reporter.end(": ".join(filter(None, [type(e).__name__, one_line(e)])))
            raise
        reporter.end()
