"""What goes on, as a stream of events: a stage has started, advanced, finished. Whoever wants to know listens.

The terminal always does: items done, rate, time left, on standard error, of the stage and of the run as a whole
(outlook.py); bars on a terminal (bars.py), lines elsewhere. Others listen for as long as a run lasts (`listening`):
logs/costs.json is one.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raydistill.errors import printable

if TYPE_CHECKING:
    from raydistill.bars import Bars
    from raydistill.outlook import Outlook

NEWS_S = 5.0  # a line this often when something has been finished
QUIET_S = 20.0  # and this often when nothing has: the stage is alive


@dataclass(frozen=True)
class Skipped:
    """A stage, or the part of one, that earlier runs have finished."""

    stage: str


@dataclass(frozen=True)
class Started:
    """`before` of `total` units were finished by earlier runs."""

    stage: str
    unit: str
    total: int
    before: int


@dataclass(frozen=True)
class Advanced:
    """So many more units are finished."""

    stage: str
    units: int


@dataclass(frozen=True)
class Finished:
    """All that was left is done: `units` in this run, in so many seconds; or not all of it, if something was raised."""

    stage: str
    unit: str
    units: int
    seconds: float
    whole: bool


@dataclass(frozen=True)
class Measured:
    """Numbers of a step, by name: losses of a training, for example. Nothing of it is shown on the terminal."""

    stage: str
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Committed:
    """A unit of a stage is on disk."""

    stage: str
    key: str
    units: int
    bytes: int


@dataclass(frozen=True)
class Retried:
    """A unit is tried once more, because its worker died or was late, or the network failed it."""

    stage: str
    key: str
    reason: str


@dataclass(frozen=True)
class Queued:
    """Units of a stage that wait for a worker and that run, and its workers: running, idle and starting."""

    stage: str
    waiting: int
    running: int
    workers: int


@dataclass(frozen=True)
class Tried:
    """So many trials of a sweep are known, and of the sets that it draws and trains on in all, finals counted."""

    trials: int
    of: int
    sets: int
    of_sets: int


Event = Skipped | Started | Advanced | Finished | Measured | Committed | Retried | Queued | Tried
Listener = Callable[[Event], None]
_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())
_outlook: ContextVar[Outlook | None] = ContextVar("outlook", default=None)
_bars: list[Bars] = []  # of the stages that a terminal shows now


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """The listener is told of every stage that starts within, in this thread."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


@contextmanager
def within(outlook: Outlook) -> Iterator[None]:
    """What `outlook` knows of the run as a whole is shown beside each stage that starts within, in this thread."""
    token = _outlook.set(outlook)
    try:
        yield
    finally:
        _outlook.reset(token)


def tell(event: Event) -> None:
    """Tells those that listen in this thread."""
    for listener in _listeners.get():
        listener(event)


class Progress:
    """A stage that goes on. `advance` counts units finished in this run. Use as a context manager."""

    def __init__(self, stage: str, unit: str, total: int, before: int = 0) -> None:
        self.stage, self.unit, self.total, self.before = stage, unit, total, before
        self.done, self.start = 0, time.monotonic()
        self._listeners: tuple[Listener, ...] = ()

    def __enter__(self) -> Progress:
        self._listeners = (
            Terminal(_outlook.get()),
            *_listeners.get(),
        )  # kept: `advance` may be called from other threads
        self.start = time.monotonic()
        self._tell(Started(self.stage, self.unit, self.total, self.before))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        seconds = time.monotonic() - self.start
        self._tell(Finished(self.stage, self.unit, self.done, seconds, kind is None))

    def advance(self, n: int = 1) -> None:
        self.done += n
        self._tell(Advanced(self.stage, n))

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)


class Terminal:
    """Shows one stage. A thread does it, so that a stage whose units take minutes is seen to be alive."""

    def __init__(self, outlook: Outlook | None = None) -> None:
        self.outlook = outlook
        self.done, self.start = 0, time.monotonic()
        self.advanced = self.start
        self.bars: Bars | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self.started = event
                if event.before:
                    say(event.stage, f"{event.before} of {event.total} {event.unit} found finished")
                if sys.stderr.isatty():
                    from raydistill.bars import Bars

                    self.bars = Bars()
                    _bars.append(self.bars)
                self._thread.start()
            case Advanced():
                self.done += event.units
                self.advanced = time.monotonic()
            case Finished():
                self._stop.set()
                self._thread.join()
                self._show()
                if self.bars is not None:
                    _bars.remove(self.bars)
                    self.bars.close()

    def _watch(self) -> None:
        shown, last = 0, time.monotonic()
        while not self._stop.wait(NEWS_S if self.bars is None else 0.5):
            if self.bars is not None or self.done != shown or time.monotonic() - last >= QUIET_S:
                shown, last = self.done, time.monotonic()
                self._show()
                self._show_overall()

    def _show(self) -> None:
        """What was finished before does not enter the rate."""
        s, now = self.started, time.monotonic()
        took = max(self.advanced - self.start, 1e-9)
        left = time_left(s.total - s.before - self.done, self.done, took, now - self.advanced)
        text = f"{s.before + self.done}/{s.total} {s.unit}, {clock(now - self.start)}"
        text += f", {speed(self.done / took)}" if self.done else ""
        text += f", {clock(left)} left" if left is not None else ""
        if self.bars is not None:
            self.bars.stage.draw(printable(s.stage), (s.before + self.done) / max(1, s.total), printable(text))
        else:
            say(s.stage, text)

    def _show_overall(self) -> None:
        """Of a terminal with the stage, as a line of its own now and then."""
        if self.outlook is None or (self.bars is None and not self.outlook.due(QUIET_S)):
            return
        overall = self.outlook.overall()
        if overall is not None and not self._stop.is_set():
            if self.bars is not None:
                self.bars.whole.draw("overall", overall.share, overall.text())
            else:
                say("overall", overall.text())


def say(stage: str, text: str) -> None:
    """One line of news from a stage."""
    line = f"{printable(stage):<13} {printable(text)}"
    if _bars:
        _bars[-1].write(line)
        return
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def time_left(units: int, done: int, took: float, since: float) -> float | None:
    """Seconds that `units` still take if `done` of them took `took` and the last of these was finished `since` seconds
    ago: units that take minutes are not taken for slower while they are waited for. None where nobody knows."""
    left = units * took / done - since if done else 0.0
    return left if left > 0 else None


def clock(seconds: float) -> str:
    """12s, 3m05s, 2h07m."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    return f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"


def speed(per_second: float) -> str:
    """0.0206/s, 1,150/s."""
    return f"{per_second:,.0f}/s" if per_second >= 1000 else f"{per_second:.3g}/s"


def noun(count: int, unit: str) -> str:
    """The unit, which is named in the plural, of so many: set, sets."""
    if count != 1:
        return unit
    return unit.removesuffix("es") if unit.endswith("sses") else unit.removesuffix("s")
