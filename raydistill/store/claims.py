"""Who is at work on a run directory: several drivers with one configuration, but never two with different ones.

    RUN/drivers/CONFIG~PROCESS~NUMBER.asking    written first; then its driver looks who else is there
    RUN/drivers/CONFIG~PROCESS~NUMBER.working   written anew every BEAT_S, as long as it works; then both are removed

No locks: a driver looks only after it has written, so of two at the same moment at least one sees the other. Who sees
another one working leaves. Of two that ask, the second by name leaves, and the first waits to see what became of it:
it may have looked too early. A driver that was killed is forgotten at once on its own machine, elsewhere after LAPSE_S,
counted by the storage's clock.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from raydistill import signals, strict_json
from raydistill.errors import BadInput, StageFailed
from raydistill.identity import canonical
from raydistill.store import processes
from raydistill.store.location import Location

FOLDER = "drivers"
BEAT_S, LAPSE_S, WAIT_S = 15.0, 90.0, 0.1
ASKING, WORKING = "asking", "working"


@dataclass(frozen=True)
class Driver:
    """One name in the folder: the digest of a configuration, the process, and a number that tells its runs apart."""

    config: str
    process: str
    number: str
    state: str

    @property
    def name(self) -> str:
        return f"{self.config}~{self.process}~{self.number}.{self.state}"

    @property
    def who(self) -> tuple[str, str, str]:
        return self.config, self.process, self.number


class Claim:
    """`config` is the digest of the configuration; an `alone` one bears no second driver of the same one either."""

    def __init__(self, root: Location, key: str, config: str, alone: bool = False) -> None:
        self.root, self.key, self.config, self.alone = root, key, config[:16], alone
        self.number, self.over, self.lost = uuid.uuid4().hex[:8], threading.Event(), threading.Event()
        about = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        self.about = canonical(about).encode()

    def check(self) -> None:
        """Raises StageFailed if another driver has taken this one for dead and gone to work."""
        if self.lost.is_set():
            raise StageFailed(
                f"{self.key}: {self.root} was taken over while this run was not heard of for {LAPSE_S:g} s; run the "
                "same command again when the other one has ended"
            )

    def enter(self) -> None:
        """Raises BadInput, naming who works there with another configuration; then nothing is left."""
        self._write(ASKING)
        try:
            while rivals := self._rivals():
                first = min(rivals, key=lambda d: (d.state != WORKING, d.who))
                if first.state == WORKING or first.who < self._me(ASKING).who:
                    raise self._refusal(first)
                time.sleep(WAIT_S)
            self._write(WORKING)
        except BaseException:
            self.leave()
            raise
        threading.Thread(target=self._beat, daemon=True, name="claim").start()

    def leave(self) -> None:
        self.over.set()
        for state in (ASKING, WORKING):
            self._remove(self._me(state))
        if self.root.is_local:
            with contextlib.suppress(OSError):  # others are at work
                os.rmdir((self.root / FOLDER).uri)

    def _me(self, state: str) -> Driver:
        return Driver(self.config, processes.mark(), self.number, state)

    def _write(self, state: str) -> None:
        (self.root / FOLDER / self._me(state).name).write(self.about)

    def _remove(self, driver: Driver) -> None:
        with contextlib.suppress(OSError, StageFailed):  # it lapses
            (self.root / FOLDER / driver.name).delete()

    def _beat(self) -> None:
        while not self.over.wait(BEAT_S):
            with contextlib.suppress(OSError, StageFailed):  # a store that does not answer now
                if (self.root / FOLDER / self._me(WORKING).name).exists():
                    self._write(WORKING)
                elif not self.over.is_set():
                    self.lost.set()
                    return

    def _rivals(self) -> list[Driver]:
        """The living drivers that this one cannot share with; what the dead have left is removed."""
        living = []
        infos = {i.base_name: i.mtime_ns or 0 for i in (self.root / FOLDER).infos()}
        now = infos.get(self._me(ASKING).name, max(infos.values(), default=0))
        for name, written in infos.items():
            who, _, state = name.rpartition(".")
            parts = who.split("~")
            if len(parts) != 3 or state not in (ASKING, WORKING):
                continue
            driver = Driver(parts[0], parts[1], parts[2], state)
            lives = processes.lives(driver.process)
            if lives is False or (lives is None and now - written > LAPSE_S * 1e9):
                self._remove(driver)
            elif driver.who != self._me(ASKING).who and (self.alone or driver.config != self.config):
                living.append(driver)
        return living

    def _refusal(self, other: Driver) -> BadInput:
        about: dict[str, object] = {}
        with contextlib.suppress(OSError, ValueError):
            about = strict_json.mapping((self.root / FOLDER / other.name).read())
        since = about.get("since")
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(since)) if isinstance(since, float) else "a moment"
        what = "another run of this training" if other.config == self.config else "another configuration"
        return BadInput(
            f"{self.key}: {self.root} is in use by {what} (host {about.get('host', 'unknown')}, process "
            f"{about.get('pid', 'unknown')}, since {when}); wait until it ends, stop it, or give another {self.key}; "
            f"if its machine is gone, it is forgotten after {LAPSE_S:g} s"
        )


def at_work(root: Location) -> bool:
    """Whether a driver says that it works there, and is not known to have ended. Raises CannotRead."""
    parts = [name.rpartition(".")[0].split("~") for name in (root / FOLDER).list() if name.endswith(WORKING)]
    return any(len(part) == 3 and processes.lives(part[1]) is not False for part in parts)


@contextlib.contextmanager
def hold(root: Location, key: str, config: str, alone: bool = False) -> Iterator[Claim]:
    """Works on `root`, whose configuration key is `key`, until the block ends. Raises BadInput as Claim.enter does."""
    claim = Claim(root, key, config, alone)
    claim.enter()
    try:
        with signals.farewell(claim.leave):
            yield claim
    finally:
        claim.leave()
