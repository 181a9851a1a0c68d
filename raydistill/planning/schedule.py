"""Work on machines: who does it, how long it takes, what it costs. Stages run one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from raydistill.errors import BadInput
from raydistill.planning.fleet import Fleet, Node
from raydistill.planning.load import CPU, NETWORKS, StageLoad
from raydistill.planning.losses import Crew, Passage, gang_seconds, simulate
from raydistill.planning.rates import Rates


@dataclass(frozen=True)
class Machines:
    """A fleet with its rates: of a core, and of GPUs by their name. `losses`: so many an hour of each spot machine."""

    fleet: Fleet
    core: Rates
    gpus: Mapping[str, Rates] = field(default_factory=dict)
    losses: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class StagePlan:
    """What a stage takes. `cpu_s` and `gpu_s` are seconds of cores and GPUs at work; `up` machines by the name of
    their type that it uses. `lost` machines on the way, and what came of nothing in seconds of workers."""

    work: StageLoad
    workers: int
    unit_s: float
    seconds: float
    cpu_s: float
    gpu_s: float
    up: Mapping[str, int]
    lost: int = 0
    wasted: float = 0.0
    money: float | None = None


def schedule(works: Sequence[StageLoad], machines: Machines) -> list[StagePlan]:
    """The stages with their seconds and money. Raises BadInput for one that no machine can take."""
    stages, started = [], False
    for work in works:
        stages.append(_stage(work, machines, started))
        started |= work.pool is not None
    return billed(stages, machines.fleet)


def crew(work: StageLoad, fleet: Fleet) -> list[tuple[Node, int, int]]:
    """Types of machine with how many of them and how many workers on each: as many as there is room for and work.

    Work that uses no GPU goes to machines without one first, as Ray places it. Raises BadInput if none can take it.
    """
    assert work.pool is not None
    most = min(work.units, work.pool.workers or work.units)
    kinds = sorted(fleet.nodes, key=lambda n: bool(n.room.gpus) != bool(work.pool and work.pool.num_gpus))
    hired, left = [], most
    for node in kinds:
        each = node.workers(work.pool, work.threads)
        count = min(node.count, -(-left // each)) if each else 0
        if count:
            hired.append((node, count, min(each, left)))
            left -= min(left, count * each)
    if not hired:
        p = work.pool
        raise BadInput(
            f"{p.section}.num_gpus={p.num_gpus:g} and {p.section}.num_cpus={p.num_cpus:g} fit on no machine of "
            f"{fleet.name}; lower them"
        )
    return hired


def _stage(work: StageLoad, machines: Machines, ray_is_up: bool) -> StagePlan:
    fleet, core = machines.fleet, machines.core
    if work.pool is None:
        loads = core.overheads["worker"] if work.calls and not work.warm else 0.0
        cpu_s = core.seconds(work.costs) + loads
        _, unit_s = unit_seconds(work, core)
        return StagePlan(work, 1, unit_s, work.units * unit_s + loads, cpu_s, 0.0, {})
    hired = crew(work, fleet)
    workers = min(sum(count * each for _, count, each in hired), work.units)
    on_gpu, unit_s = unit_seconds(work, core, [machines.gpus[n.gpu] for n, _, _ in hired if n.gpu is not None])
    once = core.seconds(work.once)
    start = _start(work, core, ray_is_up, max(each / max(1.0, n.room.cpus) for n, _, each in hired))
    outcome = _carried(work, machines, hired, unit_s, once)
    beside = core.seconds(work.beside)
    busy = work.units * unit_s + workers * once
    cpu_s = beside + _start_cpu(work, core, ray_is_up, workers)
    cpu_s += (
        core.seconds({k: v for k, v in work.costs.items() if k in CPU}) + workers * once
        if on_gpu
        else busy * work.threads
    )
    cores = sum(count * n.room.cpus for n, count, _ in hired) if not work.beside else fleet.cores
    computing = 0.0 if on_gpu else busy * work.threads
    seconds = start + max(outcome.seconds, (beside + computing) / cores)
    up = {n.name: count for n, count, _ in hired}
    if work.beside:
        up |= {n.name: n.count for n in fleet.nodes if not n.room.gpus}
    gpu_s = busy * work.pool.num_gpus if on_gpu else 0.0
    return StagePlan(work, workers, unit_s, seconds, cpu_s, gpu_s, up, outcome.lost, outcome.wasted)


def unit_seconds(work: StageLoad, core: Rates, gpus: Sequence[Rates] = ()) -> tuple[bool, float]:
    """Whether networks run on GPUs, and seconds of a unit on a worker, or in the driver: of the slowest of the GPUs."""
    nets = {k: v / work.units for k, v in work.costs.items() if k in NETWORKS}
    rest = core.seconds({k: v / work.units for k, v in work.costs.items() if k in CPU})
    if work.pool is None or not work.pool.num_gpus or work.pool.device == "cpu":
        return False, (rest + core.seconds(nets)) / work.threads
    slowest = max(rates.seconds(nets) for rates in gpus)
    return True, rest + slowest / min(1.0, work.pool.num_gpus)


def _carried(
    work: StageLoad, machines: Machines, hired: Sequence[tuple[Node, int, int]], unit_s: float, once: float
) -> Passage:
    """The units by these workers, and what is lost with spot machines on the way."""
    nodes = [Crew(count, each, n.spot) for n, count, each in hired]
    losses, back = machines.losses, machines.fleet.up_s + machines.core.overheads["worker"]
    if not work.gang:
        outcome = simulate(work.units, unit_s, nodes, losses, back + once, machines.seed)
        return replace(outcome, seconds=outcome.seconds + once)
    workers = min(sum(n.count * n.workers for n in nodes), work.units)
    rounds = math.ceil(work.units / workers)
    segments, segment = rounds * work.segments, unit_s / work.segments
    seconds = gang_seconds(segments, segment, nodes, losses, back + once) + once
    spot = sum(n.count for n in nodes if n.spot)
    lost = round(spot * losses * seconds / 3600)
    return Passage(seconds, lost, lost * workers * segment / 2)


def _start(work: StageLoad, core: Rates, ray_is_up: bool, crowd: float) -> float:
    """Seconds until work begins; `crowd` workers come up on a core at once."""
    o = core.overheads
    begin = 0.0 if ray_is_up else o["ray"] / 2
    if work.style == "tasks":
        return begin + o["tasks"]
    if work.style == "fit":
        return begin + o["student"] * max(1.0, crowd) + o["fit"]
    return begin + (0.0 if work.warm else o["worker"] * max(1.0, crowd))


def _start_cpu(work: StageLoad, core: Rates, ray_is_up: bool, workers: int) -> float:
    o = core.overheads
    begin = 0.0 if ray_is_up else o["ray"]
    if work.style == "tasks":
        return begin + o["tasks"]
    if work.style == "fit":
        return begin + workers * o["student"] + o["fit"]
    return begin + (0.0 if work.warm else workers * o["worker"])


def billed(stages: Sequence[StagePlan], fleet: Fleet) -> list[StagePlan]:
    """With the money of each: machines that it uses, those that wait idle for as long as they are kept, the head. A
    stage waits for the machines that it asks for, which are paid meanwhile. No money where nobody pays."""
    if fleet.head is None:
        return list(stages)
    head, paid = (fleet.head.price or 0.0) / 3600, []
    idle: dict[str, list[tuple[int, float]]] = {n.name: [] for n in fleet.nodes}  # how many, and how long they stay
    for stage in stages:
        new = any(stage.up.get(name, 0) > sum(count for count, _ in kept) for name, kept in idle.items())
        seconds, money = stage.seconds + (fleet.up_s if new else 0.0), 0.0
        for n in fleet.nodes:
            used, price = stage.up.get(n.name, 0), (n.price or 0.0) / 3600
            spare = _without(idle[n.name], used)
            money += price * (used * seconds + sum(count * min(seconds, left) for count, left in spare))
            stay = [(count, left - seconds) for count, left in spare if left > seconds]
            idle[n.name] = [(used, fleet.idle_s), *stay] if used else stay
        paid.append(replace(stage, seconds=seconds, money=money + head * seconds))
    tail = sum((n.price or 0.0) / 3600 * count * left for n in fleet.nodes for count, left in idle[n.name])
    return [*paid[:-1], replace(paid[-1], money=(paid[-1].money or 0.0) + tail)] if paid else []


def _without(kept: Sequence[tuple[int, float]], used: int) -> list[tuple[int, float]]:
    """Those that stay idle when so many are used."""
    spare = []
    for count, left in kept:
        taken = min(count, used)
        used -= taken
        spare += [(count - taken, left)] if count > taken else []
    return spare
