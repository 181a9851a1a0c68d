"""Machines that are lost on the way: how much longer a stage takes, in closed form and by simulation.

A worker pulls one unit after the other. A node that is lost loses the units that its workers are at; they are done
again elsewhere, and another node takes its place after a while. What was committed stays.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np


@dataclass(frozen=True)
class Crew:
    """So many nodes of so many workers each; `spot`: they may be lost."""

    count: int
    workers: int
    spot: bool


@dataclass(frozen=True)
class Passage:
    """Seconds until the last unit is committed, nodes lost until then, and seconds of workers that nothing came of."""

    seconds: float
    lost: int
    wasted: float


def expected_seconds(unit_s: float, losses_per_hour: float, back_s: float) -> float:
    """Of one unit on one worker that is lost at this rate and replaced after `back_s`, until the unit is committed.

    With L losses a second, (1/L + back) (exp(L unit) - 1): restarts of a task without checkpoints within it.
    """
    rate = losses_per_hour / 3600
    return unit_s if rate == 0 else (1 / rate + back_s) * math.expm1(rate * unit_s)


def simulate(
    units: int, unit_s: float, nodes: Sequence[Crew], losses_per_hour: float, back_s: float, seed: int = 0
) -> Passage:
    """The stage once, by events: every spot node is lost after an exponential time at this rate. Raises ValueError
    where no worker is."""
    every = [kind for kind in nodes for _ in range(kind.count) if kind.workers]
    if not every:
        raise ValueError("no node has a worker")
    chance, order = np.random.default_rng(seed), count()
    events: list[tuple[float, int, str, int, int]] = []  # when, tie, what, node, life of the node
    life, idle = [0] * len(every), [kind.workers for kind in every]
    started: dict[int, list[float]] = {i: [] for i in range(len(every))}
    left, done, lost, wasted = units, 0, 0, 0.0

    def later(when: float, what: str, node: int) -> None:
        heapq.heappush(events, (when, next(order), what, node, life[node]))

    def up(now: float, node: int) -> None:
        idle[node] = every[node].workers
        if every[node].spot and losses_per_hour:
            later(now + chance.exponential(3600 / losses_per_hour), "lost", node)

    def fill(now: float, some: Sequence[int]) -> None:
        nonlocal left
        for node in some if left else ():
            while left and idle[node]:
                idle[node], left = idle[node] - 1, left - 1
                started[node].append(now)
                later(now + unit_s, "done", node)

    now = 0.0
    for node in range(len(every)):
        up(0.0, node)
    fill(0.0, range(len(every)))
    while done < units:
        now, _, what, node, of_life = heapq.heappop(events)
        if of_life != life[node]:
            continue  # of a node that was lost meanwhile
        if what == "done":
            done, idle[node] = done + 1, idle[node] + 1
            started[node].pop(0)  # those that began first end first
        elif what == "lost":
            life[node], lost, left = life[node] + 1, lost + 1, left + len(started[node])
            wasted += sum(now - start for start in started[node])
            started[node], idle[node] = [], 0
            later(now + back_s, "up", node)
        else:
            up(now, node)
        fill(now, range(len(every)) if what == "lost" else [node])
    return Passage(now, lost, wasted)


def gang_seconds(
    segments: int, segment_s: float, nodes: Sequence[Crew], losses_per_hour: float, back_s: float
) -> float:
    """Of workers that all stop when any is lost, through so many segments one after the other, each committed at its
    end: what they are together is one worker that is lost as often as all of them."""
    spot = sum(kind.count for kind in nodes if kind.spot)
    return segments * expected_seconds(segment_s, spot * losses_per_hour, back_s)
