"""`raydistill status`: how far a run is, what it has cost, why it stopped; from any machine, during it and after."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

from raydistill import strict_json
from raydistill.errors import BadInput, StageFailed, printable
from raydistill.models.checkpoint import WORK
from raydistill.progress import clock
from raydistill.results import costs, news, standing
from raydistill.results.news import RunNews
from raydistill.results.standing import StageRow
from raydistill.store.claims import at_work
from raydistill.store.location import Location
from raydistill.store.rundir import MARKER

ERROR = "logs/error.txt"
TRAINED = "training.json"  # of finished weights
LARGEST = 1e15  # number of it that is shown: others are none
SILENT_S = 60.0  # so long without news a driver that should be at work is said to be silent


def news_folder(run: str) -> Location:
    """Where a run's news lie: in its directory; of a training of weights, in `pretrain.out`, beside its checkpoints.

    Raises BadInput for a folder that is neither's.
    """
    root = Location.of(run)
    try:
        if (root / MARKER).exists() or ((root / TRAINED).exists() and not at_work(root / WORK)):
            return root
        if (root / WORK).list():
            return root / WORK
    except (OSError, ValueError, StageFailed):  # a folder that cannot be looked into is nobody's
        pass
    raise BadInput(
        f"status {run}: no {MARKER} there; give the run directory, which a run names in its last line, or pretrain.out"
    )


def status(run: str, price: float | None = None, now: float | None = None) -> str:
    """The state of a run directory, or of a training of weights, as text of some lines. `price` is what an hour of all
    machines costs, which a sweep may know itself.

    Raises BadInput for a folder that is neither's.
    """
    root = news_folder(run)
    if not (root / MARKER).exists() and (root / TRAINED).exists():
        return trained(root)
    now = time.time() if now is None else now
    latest, spent = news.read(root), costs.read(root)
    lines = [f"{Location.of(run)}: {headline(root, latest, now)}"]
    lines += table([StageRow.of(stage, now).cells() for stage in latest.stages]) if latest else []
    whole = latest.overall(now) if latest and at_work(root) else None
    lines += [f"overall: {whole.text()}"] if whole else []
    seconds = standing.seconds_spent(spent)
    if latest:
        seconds += standing.working_seconds(latest.stages, min(now, latest.written))
        price = latest.price if price is None else price
    cost = standing.money(seconds, price)
    lines.append(f"in stages, over all runs: {clock(seconds)}{cost and f', {cost}'}")
    return "\n".join([*lines, *ends(root, latest)])


def trained(root: Location) -> str:
    """What a finished training says of itself."""
    record: dict[str, object] = {}
    with contextlib.suppress(OSError, ValueError):
        record = strict_json.mapping((root / TRAINED).read())
    numbers = {k: v for k, v in record.items() if isinstance(v, int | float) and abs(v) < LARGEST}
    objective = record.get("objective")
    words = [f"{root}: a training of weights that is finished"]
    words += [printable(str(objective))] if isinstance(objective, str) else []
    words += [f"{numbers['steps']:,} steps"] if "steps" in numbers else []
    words += [f"in {clock(numbers['train_seconds'])}"] if "train_seconds" in numbers else []
    words += [f"loss {numbers['final_loss']:.4g}"] if "final_loss" in numbers else []
    return ", ".join(words)


def headline(root: Location, latest: RunNews | None, now: float) -> str:
    where = f" on {printable(latest.host)}, process {latest.pid}" if latest else ""
    if at_work(root):
        ago = now - latest.written if latest else 0.0
        silent = f"; no news for {clock(ago)}" if ago > SILENT_S else ""
        return f"at work{where}{f', since {clock(now - latest.since)}' if latest else ''}{silent}"
    if latest is None:
        return "nobody is at work"
    how = standing.conclusion(latest.stages, latest.error)
    return f"nobody is at work since {clock(now - latest.written)}; {how}"


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]


def ends(root: Location, latest: RunNews | None) -> list[str]:
    """Pages that are there, and the error that ended the last run."""
    live = [news.PAGE] if latest and at_work(root) and (root / news.PAGE).exists() else []
    lines = [f"page: {root / name}" for name in live or standing.pages(root)]
    error = printable(latest.error) if latest else ""
    with contextlib.suppress(OSError, ValueError):
        info = next((i for i in (root / "logs").infos() if i.base_name == "error.txt"), None)
        if info is not None and latest is not None and (info.mtime_ns or 0) >= latest.since * 1e9:
            last = (root / ERROR).read().decode(errors="replace").strip().splitlines()[-1]
            error = f"{printable(last)} (all of it in {root / ERROR})"
    return [*lines, *([f"it ended with: {error}"] if error else [])]
