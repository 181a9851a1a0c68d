"""The stages of a curriculum: its increments, and what is trained between them to lead the next one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

from raydistill.distributed.resources import of_pool
from raydistill.guidance.learnability import CURRENT, REFERENCE, LearnabilityConfig, roles
from raydistill.methods.lgd import judged_by_latents
from raydistill.methods.resolve import Growth, GuidancePlan, SamplingPlan, Variant
from raydistill.models.checkpoint import read_config
from raydistill.pipeline.curriculum import judging, of_current, of_reference
from raydistill.pipeline.steps import shown
from raydistill.planning import networks
from raydistill.planning.facts import Facts
from raydistill.planning.judging import examining, fit
from raydistill.planning.load import StageLoad
from raydistill.planning.making import passes, picking, planning, sampling, timesteps
from raydistill.planning.networks import NetworkCost
from raydistill.planning.sizes import Sizes, worker
from raydistill.stages.evaluation import latent_judge, trainings
from raydistill.stages.syntheses import increment as increment_stage

GRADIENT = 2  # passes of a network that is asked for a gradient in its input: forwards and backwards


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
        pool=of_pool("sample", pool), threads=pool.threads, parts=draws,
    )  # fmt: skip


def filling(v: Variant, facts: Facts, increment: int, draws: int) -> StageLoad:
    """An increment after the first: of several candidates a slot the most learnable one."""
    growth = v.growth
    assert growth is not None and growth.next.sampling is not None
    how, s, classes = growth.how, growth.next.config.sample, facts.images.classes
    plain = sampling(growth.next, facts, draws)
    images = plain.total * how.candidates
    led, held = _led(v, growth, facts)
    cut, rounds = increment_stage.shared(classes, s.batch, how), math.ceil(how.increment / how.round)
    batches = sum(-(-len(unit) * how.candidates * how.round // s.batch) for unit in cut)
    of_batch = plain.calls // (draws * -(-classes * how.increment // s.batch))
    costs = {k: amount * (how.candidates if k in ("denoise", "decode") else 1) for k, amount in plain.costs.items()}
    for kind, amount in led.items():
        costs[kind] = costs.get(kind, 0.0) + images * amount
    return replace(
        plain,
        stage=shown("increment", v, increment),
        units=len(cut) * draws,
        costs=costs,
        calls=draws * rounds * batches * of_batch,
        memory=plain.memory + held,
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


def _led(v: Variant, growth: Growth, facts: Facts) -> tuple[dict[str, float], float]:
    """FLOPs by kind to lead an image and to choose by it, and bytes that are held for its gradients."""
    plan, judges, held = growth.next.sampling, _judges(v, growth, facts), 0.0
    assert plan is not None
    costs = {"decode": 0.0, "teach": 0.0, "denoise": 0.0}
    settings = cast(LearnabilityConfig, v.config.section("learnability", LearnabilityConfig))
    there_and_back = GRADIENT + settings.checkpointing  # which goes forwards once more
    for g in (g for g in plan.acting if g.roles and set(g.roles) <= set(judges)):
        steps = _active(plan, g, facts)
        costs["teach"] += there_and_back * steps * sum(judges[role].flops for role in g.roles)
        if settings.space == "pixel":
            decode = _decoder(g.decoder, v.config.source.image_size) if g.decoder is not None else facts.decode
            costs["decode"] += there_and_back * steps * decode.flops
            held = settings.micro_batch * decode.kept
        if g.differentiates and facts.denoise is not None:  # the way there is among the sampler's calls
            costs["denoise"] += (GRADIENT - 1) * steps * passes(plan) * facts.denoise.flops
    if growth.how.candidates > 1:
        costs["teach"] += sum(judges[role].flops for role in roles(growth.how.omega))
    return costs, held + sum(net.weights for net in judges.values())


def _decoder(path: str, image_size: int) -> NetworkCost:
    config = read_config(Path(path).expanduser() / "config.json", "learnability.decoder")
    return networks.of_vae(config, image_size)[1]


def _active(plan: SamplingPlan, g: GuidancePlan, facts: Facts) -> int:
    """Steps at which a guidance acts; without a generator by the share of its window."""
    steps = timesteps(plan, facts.generator)
    if steps is None:
        return g.window.count(plan.start.share(plan.steps))
    return sum(g.window.active(step) for step in steps)
