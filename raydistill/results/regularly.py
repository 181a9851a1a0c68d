"""Somebody who listens to a run and writes what was heard every few seconds, from a thread of its own.

Whatever goes wrong with that costs what would have been written, and never the run.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Protocol

from raydistill.progress import Event, listening

PERIOD_S = 5.0  # between two writings, so that an object store is not asked more often


class Writer(Protocol):
    def __call__(self, event: Event) -> None: ...

    def write(self) -> None: ...


@contextlib.contextmanager
def regularly(writer: Writer, name: str) -> Iterator[None]:
    """Within, `writer` hears what goes on in this thread and writes it every PERIOD_S; and once more at the end."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(PERIOD_S):
            _write(writer)

    thread = threading.Thread(target=watch, daemon=True, name=name)
    thread.start()
    try:
        with listening(writer):
            yield
    finally:
        over.set()
        thread.join()
        _write(writer)


def _write(writer: Writer) -> None:
    with contextlib.suppress(Exception):  # a store that fails now may take it the next time
        writer.write()
