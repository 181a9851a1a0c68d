"""What a process and all that it started listen on."""

from __future__ import annotations

import ipaddress
import threading
from contextlib import suppress

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """The process and its descendants, of those that still live."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def listening(pid: int) -> set[tuple[str, int]]:
    """(address, port) of every TCP socket that listens now."""
    found = set()
    for process in tree(pid):
        with suppress(psutil.Error):
            for c in process.net_connections(kind="tcp"):
                if c.status == psutil.CONN_LISTEN:
                    found.add((c.laddr.ip, c.laddr.port))
    return found


def on_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


class Watch:
    """Collects, while a process runs, whatever listens in it. `at(pid)` begins, the context ends it."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()
        self.over = threading.Event()

    def at(self, pid: int) -> Watch:
        self.thread = threading.Thread(target=self._look, args=(pid,), daemon=True)
        return self

    def _look(self, pid: int) -> None:
        while not self.over.wait(0.3):
            self.seen |= listening(pid)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.over.set()
        self.thread.join()

    def open_to_others(self) -> list[tuple[str, int]]:
        return sorted(s for s in self.seen if not on_loopback(s[0]))
