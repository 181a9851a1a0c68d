"""What the stages of a run have to do, whatever they run on: counted amounts, by kind of work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from raydistill.distributed.resources import Reservation

# Work of networks, in FLOPs. `teach` is of classifiers: a teacher, features.
NETWORKS = ("encode", "denoise", "decode", "train", "test", "teach")
# Work of a CPU: FLOPs of clustering, images read (decoded, cropped, resized), images written as PNG, bytes of tables
# (read, checked, sorted, written).
CPU = ("cluster", "read", "png", "table")

Style = Literal["driver", "tasks", "stream", "actors", "fit"]


@dataclass(frozen=True)
class StageLoad:
    """One stage, by the name that logs/costs.json has it under.

    `total` counts what is made of `unit`; `units` are those of commit, of which a worker that is lost loses one.
    `costs` are amounts by kind for the whole stage, `beside` those of CPU tasks beside the pool, `once` those of every
    worker.
    A stage without a `pool` runs in the driver. `read`, `written` and `memory` (of a worker) in bytes, but for what is
    read once a worker (`read_once`). `warm`: its workers have come up in a stage before. `gang`: all workers stop when
    one is lost; each of the units goes on at the last of its `segments`. A unit that takes longer than `deadline_s` is
    given up. It comes in so many `parts`, one a generation seed, each a stage of this name.
    """

    stage: str
    total: int
    unit: str
    units: int
    style: Style = "driver"
    costs: Mapping[str, float] = field(default_factory=dict)
    beside: Mapping[str, float] = field(default_factory=dict)
    once: Mapping[str, float] = field(default_factory=dict)
    calls: int = 0
    read: float = 0.0
    read_once: float = 0.0
    written: float = 0.0
    memory: float = 0.0
    pool: Reservation | None = None
    threads: int = 1
    warm: bool = False
    gang: bool = False
    segments: int = 1
    deadline_s: float = math.inf
    parts: int = 1

    @property
    def flops(self) -> float:
        """Of networks and of clustering."""
        return sum(self.costs.get(kind, 0.0) for kind in (*NETWORKS, "cluster"))
