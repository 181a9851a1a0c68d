"""What a run that is under way has to do in all, by the plan: what share is done and what is left is said by it.

Its seconds are of this machine, wherever the work goes: they weigh the stages against each other, and the pace of the
run itself says the rest (outlook.py).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from raydistill.distributed.resources import Room
from raydistill.models.checkpoint import read_config
from raydistill.outlook import Expected
from raydistill.pipeline.job import JUDGED, Until
from raydistill.planning import fleet as fleets
from raydistill.planning import networks, rates
from raydistill.planning.facts import Facts, Images, guiding, students
from raydistill.planning.fleet import Fleet
from raydistill.planning.main import machines
from raydistill.planning.networks import NetworkCost
from raydistill.planning.schedule import schedule
from raydistill.planning.workload import works
from raydistill.state import Prepared

STAGES = {"encode": ("encode",), "cluster": ("encode", "group", "cluster")}
STAGES["plan"] = (*STAGES["cluster"], "embed", "plan")
STAGES["sample"] = (*STAGES["plan"], "import", "sample", "reference", "judge", "increment", "means", "check")
GPU = "L4"  # assumed, where a run asks for GPUs and this machine has none


def expected(p: Prepared, until: Until) -> list[Expected]:
    """The stages up to `until`. Of one name they are counted together: a curriculum begins as its first increment's
    method does, which may be a baseline too."""
    config, variants = p.config, p.variants
    if until not in JUDGED:
        config = config.model_copy(update={"seeds": config.seeds.model_copy(update={"generation": 1})})
    if until == "plan":  # of a curriculum its first increment
        variants = tuple(v.makers()[0] for v in variants)
    stages = schedule(works(config, variants, facts_of(p)), machines(_fleet(p), [], 0.0))
    counted: dict[str, Expected] = {}
    for s in stages:
        if until in JUDGED or s.work.stage.split()[0] in STAGES[until]:
            more = Expected(s.work.stage, s.work.total, s.seconds, s.work.parts)
            counted[more.stage] = counted[more.stage].joined(more) if more.stage in counted else more
    return list(counted.values())


def facts_of(p: Prepared) -> Facts:
    """What the plan stands on, of images and networks that are there."""
    config, train = p.config, p.splits.train
    encode, decode, shape = _vae(p.vae.path, config.source.image_size)
    denoise = _generator(p.generator.path, shape) if p.generator is not None else None
    size, width = config.evaluate.protocol.image_size, config.evaluate.width
    costs = {name: _student(name, len(train.classes), size, width) for name in students(config, p.variants)}
    teacher, features = (None if n is None else networks.of_classifier(n) for n in (p.teacher, p.features))
    images = Images(len(train.classes), len(train.ids), len(p.splits.test.ids), 0.0, p.splits)
    return Facts(
        images, shape, encode, decode, denoise, costs, teacher, features, p.vae, p.generator, (),
        guiding=guiding(p.variants),
    )  # fmt: skip


@lru_cache(4)
def _vae(path: Path, image_size: int) -> tuple[NetworkCost, NetworkCost, tuple[int, int, int]]:
    return networks.of_vae(read_config(path / "config.json", "vae.path"), image_size)


@lru_cache(4)
def _generator(path: Path, shape: tuple[int, int, int]) -> NetworkCost:
    return networks.of_generator(read_config(networks.config_of(path), "generator.path"), shape)


@lru_cache(16)
def _student(name: str, classes: int, image_size: int, width: int) -> tuple[NetworkCost, NetworkCost]:
    return networks.of_student(name, classes, image_size, width)


def _fleet(p: Prepared) -> Fleet:
    """This machine, with the GPUs that the run asks for."""
    fleet, c = fleets.this_machine(), p.config
    gpus = math.ceil(max(pool.num_gpus for pool in (c.encode, c.embed, c.sample, c.label, c.evaluate)))
    (node,) = fleet.nodes
    if node.gpu is not None and rates.model(node.gpu) is not None and node.room.gpus >= gpus:
        return fleet
    return replace(fleet, nodes=(replace(node, room=Room(node.room.cpus, gpus), gpu=GPU if gpus else None),))
