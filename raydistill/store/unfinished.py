"""Folders that are written beside their place under a hidden name, which says who is at it, and are renamed last."""

from __future__ import annotations

import glob
import shutil
import uuid
from pathlib import Path

from raydistill.store import processes

PARTIAL = "raydistill-partial"


def beside(target: Path) -> Path:
    """Where this process may write what is to become `target`."""
    return target.with_name(f".{target.name}.{PARTIAL}-{processes.mark()}-{uuid.uuid4().hex[:8]}")


def sweep(target: Path) -> None:
    """Removes what processes that were killed have left of it; a folder that may be somebody's work stays."""
    for folder in target.parent.glob(glob.escape(f".{target.name}.{PARTIAL}") + "*"):
        mark = folder.name.rpartition(f"{PARTIAL}-")[2].rpartition("-")[0]
        if processes.lives(mark) is False:
            shutil.rmtree(folder, ignore_errors=True)
