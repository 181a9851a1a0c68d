"""logs/events-WHEN.jsonl: what went on in a run, a line of JSON an event, for those who look for what went wrong.

Every line has `time` (UTC, ISO 8601), `event` (committed, finished, measured, retried, started) and `stage`; the rest
is of the event (`progress.py`), `key` among them. A driver has a file of its own, appended to on a disk and written
anew on an object store, which cannot append. Nothing is read back; a store that fails costs lines and nothing else.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from raydistill.errors import printable
from raydistill.identity import canonical
from raydistill.progress import Advanced, Committed, Event, Finished, Measured, Queued, Retried, Skipped, Started, Tried
from raydistill.results.regularly import regularly
from raydistill.store.location import Location

PATTERN = "logs/events-*.jsonl"
PART = 2**20  # characters of a file on an object store
NAMES = {Started: "started", Committed: "committed", Retried: "retried", Finished: "finished", Measured: "measured"}


def line(event: Event, now: float) -> str | None:
    """None for what is no news of its own: how many units are done follows from what is committed."""
    if isinstance(event, Advanced | Queued | Skipped | Tried):
        return None
    when = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
    tree: dict[str, Any] = {"time": when, "event": NAMES[type(event)], **asdict(event)}
    if isinstance(event, Measured):  # JSON has no NaN
        tree["values"] = {k: v if math.isfinite(v) else str(v) for k, v in event.values.items()}
    return canonical({k: printable(v) if isinstance(v, str) else v for k, v in tree.items()}) + "\n"


class EventLog:
    """Listens to a run, and appends what it has heard when it is told to."""

    def __init__(self, root: Location) -> None:
        self.root, self.part = root, ""  # on an object store: what the present file holds
        self.pending: list[str] = []
        self.file = _new_name()
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        if (text := line(event, time.time())) is not None:
            with self._lock:
                self.pending.append(text)

    def write(self) -> None:
        with self._lock:
            text, self.pending = "".join(self.pending), []
        if not text:
            return
        if self.root.is_local:
            _append(self.root / self.file, text)
            return
        if len(self.part) + len(text) > PART:
            self.part, self.file = "", _new_name()
        self.part += text
        (self.root / self.file).write(self.part.encode())


def keeping(root: Location) -> contextlib.AbstractContextManager[None]:
    """Within, what goes on is kept in `root`'s logs."""
    return regularly(EventLog(root), "events")


def _new_name() -> str:
    return PATTERN.replace("*", f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}")


def _append(location: Location, text: str) -> None:
    path = str(location)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with open(descriptor, "a", encoding="utf-8") as file:
        file.write(text)
