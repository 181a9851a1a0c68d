"""What chaos.py counts: faults, what they cost, and what was lost of what had been committed."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import save, table

from raydistill.identity import digest


@dataclass
class Fault:
    """`seconds` until the next unit was committed after it; None if none was any more."""

    kind: str
    at: float
    what: str
    seconds: float | None = None


@dataclass
class Tally:
    faults: list[Fault] = field(default_factory=list)
    runs: list[float] = field(default_factory=list)  # wall seconds of finished ones
    ended: Counter[str] = field(default_factory=Counter)  # how commands ended
    retries: int = 0
    commits: int = 0
    lost: list[str] = field(default_factory=list)  # commits that went or changed
    differing: list[str] = field(default_factory=list)  # files of a finished run that are not the quiet one's


def commits(run: Path) -> dict[str, tuple[int, int]]:
    """Files of whole commits, with inode and modification time."""
    seen = {}
    for record in run.glob("*/*/commits/*.json"):
        if digest(record.read_bytes())[:16] == record.stem.rpartition("~")[2]:
            for file in (record, *record.parents[1].glob(f"data/{record.stem.rpartition('~')[0]}-*")):
                seen[str(file.relative_to(run))] = (file.stat().st_ino, file.stat().st_mtime_ns)
    return seen


def differences(run: Path, reference: Path) -> list[str]:
    """Files of the distilled set, manifests and commits that are not the same, lack, or are there beside them."""
    patterns = ("distilled/*", "distilled/data/*", "*/*/manifest.json", "*/*/commits/*.json")
    either = {str(p.relative_to(root)) for root in (run, reference) for pattern in patterns for p in root.glob(pattern)}
    if not any(name.startswith("distilled/") for name in either):
        return ["distilled/ is empty"]
    return sorted(n for n in either if content(run / n) != content(reference / n))


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def by_kind(tally: Tally) -> list[dict[str, Any]]:
    """A row a kind: how often, seconds to the next commit (half of them, all of them below)."""
    rows = []
    for kind in sorted({f.kind for f in tally.faults}):
        waits = sorted(f.seconds for f in tally.faults if f.kind == kind and f.seconds is not None)
        rows.append(
            {
                "fault": kind,
                "times": sum(f.kind == kind for f in tally.faults),
                "next_commit_s": round(statistics.median(waits), 1) if waits else None,
                "longest_s": round(waits[-1], 1) if waits else None,
            }
        )
    return rows


def totals(tally: Tally, quiet_s: float) -> dict[str, Any]:
    seconds = sum(tally.runs)
    return {
        "faults": len(tally.faults),
        "runs": len(tally.runs),
        "commits": tally.commits,
        "commands": dict(tally.ended),
        "retries": tally.retries,
        "quiet_run_s": round(quiet_s, 1),
        "seconds": round(seconds, 1),
        "seconds_lost": round(seconds - quiet_s * len(tally.runs), 1),
        "commits_lost": len(tally.lost),
        "files_that_differ": len(tally.differing),
    }


def report(file: Path, tally: Tally, quiet_s: float, about: dict[str, Any]) -> None:
    """Prints the tables; NAME.json holds every fault."""
    kinds, whole = by_kind(tally), totals(tally, quiet_s)
    rows = [[str(v) for v in row.values()] for row in kinds]
    lines = [
        table(["fault", "times", "seconds to the next commit, median", "longest"], rows),
        "",
        table(["in all", ""], [[name.replace("_", " "), str(value)] for name, value in whole.items()]),
        *[f"lost or changed: {name}" for name in tally.lost],
        *[f"differs: {name}" for name in tally.differing],
    ]
    body = {**about, "by_kind": kinds, "in_all": whole, "faults": [asdict(f) for f in tally.faults]}
    save(file, body, "\n".join(lines))
