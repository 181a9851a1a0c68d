"""Whether a private cluster can ever place the workers of a run, and has the devices: known before Ray starts.

A cluster that is joined may grow, and its nodes may have GPUs where the driver has none: there the stages say what they
wait for.
"""

from __future__ import annotations

from raydistill.errors import BadInput, RaydistillError
from raydistill.stages import evaluate, features
from raydistill.stages.nodes import joins
from raydistill.stages.pipeline import Results, Sealed, Until, judge, make, sets
from raydistill.stages.preflight import Prepared
from raydistill.stages.resources import Reservation, check, local_room, of_clustering, of_driver, of_pool, of_students
from raydistill.stages.runner import Stage

LATER = {"encode": 0, "group": 1, "cluster": 2, "embed": 3, "import": 4, "plan": 4, "sample": 4, "measure": 5}


def reservations(p: Prepared, until: Until) -> list[tuple[str, Reservation]]:
    """What the stages of a run reserve, in their order, by the name of the stage."""
    c, judged = p.config, until in ("evaluate", "report")
    found = [("encode", of_pool("encode", c.encode))]
    if until == "encode":
        return found
    found.append(("cluster", of_clustering(c)))
    if features.wanted(p, judged):
        found.append(("embed", of_pool("embed", c.embed)))
    if until not in ("cluster", "plan"):
        generates = p.generator is not None
        found.append(("sample", of_pool("sample", c.sample) if generates else of_driver("sample", c.sample)))
    if judged and c.metrics.names:
        found.append(("measure", of_pool("measure", c.embed)))
    if judged and p.teacher:
        found.append(("teacher", of_pool("teacher", c.label)))
    return [*found, ("evaluate", of_students(c.evaluate))] if judged else found


class Unfinished(Exception):
    """A stage, by its name, has no manifest."""


def first_unfinished(p: Prepared, until: Until) -> str | None:
    """The name of the first stage that is not sealed; None if all are. Reads only.

    Raises RaydistillError for a finished one that is damaged.
    """
    done = Results(p)

    def bring(stage: Stage, _: str | None = None) -> Sealed:
        manifest = stage.artifact.manifest()
        if manifest is None:
            raise Unfinished(stage.name)
        return Sealed(stage.artifact, manifest)

    try:
        make(done, until, bring)
        if until not in ("evaluate", "report"):
            return None
        judge(done, bring)
    except Unfinished as e:
        return str(e)
    every = evaluate.everything(p.config, p.run, sets(done), p.splits.test, done.teaching)
    return "evaluate" if evaluate.unfinished(p.config, p.run, every) else None


def check_room(p: Prepared, until: Until) -> None:
    """Raises BadInput for a stage with work left whose workers this machine can never place or has no device for.

    What is finished needs no workers: a run of a machine with GPUs is reported on one without.
    """
    if joins(p.config.ray):
        return
    room, faults = local_room(p.config.ray), list[tuple[str, BadInput]]()
    for stage, reservation in reservations(p, until):
        try:
            check(reservation, room)
        except BadInput as e:
            faults.append((stage, e))
    if not faults:
        return
    try:
        first = first_unfinished(p, until)
    except RaydistillError:  # a damaged artifact: the run itself comes to it, and keeps the story in its logs
        return
    if first is None:
        return
    for stage, fault in faults:
        if LATER.get(stage, 6) >= LATER.get(first, 6):
            raise fault
