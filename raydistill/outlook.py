"""How far a run is as a whole: its stages as the plan counts them, at the pace that this run has shown so far."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from raydistill.progress import Advanced, Event, Finished, Retried, Skipped, Started, Tried, clock, time_left

AFTER_S = 10.0  # a run that ends sooner needs no plan, which takes a second to count


@dataclass(frozen=True)
class StageNews:
    """Of one stage of the run that wrote it: `before` of `total` units were finished earlier, `done` by this run.

    `state` is "working", "finished" or "stopped"; times are seconds since 1970 by the driver's clock, `advanced` when
    the last unit was done (None: now). `retries` counts units that were tried once more, `reason` why the last was.
    """

    stage: str
    unit: str
    total: int
    before: int
    done: int
    started: float
    ended: float | None
    state: str
    retries: int = 0
    reason: str = ""
    advanced: float | None = None

    @property
    def share(self) -> float:
        """Of its units, earlier runs' included, that are finished."""
        return min(1.0, (self.before + self.done) / self.total) if self.total > 0 else float(self.state == "finished")

    def seconds(self, now: float) -> float:
        return max(0.0, (now if self.ended is None else self.ended) - self.started)

    def worked(self, now: float) -> float:
        """Seconds until its last unit was done, or it ended: a unit that is waited for has not made it slower yet."""
        return max(0.0, (self.ended or self.advanced or now) - self.started)

    def left(self, now: float) -> float | None:
        """Seconds left at the rate of this run; None where nothing is known of it."""
        if self.state != "working":
            return None
        units, took = self.total - self.before - self.done, self.worked(now)
        return time_left(units, self.done, took, self.seconds(now) - took)


@dataclass(frozen=True)
class Expected:
    """A stage of a run from nothing: `total` units and `seconds` by the plan, in so many `parts` of one name."""

    stage: str
    total: int
    seconds: float
    parts: int = 1

    def joined(self, other: Expected) -> Expected:
        """With another stage of the same name."""
        return replace(
            self,
            total=self.total + other.total,
            seconds=self.seconds + other.seconds,
            parts=self.parts + other.parts,
        )


@dataclass(frozen=True)
class Overall:
    """The `stage`th `of` so many; `share` of the planned seconds is done; `left` seconds, None while nobody knows.

    `where` says the first two in words.
    """

    stage: int
    of: int
    share: float
    left: float | None
    where: str = "stage {} of {}"

    def text(self) -> str:
        return ", ".join(filter(None, [self.position(), f"{self.percent()} of the work", self.time_left()]))

    def position(self) -> str:
        return self.where.format(self.stage, self.of)

    def percent(self) -> str:
        return f"{int(100 * self.share)} %"

    def time_left(self) -> str:
        """Empty while nobody knows."""
        return "" if self.left is None else f"about {clock(self.left)} left"


@dataclass(frozen=True)
class SweepNews:
    """How far a sweep was at `as_of`: `trials` and `sets` that are known, of how many. `counted` of the sets were not
    found finished, and took `seconds`."""

    trials: int
    of: int
    sets: int
    of_sets: int
    as_of: float
    counted: int = 0
    seconds: float = 0.0

    def after(self, event: Tried, now: float, worked: bool) -> SweepNews:
        """`worked`: whether anything had to be done for what is known now."""
        counted, seconds = self.counted, self.seconds
        if worked:
            counted, seconds = counted + event.sets - self.sets, seconds + now - self.as_of
        return SweepNews(event.trials, event.of, event.sets, event.of_sets, now, counted, seconds)

    def overall(self, now: float) -> Overall | None:
        """None once all is known."""
        if self.sets >= self.of_sets:
            return None
        left = None
        if self.counted:
            left = (self.of_sets - self.sets) * self.seconds / self.counted - (now - self.as_of)
        left = left if left is not None and left > 0 else None  # it takes longer than it should: nobody knows
        return Overall(self.trials, self.of, self.sets / self.of_sets, left, "{} of {} trials done")


