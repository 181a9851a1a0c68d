"""Uploads in the background: a store that is down, slow or full costs a line, and no stage waits for it."""

from __future__ import annotations

import threading
import time

from raydistill.progress import say
from raydistill.tracking.destination import Destination, reason
from raydistill.tracking.journal import Entry, Journal
from raydistill.tracking.server import Server

GATHER_S = 1.0  # entries of so long go together
AGAIN_S, LONGEST_S = 15.0, 300.0  # until a store that failed is tried again, doubled each time
LAST_S = 30.0  # what a run waits at its end for what is left


class Uploader:
    """One thread for all journals of a program that go to one store."""

    def __init__(self, destination: Destination) -> None:
        self.server = Server(destination)
        self._waiting: dict[str, tuple[Journal, list[Entry]]] = {}
        self._lock, self._news, self._idle = threading.Lock(), threading.Event(), threading.Event()
        self._closing, self._over = threading.Event(), False
        self._fault, self._failures = "", 0  # why the store did not take the last thing, "" if it did
        self._idle.set()
        self._thread = threading.Thread(target=self._work, daemon=True, name="tracking")

    def put(self, journal: Journal, *entries: Entry) -> None:
        """To be brought to the store, after what was put before. Parents come before their children."""
        with self._lock:
            self._waiting.setdefault(journal.key, (journal, []))[1].extend(entries)
            self._idle.clear()
            if self._thread.ident is None:
                self._thread.start()
        self._news.set()

    def settle(self, patience_s: float) -> str:
        """Waits until all is uploaded or one more try has failed; says why not all of it is, "" if it is."""
        failures, deadline = self._failures, time.monotonic() + patience_s
        self._closing.set()
        self._news.set()
        while not self._idle.wait(0.05):
            if self._failures > failures:
                return self._fault
            if time.monotonic() > deadline:
                return self._fault or f"it takes longer than {patience_s:g} s"
        return ""

    def close(self) -> None:
        """Nothing is tried again."""
        self._over = True
        self._closing.set()
        self._news.set()

    def _work(self) -> None:
        pause = AGAIN_S
        while not self._over:
            self._news.wait()
            self._news.clear()
            self._closing.wait(GATHER_S)
            try:
                self._push()
                if self._fault:
                    say("tracking", f"{self.server.destination.uri} takes records again")
                self._fault, pause = "", AGAIN_S
            except Exception as e:  # whatever a client, a driver of a database or a store of artifacts raises
                self._failed(reason(e))
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_S)
                self._news.set()

    def _push(self) -> None:
        """What waits is forgotten only when it is uploaded."""
        while not self._over:
            with self._lock:
                journal, entries = next(((j, list(e)) for j, e in self._waiting.values() if e), (None, []))
                if journal is None:
                    self._idle.set()
                    return
            self.server.push(journal, entries)
            with self._lock:
                del self._waiting[journal.key][1][: len(entries)]

    def _failed(self, why: str) -> None:
        """One line when it begins."""
        if not self._fault and not self._closing.is_set():
            uri = self.server.destination.uri
            say("tracking", f"{uri} takes nothing now ({why}); the run goes on and keeps its records for later")
        self._fault = why
        self._failures += 1
