"""What stages with work left will need, known before Ray starts: networks that fit their weights, room for the workers
on a private cluster, and the devices.

A cluster that is joined may grow, and its nodes may have GPUs where the driver has none: there the stages say what they
wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from raydistill.distributed.classifiers import Lesson
from raydistill.distributed.nodes import joins
from raydistill.distributed.private import base_folder
from raydistill.distributed.resources import (
    Reservation,
    check_room,
    local_room,
    of_clustering,
    of_driver,
    of_pool,
    of_students,
)
from raydistill.errors import RaydistillError
from raydistill.guidance.learnability import REFERENCE
from raydistill.models.checkpoint import packaged
from raydistill.pipeline import features
from raydistill.pipeline.curriculum import trains_students
from raydistill.pipeline.job import JUDGED, Until, judge, make, sets
from raydistill.pipeline.steps import Steps
from raydistill.stages.evaluation import trainings
from raydistill.stages.runner import Stage
from raydistill.state import Prepared
from raydistill.store.sealed import Sealed

LATER = {
    "encode": 0,
    "group": 1,
    "cluster": 2,
    "embed": 3,
    "import": 4,
    "plan": 4,
    "sample": 4,
    "increment": 4,
    "judge": 4,
    "weigh": 5,
    "measure": 5,
}


def reservations(p: Prepared, until: Until) -> list[tuple[str, Reservation]]:
    """What the stages of a run reserve, in their order, by the name of the stage."""
    c, judged = p.config, until in JUDGED
    reserved = [("encode", of_pool("encode", c.encode))]
    if until == "encode":
        return reserved
    reserved.append(("cluster", of_clustering(c)))
    if features.wanted(p, judged):
        reserved.append(("embed", of_pool("embed", c.embed)))
    if until not in ("cluster", "plan"):
        pooled = p.generator is not None or c.sample.num_gpus > 0
        reserved.append(("sample", of_pool("sample", c.sample) if pooled else of_driver("sample", c.sample)))
    if judged and c.metrics.names:
        reserved.append(("measure", of_pool("measure", c.embed)))
    if p.teacher and (judged or until == "sample"):
        reserved.append(("teacher", of_pool("teacher", c.label)))
    trains = judged or (until == "sample" and any(v.growth and trains_students(v.growth) for v in p.variants))
    return [*reserved, ("evaluate", of_students(c.evaluate))] if trains else reserved


class Unfinished(Exception):
    """A stage, by its name, has no manifest."""


class Reading(Steps):
    """Steps that find what is finished, and compute nothing."""

    def _carry(self, stage: Stage, name: str) -> Sealed:
        sealed = Sealed.finished(stage.artifact)
        if sealed is None:
            raise Unfinished("judge" if name == REFERENCE else stage.name)  # a teacher that judges on the way
        return sealed

    def tell(self, name: str, text: str) -> None:
        pass

    def _train(self, lessons: Sequence[Lesson], name: str) -> None:
        raise Unfinished("sample")


def first_unfinished(p: Prepared, until: Until) -> str | None:
    """The name of the first stage that is not sealed; None if all are. Reads only.

    Raises RaydistillError for a finished one that is damaged.
    """
    steps = Reading(p)
    try:
        done = make(steps, until)
        if until not in JUDGED:
            return None
        judge(steps, done)
    except Unfinished as e:
        return str(e)
    every = trainings.everything(p.config, p.run, sets(done), p.splits.test, done.teaching, p.splits.train)
    return "evaluate" if trainings.unfinished(p.config, p.run, every) else None


def faults(p: Prepared, until: Until) -> Iterator[tuple[str, Callable[[], object]]]:
    """What may be wrong with a stage: its name, and what raises BadInput if it is. Packaged networks fit."""
    if p.vae.path != Path(packaged("vae")):
        yield "encode", p.vae.check_network
        yield "sample", p.vae.check_network  # decodes
    if p.generator and p.generator.path not in map(Path, map(packaged, ("generator", "flow"))):
        yield "sample", p.generator.check_network
    if joins(p.config.ray):
        return
    room = local_room(p.config.ray)
    for stage, reservation in reservations(p, until):
        yield stage, base_folder
        yield stage, partial(check_room, reservation, room)


def check(p: Prepared, until: Until) -> None:
    """Raises BadInput for a stage with work left whose networks cannot be loaded, whose workers this machine can never
    place, or has no device for.

    What is finished needs none of them: a run of a machine with GPUs is reported on one without.
    """
    try:
        first = first_unfinished(p, until)
    except RaydistillError:  # a damaged artifact: the run itself comes to it, and keeps the story in its logs
        return
    if first is None:
        return
    for stage, raises in faults(p, until):
        if LATER.get(stage, 6) >= LATER.get(first, 6):
            raises()
