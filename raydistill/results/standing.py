"""News in words: what `status` shows on a terminal, and the page that a run keeps of itself (`status_page.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raydistill.errors import printable
from raydistill.outlook import StageNews
from raydistill.progress import clock, speed
from raydistill.report.text import plural
from raydistill.results.costs import Cost
from raydistill.store.location import Location
from raydistill.store.rundir import PAGE, STUDY_PAGE


@dataclass(frozen=True)
class StageRow:
    """A stage in words, and the `share` of it that is done. `reason`: why a unit was last tried once more."""

    stage: str
    amount: str
    time: str
    rate: str
    ending: str
    share: float
    state: str
    reason: str

    @classmethod
    def of(cls, stage: StageNews, now: float) -> StageRow:
        seconds, worked, left = stage.seconds(now), stage.worked(now), stage.left(now)
        rate = speed(stage.done / worked) if stage.done and worked else ""
        amount = f"{stage.before + stage.done}/{stage.total} {stage.unit}"
        ending = f"{clock(left)} left" if left is not None else stage.state
        ending += f", {plural(stage.retries, 'unit')} tried again" if stage.retries else ""
        words = (printable(stage.stage), printable(amount), clock(seconds), rate, ending)
        return cls(*words, stage.share, stage.state, printable(stage.reason))

    def cells(self) -> tuple[str, ...]:
        return self.stage, self.amount, self.time, self.rate, self.ending


def conclusion(stages: Sequence[StageNews], error: str = "") -> str:
    """How it stands with a run at which nobody is at work."""
    stopped = [s.stage for s in stages if s.state != "finished"]
    if stopped or error:
        where = f" in {printable(stopped[-1])}" if stopped else " before all was done"
        return f"it ended{where}; the same command goes on"
    return "all that was begun is finished"


def seconds_spent(costs: Mapping[str, Cost]) -> float:
    """Of stages that are done, over all runs of the directory."""
    return sum(cost.seconds for cost in costs.values())


def working_seconds(stages: Sequence[StageNews], now: float) -> float:
    """Of stages that go on: they are counted among the costs only when they are done."""
    return sum(s.seconds(now) for s in stages if s.state == "working")


def money(seconds: float, price: float | None) -> str:
    """Empty without a price of an hour."""
    return "" if price is None else f"{price * seconds / 3600:.2f} at {price:g} an hour"


def pages(root: Location) -> list[str]:
    """Names of the pages of a finished run that are there."""
    return [name for name in (PAGE, STUDY_PAGE) if (root / name).exists()]
