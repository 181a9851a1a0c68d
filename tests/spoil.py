"""Runs that are spoiled: a small one, what a look at it finds, and ways to damage a file."""

from __future__ import annotations

import contextlib
from pathlib import Path

from artifacts import FINGERPRINT, at, work
from newsfiles import is_news

from raydistill.store import seals
from raydistill.store.findings import Finding
from raydistill.store.location import Location
from raydistill.store.rundir import RunDir
from raydistill.store.verification import survey, verify

SEALED = (
    "config.yaml",
    "trainings.json",
    "result.json",
    "report.html",
    "logs/costs.json",
    "logs/artifacts.json",
    "distilled/data/train-00000-of-00001.parquet",
)
CONTENT = {"config.yaml": b"ipc: 2\n", "logs/artifacts.json": f'["encode/{FINGERPRINT}"]'.encode()}
STAGE = f"encode/{FINGERPRINT}"


def small_run(root: Path) -> Path:
    """A run directory: one small artifact of three keys, and what people read."""
    RunDir(str(root)).claim()
    work(at(root))
    for name in SEALED:
        seals.write(Location.of(str(root)), name, CONTENT.get(name, b"{}"))
    return root


def findings(place: Path | str) -> list[Finding]:
    return list(verify(survey(Location.of(str(place)))))


def told(root: Path) -> list[tuple[str, str]]:
    """Kind and place, as a path in the run, of every finding."""
    return [(str(f.kind), Path(f.location.uri).relative_to(root).as_posix()) for f in findings(root)]


def flip(path: Path, at: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def commit(root: Path, key: str = "a") -> Path:
    (found,) = (root / STAGE / "commits").glob(f"{key}~*")
    return found


def data(root: Path, key: str = "a") -> Path:
    (found,) = (root / STAGE / "data").glob(f"{key}-*")
    return found


def manifest(root: Path) -> Path:
    return root / STAGE / "manifest.json"


def seal(root: Path, name: str = "result.json") -> Path:
    (found,) = (root / "seals").glob(f"*{name.rpartition('/')[2]}.json")
    return found


def files(root: Path) -> dict[str, bytes]:
    """Every file by its relative path, but for those that nothing reads back."""
    names = (p for p in sorted(root.rglob("*")) if p.is_file() and not is_news(p))
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in names}


def fill(disk: Path) -> Path:
    """Fills a small disk to its last page. Returns the file that does, which may be removed."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as f:
        while True:
            f.write(bytes(4096))
    return filler
