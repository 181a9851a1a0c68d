"""Which process made something on shared storage, and whether it has ended: known only on the machine it ran on."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from pathlib import Path

from raydistill.identity import digest

MARK = re.compile(r"([0-9a-f]{12})-(\d+)-(\d+)")


def mark() -> str:
    """MACHINE-PID-START of this process: numbers of processes are used again."""
    pid = os.getpid()
    return f"{_machine()}-{pid}-{_start(pid) or 0}"


def lives(of: str) -> bool | None:
    """Whether the process of a mark is there; None for a machine, or a mark, that nobody here knows."""
    match = MARK.fullmatch(of)
    if match is None or match[1] != _machine():
        return None
    if os.path.isdir("/proc/self"):
        return _start(int(match[2])) == int(match[3])
    try:
        os.kill(int(match[2]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _machine() -> str:
    """Names this boot of this machine, and the container in which process numbers are counted."""

    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return digest("\n".join(parts).encode())[:12]


def _start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it is not there, or only waits to be buried."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
