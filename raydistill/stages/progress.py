"""Progress on standard error: items done, rate, time left. One line rewritten on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time


class Progress:
    """`done` counts units finished in this run; `before` were finished by earlier runs and do not enter the rate."""

    def __init__(self, stage: str, unit: str, total: int, before: int = 0, every_s: float = 5.0) -> None:
        self.stage, self.unit, self.total, self.before, self.every_s = stage, unit, total, before, every_s
        self.done, self.start, self.shown = 0, time.monotonic(), 0.0
        self.tty = sys.stderr.isatty()
        if before:
            say(stage, f"{before} of {total} {unit} found finished")

    def advance(self, n: int = 1) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.shown >= (0.2 if self.tty else self.every_s):
            self.shown = now
            self._show("\r" if self.tty else "")

    def close(self, note: str = "") -> None:
        self._show("\r" if self.tty else "", note)
        if self.tty:
            sys.stderr.write("\n")

    def seconds(self) -> float:
        return time.monotonic() - self.start

    def _show(self, lead: str, note: str = "") -> None:
        rate = self.done / max(self.seconds(), 1e-9)
        left = (self.total - self.before - self.done) / rate if rate > 0 else float("inf")
        ahead = f", {clock(left)} left" if 0 < left < float("inf") else ""
        text = (
            f"{self.stage:<9} {self.before + self.done}/{self.total} {self.unit}, "
            f"{rate:.3g}/s, {clock(self.seconds())} elapsed{ahead}{note}"
        )
        sys.stderr.write(f"{lead}{text:<79}" + ("" if lead else "\n"))
        sys.stderr.flush()


def say(stage: str, text: str) -> None:
    """One line of news from a stage."""
    sys.stderr.write(f"{stage:<9} {text}\n")
    sys.stderr.flush()


def clock(seconds: float) -> str:
    """12s, 3m05s, 2h07m."""
    s = round(seconds)
    if s < 60:
        return f"{s}s"
    return f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"