def overall(
    expected: Sequence[Expected], stages: Sequence[StageNews], skipped: Sequence[str], now: float
) -> Overall | None:
    """None without a plan, and once nothing of it is left. `skipped` are stages that earlier runs had finished.

    What is left of a stage at work goes on at its own rate; of the others it takes as many times the planned seconds
    as what this run has done so far took.
    """
    begun = {s.stage for s in stages} | set(skipped)
    latest = max((i for i, e in enumerate(expected) if e.stage in begun), default=-1)
    left = [0.0 if i < latest and e.stage not in begun else _left(e, stages, skipped) for i, e in enumerate(expected)]
    planned = [e.seconds * share for e, share in zip(expected, left, strict=True)]
    total = sum(e.seconds for e in expected)
    if not total or not any(left):
        return None
    known = {e.stage: e for e in expected}
    counted = [s for s in stages if s.stage in known and s.done]
    by_plan = sum(known[s.stage].seconds * s.done / known[s.stage].total for s in counted)
    took = sum(s.worked(now) for s in counted)
    seconds = sum(planned) * took / by_plan if by_plan else None
    current = next((s for s in reversed(counted) if s.left(now) is not None), None)
    if seconds is not None and current is not None:
        of_part = known[current.stage].seconds * _open(current, known[current.stage])
        seconds += (current.left(now) or 0.0) - of_part * took / by_plan
    return Overall(max(latest, 0) + 1, len(expected), 1 - sum(planned) / total, seconds)


def _left(expected: Expected, stages: Sequence[StageNews], skipped: Sequence[str]) -> float:
    """The share of a stage that has not been done."""
    parts = [_open(s, expected) for s in stages if s.stage == expected.stage]
    to_begin = max(0, expected.parts - len(parts) - sum(name == expected.stage for name in skipped))
    return min(1.0, sum(parts) + to_begin / expected.parts)


def _open(s: StageNews, expected: Expected) -> float:
    share = 0.0 if s.state == "finished" else (s.total - s.before - s.done) / max(1, expected.total)
    return min(1 / expected.parts, max(0.0, share))


class Outlook:
    """Listens to a run and keeps how far its stages are; `expect` counts the plan, when somebody asks for it first."""

    def __init__(self, expect: Callable[[], Sequence[Expected]] = tuple) -> None:
        self.since = time.time()
        self.stages: list[StageNews] = []
        self.skipped: list[str] = []
        self.sweep: SweepNews | None = None
        self.expected: Sequence[Expected] | None = None
        self._expect, self._counting = expect, threading.Lock()
        self._lock = threading.Lock()
        self._last, self._begun = self.since, 0

    def __call__(self, event: Event) -> None:
        now = time.time()
        with self._lock:
            match event:
                case Skipped():
                    self.skipped.append(event.stage)
                case Started():
                    fresh = StageNews(event.stage, event.unit, event.total, event.before, 0, now, None, "working")
                    self.stages.append(fresh)
                case Advanced():
                    self._change(event.stage, lambda s: replace(s, done=s.done + event.units, advanced=now))
                case Retried():
                    self._change(event.stage, lambda s: replace(s, retries=s.retries + 1, reason=event.reason))
                case Finished():
                    state = "finished" if event.whole else "stopped"
                    self._change(event.stage, lambda s: replace(s, ended=now, state=state))
                case Tried():
                    before = self.sweep or SweepNews(0, event.of, 0, event.of_sets, now)
                    self.sweep = before.after(event, now, len(self.stages) > self._begun)
                    self._begun = len(self.stages)

    def _change(self, stage: str, change: Callable[[StageNews], StageNews]) -> None:
        """Of several of one name the one that began last and works; a pool knows `sample`, not `sample mgd3`."""
        for i in reversed(range(len(self.stages))):
            if f"{self.stages[i].stage} ".startswith(f"{stage} ") and self.stages[i].state == "working":
                self.stages[i] = change(self.stages[i])
                return

    def plan(self) -> Sequence[Expected]:
        """Counted once, in the thread that asks; nothing while the run is young, or of one that cannot be planned."""
        with self._counting:
            if self.expected is None and time.time() - self.since >= AFTER_S:
                try:
                    self.expected = tuple(self._expect())
                except Exception:  # whatever it is that cannot be foreseen: the run goes on without
                    self.expected = ()
            return self.expected or ()

    def overall(self) -> Overall | None:
        expected = self.plan()
        with self._lock:
            stages, skipped, sweep = tuple(self.stages), tuple(self.skipped), self.sweep
        now = time.time()
        return overall(expected, stages, skipped, now) if sweep is None else sweep.overall(now)

    def due(self, seconds: float) -> bool:
        """Whether it was last so so long ago: for those that say a line now and then."""
        now = time.time()
        if now - self._last < seconds:
            return False
        self._last = now
        return True
