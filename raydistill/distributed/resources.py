"""What workers reserve and what a cluster holds: whether they can ever be placed is known before Ray starts.

Ray itself would wait for it without a word.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch

from raydistill.config import Config, EvaluateConfig, Pool, RayConfig
from raydistill.errors import BadInput
from raydistill.models.device import on_cuda

SCHEDULING = "DEFAULT"  # of tasks and actors: inside a Tune trial they are not caught in its placement group
SLACK = 1e-9  # of sums of fractions


@dataclass(frozen=True)
class Room:
    """What a cluster holds, or, `shared`, the part of it that a job takes at most (`ray.share`)."""

    cpus: float
    gpus: float
    shared: bool = False

    @property
    def owner(self) -> str:
        return "this job's share of" if self.shared else "the cluster's"

    def tasks(self, num_cpus: float) -> float:
        """How many tasks there is room for at once, one at least; infinite if they reserve nothing."""
        return max(1, int(self.cpus / num_cpus + SLACK)) if num_cpus else math.inf

    def readers(self, actors: int, num_cpus: float) -> int:
        """How many CPUs a pool of actors leaves for those who read for it; 0: the actors have to read themselves."""
        return max(0, int(self.cpus - actors * num_cpus + SLACK))

    def helpers(self, num_cpus: float, units: int) -> int:
        """How many further tasks each of the tasks may have out at any time, when so many units are left to them."""
        at_once = self.tasks(num_cpus)
        return 0 if math.isinf(at_once) else int(at_once / min(units, at_once)) - 1


@dataclass(frozen=True)
class Reservation:
    """What the `workers` of a section reserve, each; 0 of them = as many as there is room for.

    `spare` CPUs are left to other tasks. `count` is the key that says how many workers.
    """

    section: str
    workers: int
    num_cpus: float
    num_gpus: float
    device: str = "cpu"
    count: str = "actors"
    spare: int = 1

    def fits(self, room: Room) -> float:
        """How many workers can be placed at once; infinite if they reserve nothing. A fraction lies on one GPU."""
        cpus = math.inf if not self.num_cpus else (room.cpus - self.spare) / self.num_cpus + SLACK
        if not self.num_gpus:
            gpus = math.inf
        elif self.num_gpus < 1:
            whole, rest = divmod(room.gpus, 1)
            gpus = whole * int(1 / self.num_gpus + SLACK) + int(rest / self.num_gpus + SLACK)
        else:
            gpus = room.gpus / self.num_gpus + SLACK
        fitting = max(0.0, min(cpus, gpus))
        return fitting if math.isinf(fitting) else int(fitting)

    def lack(self, room: Room, local: bool = True) -> str | None:
        """Why not all workers can ever be placed, and what to do; None if they can. `ray.num_cpus` is a local one's."""
        wanted = max(1, self.workers)
        if self.fits(room) >= wanted:
            return None
        times = f"{self.section}.{self.count}={wanted} x " if self.workers else ""
        fewer = [f"lower {self.section}.{self.count}"] if self.workers > 1 else []
        larger = ["raise ray.share"] if room.shared else []
        if Reservation(self.section, self.workers, 0, self.num_gpus).fits(room) < wanted:
            return (
                f"{times}{self.section}.num_gpus={self.num_gpus:g} need more than {room.owner} {room.gpus:g} GPUs; "
                + ", or ".join([f"set {self.section}.num_gpus=0 to use CPUs", *fewer, *larger])
            )
        more = [f"raise ray.num_cpus to {math.ceil(wanted * self.num_cpus - SLACK) + self.spare}"] if local else []
        others = " for other tasks" if self.spare else ""
        return (
            f"{times}{self.section}.num_cpus={self.num_cpus:g} are more than {room.owner} {room.cpus:g} CPUs"
            + (f", of which {self.spare} is left{others}; " if self.spare else "; ")
            + ", or ".join([*fewer, f"lower {self.section}.num_cpus", *more, *larger])
        )


def section_of(stage: str) -> str:
    """The section of the configuration that has a stage's pool, by the stage's name: what a remedy can name."""
    return {"measure": "embed", "teacher": "label", "increment": "sample", "judge": "sample"}.get(stage, stage)


def of_pool(stage: str, pool: Pool) -> Reservation:
    """`stage` by its name."""
    return Reservation(section_of(stage), pool.actors, pool.num_cpus, pool.num_gpus, pool.device)


def of_driver(section: str, pool: Pool) -> Reservation:
    """Of work in the driver, which reserves nothing but takes the device all the same."""
    return Reservation(section, 0, 0.0, 0.0, pool.device)


def of_students(e: EvaluateConfig) -> Reservation:
    return Reservation("evaluate", e.workers, e.num_cpus, e.num_gpus, e.device, "workers")


def of_clustering(config: Config) -> Reservation:
    return Reservation("cluster", 0, config.cluster.num_cpus, 0.0, spare=0)


def trained_on_gpus(num_gpus: int | None, gpus: float) -> bool:
    """Whether the workers of pretrain take a GPU each: as they are told, otherwise if there are any."""
    return gpus > 0 if num_gpus is None else num_gpus > 0


def lack_of_trainers(workers: int, room: Room, num_gpus: int | None = None, local: bool = True) -> str | None:
    """Why not all workers of pretrain can be placed, and what to do; None if they can. `local`: has ray.num_cpus."""
    fewer = ["lower it"] if workers > 1 else []
    if trained_on_gpus(num_gpus, room.gpus):
        most, what, remedies = room.gpus, "GPUs", [*fewer, *(["set pretrain.num_gpus=0"] if num_gpus else [])]
    else:
        most, what, remedies = room.cpus, "CPUs", [*fewer, *(["raise ray.num_cpus"] if local else [])]
    if workers <= most:
        return None
    return f"pretrain.workers={workers} is more than the cluster's {most:g} {what}" + (
        f"; {', or '.join(remedies)}" if remedies else ""
    )


def local_room(config: RayConfig) -> Room:
    """What a private cluster holds: at least four logical CPUs, which are bookkeeping, and the GPUs that torch sees."""
    return Room(config.num_cpus or max(4, os.cpu_count() or 1), torch.cuda.device_count())


def check_room(reservation: Reservation, room: Room) -> None:
    """Raises BadInput for what a private cluster can never place, or for a device that this machine lacks."""
    lack = reservation.lack(room)
    if lack:
        raise BadInput(lack)
    try:
        on_cuda(reservation.device, reservation.num_gpus)
    except BadInput as e:
        raise BadInput(f"{reservation.section}: {e}") from None
