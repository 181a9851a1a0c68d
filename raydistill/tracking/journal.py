"""The journal of a tracked run: all that MLflow is to know of it, written into the run directory first.

    ROOT/tracking/KEY/card.json         who it is: its id, its parent's, and MLflow's run id in each store; sealed
    ROOT/tracking/KEY/WHEN-WHO.jsonl    entries, a line each with its digest; a file a driver (on object stores several)

KEY is a fingerprint of what is run, so another configuration in the same directory is another run to MLflow. A line
that was cut off by a kill does not match its digest and is none.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from raydistill import strict_json
from raydistill.errors import CorruptArtifact, StageFailed
from raydistill.identity import canonical, digest
from raydistill.store import seals
from raydistill.store.location import Location, reason, remedy
from raydistill.store.rundir import TRACKING

FOLDER, CARD, LINES = TRACKING, "card.json", ".jsonl"
CHECK = 16  # characters of a line's digest
PART = 2**16  # characters of a file on an object store, which is written anew with each line

Entry = dict[str, Any]  # "kind", "time" in milliseconds since 1970, and what the kind holds (tracker.py)


@dataclass(frozen=True)
class Card:
    """`id` is a tag of the run in MLflow, by which it is found again; `runs` its run ids by store and experiment."""

    id: str
    parent: str = ""
    runs: dict[str, str] = field(default_factory=dict)


class Journal:
    """Appends for one driver, and reads what all have written. Threads may share it."""

    def __init__(self, root: Location, key: str, parent: str = "") -> None:
        self.root, self.key, self.folder = root, key, root / FOLDER / key
        self._lock = threading.Lock()
        self._text, self._written, self._file = "", True, _file_name()  # `_text`: on a disk what is not written yet
        self._known = self.entries()
        self.card = self._card(parent)

    @property
    def known(self) -> list[Entry]:
        """Every entry so far, of earlier drivers and of this one."""
        with self._lock:
            return list(self._known)

    def append(self, entry: Entry) -> None:
        """Raises StageFailed if it cannot be written; then it is written with the next that can."""
        text = canonical(entry)
        line = f"{digest(text.encode())[:CHECK]} {text}\n"
        with self._lock:
            self._known.append(entry)
            if self.folder.is_local:
                self._text += line
                self._append()
            else:
                if self._written and len(self._text) + len(line) > PART:
                    self._text, self._file = "", _file_name()
                self._text, self._written = self._text + line, False
                (self.folder / self._file).write(self._text.encode())
                self._written = True

    def entries(self) -> list[Entry]:
        """What has been written, the oldest first; torn and altered lines are none. Raises CannotRead."""
        entries = []
        for name in self.folder.list():
            if name.endswith(LINES):
                entries += [e for line in (self.folder / name).read().splitlines() if (e := _entry(line)) is not None]
        return entries

    def remember(self, store: str, run_id: str) -> None:
        """Keeps MLflow's run id in a store. Raises StageFailed."""
        if self.card.runs.get(store) != run_id:
            self._write(replace(self.card, runs={**self.card.runs, store: run_id}))

    def _append(self) -> None:
        path = f"{self.folder}/{self._file}"
        try:
            _append(path, self._text)
        except OSError as e:
            raise StageFailed(f"cannot write {path}: {reason(e)}; {remedy(e)}") from e
        self._text = ""

    def _card(self, parent: str) -> Card:
        name = f"{FOLDER}/{self.key}/{CARD}"
        seal = seals.find(self.root, name)
        try:
            return _parsed(seals.read(self.root, name, ""))
        except CorruptArtifact:
            if seal is not None and seal.copy:
                self._write(_parsed(seal.copy.encode()))
                return self.card
        begun = next((e for e in self._known if e["kind"] == "begin"), {"id": uuid.uuid4().hex, "parent": parent})
        self._write(Card(begun["id"], begun["parent"]))
        return _parsed((self.root / name).read())  # of two drivers that begin together one has the last word

    def _write(self, card: Card) -> None:
        self.card, text = card, canonical(asdict(card))
        seals.write(self.root, f"{FOLDER}/{self.key}/{CARD}", text.encode(), copy=text)


def journals(root: Location) -> list[Journal]:
    """Those of a run directory, parents before their children. Raises CannotRead."""
    unsorted = [Journal(root, key) for key in (root / FOLDER).list() if (root / FOLDER / key / CARD).exists()]
    ids = {j.card.id: j for j in unsorted}

    def depth(journal: Journal | None) -> int:
        return 0 if journal is None else 1 + depth(ids.get(journal.card.parent))

    return sorted(unsorted, key=depth)


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _parsed(data: bytes) -> Card:
    return Card(**strict_json.mapping(data))


def _entry(line: bytes) -> Entry | None:
    check, _, text = line.partition(b" ")
    if digest(text)[:CHECK].encode() != check:
        return None
    return strict_json.mapping(text)


def _file_name() -> str:
    return f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}{LINES}"


def _append(path: str, text: str) -> None:
    """All of it or, on a full disk, nothing: a line that was cut off would swallow the next one. Raises OSError."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        before, left = os.fstat(file).st_size, text.encode()
        try:
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
        except OSError:
            os.ftruncate(file, before)
            raise
    finally:
        os.close(file)


def merged(entries: Sequence[Entry], kind: str) -> Mapping[str, Any]:
    """The values of all entries of a kind, later ones before earlier ones."""
    values: dict[str, Any] = {}
    for e in entries:
        if e["kind"] == kind:
            values |= e["values"]
    return values
