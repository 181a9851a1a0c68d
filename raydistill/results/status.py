"""`raydistill status`: how far a run is, what it has cost, why it stopped; from any machine, during it and after."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from raydistill.errors import BadInput, printable
from raydistill.outlook import StageNews
from raydistill.progress import clock
from raydistill.report.text import plural
from raydistill.results import costs, news
from raydistill.results.news import RunNews
from raydistill.store.claims import at_work
from raydistill.store.location import Location
from raydistill.store.rundir import MARKER, PAGE, STUDY_PAGE

ERROR = "logs/error.txt"
SILENT_S = 60.0  # so long without news a driver that should be at work is said to be silent


def status(run: str, price: float | None = None, now: float | None = None) -> str:
    """The state of a run directory as text of some lines. `price` is what an hour of all machines costs.

    Raises BadInput for a folder that is no run directory.
    """
    root = Location.of(run)
    try:
        ours = (root / MARKER).exists()
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise BadInput(f"status {run}: no {MARKER} there; give the run directory, which a run names in its last line")
    now = time.time() if now is None else now
    latest, spent = news.read(root), costs.read(root)
    lines = [headline(root, latest, now)]
    lines += table([row(stage, now) for stage in latest.stages]) if latest else []
    whole = latest.overall(now) if latest and at_work(root) else None
    lines += [f"overall: {whole.text()}"] if whole else []
    seconds = sum(cost.seconds for cost in spent.values()) + working_seconds(latest, now)
    money = f", {price * seconds / 3600:.2f} at {price:g} an hour" if price is not None else ""
    lines.append(f"in stages, over all runs: {clock(seconds)}{money}")
    return "\n".join([*lines, *ends(root, latest)])


def headline(root: Location, latest: RunNews | None, now: float) -> str:
    where = f" on {printable(latest.host)}, process {latest.pid}" if latest else ""
    if at_work(root):
        ago = now - latest.written if latest else 0.0
        silent = f"; no news for {clock(ago)}" if ago > SILENT_S else ""
        return f"{root}: at work{where}{f', since {clock(now - latest.since)}' if latest else ''}{silent}"
    if latest is None:
        return f"{root}: nobody is at work"
    stopped = [s.stage for s in latest.stages if s.state != "finished"]
    how = f"it ended in {stopped[-1]}; the same command goes on" if stopped else "all that was begun is finished"
    return f"{root}: nobody is at work since {clock(now - latest.written)}; {how}"


def row(stage: StageNews, now: float) -> tuple[str, ...]:
    seconds, left = stage.seconds(now), stage.left(now)
    rate = f"{stage.done / seconds:.3g}/s" if stage.done and seconds else ""
    amount = f"{stage.before + stage.done}/{stage.total} {stage.unit}"
    ending = f"{clock(left)} left" if left is not None else stage.state
    ending += f", {plural(stage.retries, 'unit')} tried again" if stage.retries else ""
    return printable(stage.stage), printable(amount), clock(seconds), rate, ending


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]


def working_seconds(latest: RunNews | None, now: float) -> float:
    """Of stages that go on: they are counted among the costs only when they are done."""
    return sum(s.seconds(min(now, latest.written)) for s in latest.stages if s.state == "working") if latest else 0.0


def ends(root: Location, latest: RunNews | None) -> list[str]:
    """Pages that are there, and the error that ended the last run."""
    lines = [f"page: {root / name}" for name in (PAGE, STUDY_PAGE) if (root / name).exists()]
    with contextlib.suppress(OSError, ValueError):
        info = next((i for i in (root / "logs").infos() if i.base_name == "error.txt"), None)
        if info is not None and latest is not None and (info.mtime_ns or 0) >= latest.since * 1e9:
            last = (root / ERROR).read().decode(errors="replace").strip().splitlines()[-1]
            lines.append(f"it ended with: {printable(last)} (all of it in {root / ERROR})")
    return lines
