"""What goes on, as a stream of events: a stage has started, advanced, finished. Whoever wants to know listens.

The terminal always does: items done, rate, time left, on standard error; one line rewritten on a terminal, lines
elsewhere. Others listen for as long as a run lasts (`listening`): logs/costs.json is one.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from raydistill.errors import printable

NEWS_S = 5.0  # a line this often when something has been finished
QUIET_S = 20.0  # and this often when nothing has: the stage is alive


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


Event = Started | Advanced | Finished | Measured | Committed | Retried | Queued
Listener = Callable[[Event], None]
_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """The listener is told of every stage that starts within, in this thread."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


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
        self._listeners = (Terminal(), *_listeners.get())  # kept: `advance` may be called from other threads
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

    def __init__(self) -> None:
        self.done, self.start = 0, time.monotonic()
        self.tty = sys.stderr.isatty()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self.started = event
                if event.before:
                    say(event.stage, f"{event.before} of {event.total} {event.unit} found finished")
                self._thread.start()
            case Advanced():
                self.done += event.units
            case Finished():
                self._stop.set()
                self._thread.join()
                self._show()
                if self.tty:
                    sys.stderr.write("\n")

    def _watch(self) -> None:
        shown, last = 0, time.monotonic()
        while not self._stop.wait(0.5 if self.tty else NEWS_S):
            if self.tty or self.done != shown or time.monotonic() - last >= QUIET_S:
                shown, last = self.done, time.monotonic()
                self._show()

    def _show(self) -> None:
        """What was finished before does not enter the rate."""
        s, seconds = self.started, time.monotonic() - self.start
        rate = self.done / max(seconds, 1e-9)
        left = (s.total - s.before - self.done) / rate if rate > 0 else 0.0
        text = f"{s.before + self.done}/{s.total} {s.unit}, {clock(seconds)}"
        text += f", {rate:.3g}/s" if rate > 0 else ""
        text += f", {clock(left)} left" if left > 0 else ""
        if self.tty:
            sys.stderr.write(f"\r{printable(s.stage):<13} {text:<65}")
            sys.stderr.flush()
        else:
            say(s.stage, text)


def say(stage: str, text: str) -> None:
    """One line of news from a stage."""
    sys.stderr.write(f"{printable(stage):<13} {printable(text)}\n")
    sys.stderr.flush()


def clock(seconds: float) -> str:
    """12s, 3m05s, 2h07m."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    return f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"
