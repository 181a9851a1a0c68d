"""Progress on standard error: items done, rate, time left. One line rewritten on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time

from raydistill.errors import printable

NEWS_S = 5.0  # a line this often when something has been finished
QUIET_S = 20.0  # and this often when nothing has: the stage is alive


class Progress:
    """`advance` counts units finished in this run; `before` were finished by earlier runs and do not enter the rate.

    A thread does the showing, so that a stage whose units take minutes is seen to be alive. Use as a context manager.
    """

    def __init__(self, stage: str, unit: str, total: int, before: int = 0) -> None:
        self.stage, self.unit, self.total, self.before = stage, unit, total, before
        self.done, self.start = 0, time.monotonic()
        self.tty = sys.stderr.isatty()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Progress:
        if self.before:
            say(self.stage, f"{self.before} of {self.total} {self.unit} found finished")
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._show()
        if self.tty:
            sys.stderr.write("\n")

    def advance(self, n: int = 1) -> None:
        self.done += n

    def _watch(self) -> None:
        shown, last = 0, time.monotonic()
        while not self._stop.wait(0.5 if self.tty else NEWS_S):
            if self.tty or self.done != shown or time.monotonic() - last >= QUIET_S:
                shown, last = self.done, time.monotonic()
                self._show()

    def _show(self) -> None:
        seconds = time.monotonic() - self.start
        rate = self.done / max(seconds, 1e-9)
        left = (self.total - self.before - self.done) / rate if rate > 0 else 0.0
        text = f"{self.before + self.done}/{self.total} {self.unit}, {clock(seconds)}"
        text += f", {rate:.3g}/s" if rate > 0 else ""
        text += f", {clock(left)} left" if left > 0 else ""
        if self.tty:
            sys.stderr.write(f"\r{printable(self.stage):<13} {text:<65}")
            sys.stderr.flush()
        else:
            say(self.stage, text)


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
