"""Guidance that would act at no step is refused, with what would give it one, each tried before it is named."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raydistill.diffusion.schedule import Placed, Window
from raydistill.diffusion.start import Start
from raydistill.errors import BadInput

if TYPE_CHECKING:  # which asks for this check
    from raydistill.methods.resolve import GuidancePlan, SamplingPlan

FACTORS = (2, 3, 4, 5, 8, 10, 16, 20, 32, 50, 100, 200, 500)  # of sampler.steps
MOST = 1000  # sampler.steps

Run = Callable[[Start, int], Sequence[Placed]]  # where paths begin, sampler.steps -> the steps that run


@dataclass(frozen=True)
class Place:
    """A step, of which no more is known yet."""

    index: int
    fraction: float


def by_share(start: Start, count: int) -> Sequence[Place]:
    """The steps of diffusion that a share of the path leaves, whatever the schedule. Not for a level (start.snr)."""
    left = start.share(count)
    return [Place(i, i / left) for i in reversed(range(left))]


def check(plan: SamplingPlan, run: Run) -> None:
    """Raises BadInput for a guidance that acts and whose window holds none of the steps."""
    steps = run(plan.start, plan.steps)
    for g in plan.acting:
        if any(map(g.window.active, steps)):
            continue
        works = list(_remedies(g, plan, run, steps))
        what = ", or ".join(works) if works else "widen it and take more steps (sampler.steps)"
        first, last = (f"{s.fraction:.3g}" for s in (steps[-1], steps[0]))
        raise BadInput(
            f"guidance {g.name}: its window ({_words(g)}) holds none of the {len(steps)} steps that run "
            f"(fractions {first} to {last} of the noise path); {what}"
        )


def _own(g: GuidancePlan) -> str:
    """The key of its section; empty if it has none."""
    return "" if g.kind.section is None else g.kind.section[0]


def _section(g: GuidancePlan) -> str:
    """Whose `start` and `stop` the window is: of the guidance's own section, or of `guidance`; empty of neither."""
    window = (g.window.start, g.window.stop)
    if (getattr(g.settings, "start", None), getattr(g.settings, "stop", None)) == window:
        return _own(g)
    return "guidance" if (g.numbers.start, g.numbers.stop) == window and g.space != "velocity" else ""


def _t_stop(g: GuidancePlan) -> str:
    """The key of a window that is a time of a flow, from its beginning to `t_stop`; empty of another."""
    return f"{_own(g)}.t_stop" if getattr(g.settings, "t_stop", None) is not None else ""


def _words(g: GuidancePlan) -> str:
    w, section = g.window, _section(g)
    if key := _t_stop(g):
        return f"t < {key}={1 - w.stop:g}"
    start, stop = (f"{section}.{name}=" if section else "" for name in ("start", "stop"))
    every = f", at each index that {w.every} divides" if w.every > 1 else ""
    return f"{stop}{w.stop:g} < fraction <= {start}{w.start:g}{every}"


def _remedies(g: GuidancePlan, plan: SamplingPlan, run: Run, steps: Sequence[Placed]) -> Iterator[str]:
    """What alone gives the guidance a step."""
    yield from _of_window(g, steps)
    yield from _of_start(g, plan, run)
    for count in (plan.steps * f for f in FACTORS if plan.steps * f <= MOST):
        if _opens(g.window, run, plan.start, count):
            yield f"set sampler.steps={count}"
            break


def _of_window(g: GuidancePlan, steps: Sequence[Placed]) -> Iterator[str]:
    """A wider window, or one that is open more often."""
    w, section = g.window, _section(g)
    usable = [s.fraction for s in steps if s.index % w.every == 0 and s.fraction > 0]
    if key := _t_stop(g):
        t_stop = math.ceil(100 * (1 - max(usable, default=0)) + 1e-6) / 100
        if t_stop <= 1:
            yield f"set {key}={t_stop:g}"
    elif section and any(f <= w.start for f in usable):
        yield f"set {section}.stop={math.floor(100 * max(f for f in usable if f <= w.start) - 1e-6) / 100:g}"
    elif section and any(f > w.stop for f in usable):
        yield f"set {section}.start={math.ceil(100 * min(f for f in usable if f > w.stop) - 1e-6) / 100:g}"
    often = [n for n in range(w.every - 1, 0, -1) if any(map(replace(w, every=n).active, steps))]
    if often:
        yield f"set {section}.every={often[0]}"


def _of_start(g: GuidancePlan, plan: SamplingPlan, run: Run) -> Iterator[str]:
    """An earlier beginning, where trajectories begin after noise."""
    start = plan.start
    if not start.noised:
        return
    earlier: Sequence[tuple[str, Start]]
    if start.snr is not None:
        levels = [float(f"{start.snr / 2**n:.2g}") for n in range(1, 60) if start.snr / 2**n > 1e-6]
        earlier = [(f"start.snr={level:g}", Start(snr=level)) for level in levels]
    else:
        shares = [n / 20 for n in range(1, 20) if n / 20 < start.t0]
        theirs = plan.guidance is not None and plan.guidance.begins.noised
        key = f"{plan.guidance.name}.t0" if theirs and plan.guidance is not None else "start.strength"
        earlier = [(f"{key}={t if theirs else 1 - t:g}", Start(t)) for t in (*reversed(shares), 0.0)]
    for setting, at in earlier:
        if _opens(g.window, run, at, plan.steps):
            yield f"begin earlier with {setting}"
            return


def _opens(window: Window, run: Run, start: Start, count: int) -> bool:
    """Whether it holds a step of such a path; not if there is no such path."""
    try:
        return any(map(window.active, run(start, count)))
    except BadInput:
        return False
