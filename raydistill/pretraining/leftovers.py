"""What trainings that were not finished have left in `pretrain.out`: named, and removed when somebody asks for it."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from raydistill.errors import BadInput
from raydistill.models.checkpoint import WORK
from raydistill.store import seals
from raydistill.store.claims import FOLDER, at_work
from raydistill.store.location import Location


@dataclass(frozen=True)
class Leftover:
    """The state of a training, by its fingerprint, or what it encoded; `seconds` since 1970 of the latest file."""

    name: str
    size: int
    seconds: float

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d", time.gmtime(self.seconds))
        return f"{self.name} ({self.size / 2**20:,.1f} MiB, last written {when})"


def leftovers(out: Path, but: str | None = None) -> list[Leftover]:
    """Of all trainings in `out`, in the order of their names, except the one of the fingerprint `but`."""
    work, rows = out / WORK, []
    for folder in sorted(work.iterdir()) if work.is_dir() else []:
        if folder.name in (but, FOLDER) or not folder.is_dir() or (but is not None and not _is_state(folder.name)):
            continue
        files = [p.stat() for p in folder.rglob("*") if p.is_file()]
        latest = max((f.st_mtime for f in files), default=folder.stat().st_mtime)
        rows.append(Leftover(folder.name, sum(f.st_size for f in files), latest))
    return rows


def _is_state(name: str) -> bool:
    """Latents and logs are of whoever trains next."""
    return len(name) == 16 and set(name) <= set("0123456789abcdef")


def forget_news(out: Path) -> None:
    """Removes what a finished training has told of itself, and the folder if nothing else is in it."""
    work = out / WORK
    for name in ("logs", seals.FOLDER):
        shutil.rmtree(work / name, ignore_errors=True)
    if work.is_dir() and not os.listdir(work):
        work.rmdir()


def command(out: Path) -> str:
    """What removes them."""
    return shlex.join(["python", "jobs/pretrain.py", "--clean", str(out)])


def removable(out: Path) -> list[Leftover]:
    """What `clean` would remove. Raises BadInput if there is nothing, or somebody works."""
    out = out.expanduser().resolve()
    work = out / WORK
    if not work.is_dir():
        raise BadInput(f"--clean {out}: no training has left anything there; give a pretrain.out")
    if at_work(Location.of(str(work))):
        raise BadInput(f"--clean {out}: a training is at work there; stop it first, or wait until it ends")
    return leftovers(out)


def clean(out: Path) -> list[Leftover]:
    """Removes them, and the folder if nothing else is in it. Raises BadInput as `removable` does."""
    removed = removable(out)
    out = out.expanduser().resolve()
    shutil.rmtree(out / WORK)
    if not os.listdir(out):
        out.rmdir()
    return removed
