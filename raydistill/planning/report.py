"""A plan as text: a line a stage, what the numbers stand on, and beside them what a run took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raydistill.errors import printable
from raydistill.planning.facts import Facts
from raydistill.planning.fleet import Fleet
from raydistill.planning.schedule import Machines, StagePlan
from raydistill.progress import clock, noun
from raydistill.results.costs import Cost
from raydistill.results.status import table

HEAD = ("stage", "work", "calls", "FLOP", "read", "written", "memory", "workers", "CPU h", "GPU h", "time")


def text(
    title: str, stages: Sequence[StagePlan], facts: Facts, machines: Machines, taken: Mapping[str, Cost] | None = None
) -> str:
    """`taken` is what logs/costs.json has of a run: its seconds stand beside those that are planned."""
    prices, fleet = machines.fleet.prices, machines.fleet
    money = (prices.currency,) if prices is not None else ()
    beside = () if taken is None else ("took", "took / planned")
    rows = [(*HEAD, *money, *beside), *(_row(s, fleet, taken) for s in stages), _sum(stages, fleet, taken)]
    return "\n".join([title, *table(rows), *_notes(stages, facts, machines)])


def _row(s: StagePlan, fleet: Fleet, taken: Mapping[str, Cost] | None) -> tuple[str, ...]:
    w = s.work
    read = w.read + w.read_once * s.workers
    cells = [
        printable(w.stage),
        f"{w.total:,} {noun(w.total, w.unit)}",
        f"{w.calls:,}" if w.calls else "",
        short(w.flops),
        short(read, "B"),
        short(w.written, "B"),
        short(w.memory, "B"),
        str(s.workers),
        hours(s.cpu_s),
        hours(s.gpu_s),
        span(s.seconds),
    ]
    cells += [f"{s.money:,.2f}"] if s.money is not None else [""] if fleet.prices is not None else []
    return (*cells, *_taken(s.seconds, taken.get(w.stage) if taken is not None else None, taken is not None))


def _sum(stages: Sequence[StagePlan], fleet: Fleet, taken: Mapping[str, Cost] | None) -> tuple[str, ...]:
    works = [s.work for s in stages]
    read = sum(s.work.read + s.work.read_once * s.workers for s in stages)
    seconds = sum(s.seconds for s in stages)
    cells = [
        "all", "", f"{sum(w.calls for w in works):,}", short(sum(w.flops for w in works)), short(read, "B"),
        short(sum(w.written for w in works), "B"), short(max(w.memory for w in works), "B"), "",
        hours(sum(s.cpu_s for s in stages)), hours(sum(s.gpu_s for s in stages)), span(seconds),
    ]  # fmt: skip
    cells += [f"{sum(s.money or 0.0 for s in stages):,.2f}"] if fleet.prices is not None else []
    whole = None
    if taken:
        whole = Cost(sum(cost.seconds for cost in taken.values()), 0, "")
    return (*cells, *_taken(seconds, whole, taken is not None))


def _taken(planned: float, cost: Cost | None, shown: bool) -> tuple[str, ...]:
    if not shown:
        return ()
    return (span(cost.seconds), f"{cost.seconds / planned:.2f}" if planned else "") if cost is not None else ("–", "")


def _notes(stages: Sequence[StagePlan], facts: Facts, machines: Machines) -> list[str]:
    fleet, prices = machines.fleet, machines.fleet.prices
    kinds = [
        f"{n.count} {n.name} ({n.room.cpus:g} CPUs{f', {n.room.gpus:g} {n.gpu}' if n.gpu else ''}"
        f"{', spot' if n.spot else ''}{f', {n.price:g} an hour' if n.price is not None else ''})"
        for n in fleet.nodes
    ]
    notes = [f"machines: {', '.join(kinds)}"]
    if prices is not None:
        notes.append(f"prices of {prices.date}, {prices.currency}: {prices.note}")
        notes.append(
            f"paid too: {fleet.up_s / 60:g} min until machines that are asked for are up, {fleet.idle_s / 60:g} min of "
            "waiting before they go, the head throughout; not counted: traffic, storage"
        )
    used = {n.gpu for n in fleet.nodes if n.gpu and any(s.gpu_s for s in stages)}
    for rates in (machines.core, *(machines.gpus[gpu] for gpu in sorted(used))):
        notes += [f"rates, {line}" for line in rates.known_by()]
    notes += [f"assumed: {line}" for line in facts.assumed]
    if machines.losses:
        lost, wasted = sum(s.lost for s in stages), sum(s.wasted for s in stages)
        notes.append(
            f"at {machines.losses:g} losses an hour of a spot machine: {lost} lost on the way, {span(wasted)} of "
            "workers came to nothing; what is committed stays"
        )
    for s in stages:
        if s.unit_s > s.work.deadline_s and s.work.pool is not None:
            notes.append(
                f"{s.work.stage}: a unit takes {span(s.unit_s)}, and is given up after {span(s.work.deadline_s)}: "
                f"raise {s.work.pool.section}.deadline_s"
            )
    if fleet.gpus and not any(s.gpu_s for s in stages):
        notes.append(
            "no stage reserves a GPU, and there are some: add encode.num_gpus=1 sample.num_gpus=1 evaluate.num_gpus=1"
        )
    return notes


def short(value: float, unit: str = "") -> str:
    """237e9 -> '237 G'; nothing for 0."""
    if value <= 0:
        return ""
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def hours(seconds: float) -> str:
    """Hours to two digits after the point, to three below one; nothing for 0."""
    value = seconds / 3600
    if not value:
        return ""
    return f"{value:,.1f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def span(seconds: float) -> str:
    """As progress has it; days where hours are many."""
    return clock(seconds) if seconds < 72 * 3600 else f"{seconds / 86400:,.1f}d"
