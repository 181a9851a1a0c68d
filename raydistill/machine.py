"""What this machine has."""

from __future__ import annotations

import os
from pathlib import Path

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def memory() -> int:
    """Bytes that this machine has, or that its container may use."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in map(Path, LIMITS):
        text = limit.read_text().strip() if limit.is_file() else ""
        sizes += [int(text)] if text.isdecimal() else []
    return min(sizes)
