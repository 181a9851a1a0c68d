"""A sweep while it runs: a table on the terminal, the same as data in trials.json, and what it has cost."""

from __future__ import annotations

import time
from typing import Any

from raydistill import strict_json
from raydistill.config import TuneConfig
from raydistill.config.loading import written
from raydistill.identity import canonical
from raydistill.progress import clock, say
from raydistill.stages.renew import renew
from raydistill.store.location import Location
from raydistill.store.rundir import TRIALS
from raydistill.tune.drawing import BATCH, Candidate
from raydistill.tune.findings import Findings, TrialRow
from raydistill.tune.trials import Measurement
from raydistill.tune.verdict import score
from raydistill.tune.verdict import shown as accuracy

SHOWN = 3
SECONDS = "logs/tune-seconds.json"  # over all starts of the sweep


class LiveTable:
    """Knows what is there of a sweep of `total` trials."""

    def __init__(self, root: Location, study: Findings, tune: TuneConfig, total: int) -> None:
        self.root, self.study, self.tune, self.total = root, study, tune, total
        self.before = _before(root)
        self.seconds = self.before  # as they are kept
        self.start = time.monotonic() - self.before

    def show(self, running: int) -> None:
        """The best so far with their intervals; how many are done, run and have failed; the time, and money left."""
        rows = self.study.rows
        failed, stopped = sum(bool(r.failed) for r in rows), sum(bool(r.measured.stopped) for r in rows)
        self.keep_seconds()
        counts = [f"{len(rows)} of {self.total} trials done", f"{running} running", f"{failed} failed"]
        counts += [f"{stopped} stopped early"] if self.tune.scheduler != "none" else []
        say("tune", ", ".join([*counts, clock(self.seconds), *spent(self.money())]))
        for r in self.study.ranked()[:SHOWN]:
            say(
                "tune",
                f"  {r.candidate.name:<10} {accuracy(score(r.measured, self.study.measure))}  {shown(r.candidate)}",
            )
        renew(self.root, TRIALS, canonical({"of": self.total, "trials": [_kept(r) for r in rows]}).encode())

    def keep_seconds(self, computed: bool = True) -> None:
        """So that they count on, and for who asks afterwards how long the sweep took; not those of a start at which
        nothing was `computed`."""
        self.seconds = round(time.monotonic() - self.start, 1) if computed else self.before
        (self.root / SECONDS).write(canonical({"seconds": self.seconds}).encode())

    def money(self) -> dict[str, float] | None:
        """What the hours so far have cost, and what is left of the budget; None without a price."""
        if self.tune.price_per_hour is None:
            return None
        hours = self.seconds / 3600
        cost = hours * self.tune.price_per_hour
        left = {} if self.tune.budget is None else {"budget": self.tune.budget, "left": self.tune.budget - cost}
        return {"hours": hours, "spent": cost, **left}


def _before(root: Location) -> float:
    """Seconds of earlier starts; 0 if nobody has kept them."""
    try:
        return float(strict_json.mapping((root / SECONDS).read())["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _kept(r: TrialRow) -> dict[str, Any]:
    return {
        "trial": r.number,
        "values": dict(r.candidate.values),
        "objectives": r.values,
        "failed": r.failed,
        "stopped": r.measured.stopped,
    }


def spent(money: dict[str, float] | None) -> list[str]:
    """In words."""
    if money is None:
        return []
    left = f" of {money['budget']:.2f} spent, {money['left']:.2f} left" if "left" in money else " spent"
    return [f"{money['spent']:.2f}{left}"]


def shown(candidate: Candidate) -> str:
    return ", ".join(
        f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={written(v)}" for k, v in candidate.values.items()
    )


def after(m: Measurement) -> str:
    """What was not as in other trials."""
    stopped = f", stopped after test {m.stopped}" if m.stopped else ""
    return stopped + (f", with {BATCH}={m.batch} since the GPU was full" if m.batch else "")


def values_of(m: Measurement) -> dict[str, Any]:
    """The values with which a candidate was measured."""
    return {**m.candidate.values, **({BATCH: m.batch} if m.batch else {})}
