"""The stages of a curriculum: its increments, and what is trained between them to lead the next one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from raydistill.distributed.resources import of_pool
from raydistill.guidance.learnability import CURRENT, REFERENCE, roles
from raydistill.methods.lgd import judged_by_latents
from raydistill.methods.resolve import Growth, Variant
from raydistill.pipeline.curriculum import judging, of_current, of_reference
from raydistill.pipeline.steps import shown
from raydistill.planning import networks
from raydistill.planning.facts import Facts
from raydistill.planning.judging import examining, fit
from raydistill.planning.load import StageLoad
from raydistill.planning.making import picking, planning, sampling
from raydistill.planning.networks import NetworkCost
from raydistill.planning.sizes import Sizes, worker
from raydistill.stages.evaluation import latent_judge, trainings
from raydistill.stages.syntheses import increment as increment_stage

DRAWN = ("denoise", "decode", "teach")  # of every candidate, and not of those alone that are kept


def growing(v: Variant, facts: Facts, draws: int) -> Iterator[StageLoad]:
    """The increments, as pipeline/curriculum.py makes them."""
    assert v.growth is not None
    growth, latents = v.growth, judged_by_latents(v.config)
    yield planning(growth.first, facts, draws)
    yield (sampling if growth.first.sampling is not None else picking)(growth.first, facts, draws)
    needed = judging(growth)
    if REFERENCE in needed and latents:
        yield of_latents("judge reference", v, facts, None, 1)
    elif REFERENCE in needed and growth.how.reference == "teacher":
        assert facts.teacher is not None
        yield examining("reference", growth.next.config, facts, facts.teacher)
    for i in range(1, growth.count(v.config.ipc)):
        if CURRENT in needed and latents:
            yield of_latents(shown("judge", v, i), v, facts, i, draws)
        elif CURRENT in needed:
            yield of_images(v, facts, i, draws, needed)
        yield planning(growth.next, facts, draws, i)
        yield filling(v, facts, i, draws)


def of_images(v: Variant, facts: Facts, increments: int, draws: int, needed: set[str]) -> StageLoad:
    """The student of the set so far, and beside the first of them the reference, if it is trained."""
    assert v.growth is not None
    growth, classes = v.growth, facts.images.classes
    how, config = growth.how, of_current(v, increments)
    slots = classes * config.ipc
    counted = [(how.student, trainings.recipe(config, classes, how.student), slots, draws)]
    if increments == 1 and REFERENCE in needed and how.reference == "trained":
        recipe = trainings.recipe(of_reference(growth), classes, how.student)
        n = facts.images.train
        counted.append((how.student, replace(recipe, visits=how.reference_epochs * n), n, 1))
    return fit(shown("judge", v, increments), counted, config, facts, draws)


def of_latents(name: str, v: Variant, facts: Facts, increments: int | None, draws: int) -> StageLoad:
    """A classifier of latents, of so many increments or of all real ones."""
    assert v.growth is not None
    how, pool, size = v.growth.how, v.config.sample, Sizes.of(v.config, facts)
    n = facts.images.train if increments is None else facts.images.classes * increments * how.increment
    epochs = how.reference_epochs if increments is None else 1
    steps = max(latent_judge.LEAST, epochs * math.ceil(n / latent_judge.BATCH))
    step, test = networks.of_latent_judge(facts.images.classes, facts.shape, v.config.evaluate.width)
    read = facts.images.train * size.half
    return StageLoad(
        name, draws, "classifiers", draws, "actors",
        costs={
            "train": draws * steps * min(latent_judge.BATCH, 4 * n) * step.flops,
            "test": draws * facts.images.train / latent_judge.HELD_OUT * test.flops,
            "table": draws * read,
        },
        calls=draws * steps, read=draws * read, memory=worker(2 * read, [step], latent_judge.BATCH),
        pool=of_pool("sample", pool), threads=pool.threads, parts=draws, deadline_s=pool.deadline_s,
    )  # fmt: skip


def filling(v: Variant, facts: Facts, increment: int, draws: int) -> StageLoad:
    """An increment after the first: of several candidates a slot the most learnable one."""
    growth = v.growth
    assert growth is not None and growth.next.sampling is not None
    how, s, classes = growth.how, growth.next.config.sample, facts.images.classes
    judges = _judges(v, growth, facts)
    plain = sampling(growth.next, facts, draws, judges, judges if judged_by_latents(v.config) else ())
    images, leading = plain.total * how.candidates, growth.next.sampling.roles
    cut, rounds = increment_stage.shared(classes, s.batch, how), math.ceil(how.increment / how.round)
    batches = sum(-(-len(unit) * how.candidates * how.round // s.batch) for unit in cut)
    of_batch = plain.calls // (draws * -(-classes * how.increment // s.batch))
    costs = {k: amount * (how.candidates if k in DRAWN else 1) for k, amount in plain.costs.items()}
    if how.candidates > 1:
        choosing = sum(judges[role].flops for role in roles(how.omega))
        costs["teach"] = costs.get("teach", 0.0) + images * choosing
    return replace(
        plain,
        stage=shown("increment", v, increment),
        units=len(cut) * draws,
        costs=costs,
        calls=draws * rounds * batches * of_batch,
        memory=plain.memory + sum(net.weights for role, net in judges.items() if role not in leading),
    )


def _judges(v: Variant, growth: Growth, facts: Facts) -> dict[str, NetworkCost]:
    """The classifiers that lead and choose, by role: logits of one image, or of one latent."""
    how, needed = growth.how, judging(growth)
    if judged_by_latents(v.config):
        _, test = networks.of_latent_judge(facts.images.classes, facts.shape, v.config.evaluate.width)
        return dict.fromkeys(needed, test)
    _, student = facts.students[how.student]
    taught = facts.teacher if how.reference == "teacher" and facts.teacher is not None else student
    return {role: taught if role == REFERENCE else student for role in needed}
