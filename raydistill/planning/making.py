"""The stages that make syntheses, of a method, of a judged folder, and the checks of what was made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from raydistill.config import Config
from raydistill.diffusion.flow import Field
from raydistill.diffusion.flow import path as flow_path
from raydistill.diffusion.loop import Batch
from raydistill.distributed.resources import of_clustering, of_pool
from raydistill.methods.resolve import SamplingPlan, Variant
from raydistill.models.generator import Generator
from raydistill.pipeline.steps import shown
from raydistill.planning.facts import Facts
from raydistill.planning.load import StageLoad
from raydistill.planning.networks import bytes_of
from raydistill.planning.sizes import PROCESS, Sizes, replace_batch, worker
from raydistill.seeding import NoiseKey
from raydistill.stages.syntheses.check import IN_DRIVER
from raydistill.stages.syntheses.ingest import JudgedMethod


def judged(v: Variant) -> bool:
    """Whether its images are those of a folder."""
    return isinstance(v.method, JudgedMethod)


def draws_of(v: Variant, config: Config) -> int:
    """How often a set is made: by each generation seed, but for the images of a folder."""
    return 1 if judged(v) else config.seeds.generation


def planning(v: Variant, facts: Facts, draws: int, increment: int = 0) -> StageLoad:
    slots = facts.images.classes * v.config.ipc * draws
    latent = bytes_of(facts.shape)
    read = facts.images.train * bytes_of(facts.shape, 2) if v.method.uses_points else 0
    return StageLoad(
        shown("plan", v, increment), slots, "slots", draws,
        costs={"table": 2 * slots * latent + read}, read=slots * latent + read, written=slots * latent, parts=draws,
    )  # fmt: skip


def passes(plan: SamplingPlan) -> int:
    """Images that the network sees of one: classifier-free guidance doubles the batch."""
    return 1 if plan.sampler.cfg_scale == 1 else 2


def sampling(v: Variant, facts: Facts, draws: int) -> StageLoad:
    """Of a method that generates."""
    assert v.sampling is not None and facts.denoise is not None
    s, size = v.config.sample, Sizes.of(v.config, facts)
    slots, steps = facts.images.classes * v.config.ipc, evaluations(v.sampling, facts.generator)
    batches = -(-slots // s.batch)
    doubled = passes(v.sampling)
    seen = facts.images.train * size.half if v.sampling.context else 0
    return StageLoad(
        f"sample {v.config.method}", slots * draws, "images", batches * draws, "actors",
        costs={
            "denoise": draws * slots * steps * doubled * facts.denoise.flops,
            "decode": draws * slots * facts.decode.flops,
            "png": draws * slots,
            "table": draws * (slots * 2 * size.latent + seen),
        },
        calls=draws * batches * (steps + 1),
        read=draws * (slots * size.latent + seen),
        written=draws * slots * (size.png + size.latent),
        memory=worker(s.batch * size.pixels, [replace_batch(facts.denoise, doubled), facts.decode], s.batch),
        pool=of_pool("sample", s),
        threads=s.threads,
        deadline_s=s.deadline_s,
        parts=draws,
    )  # fmt: skip


def picking(v: Variant, facts: Facts, draws: int) -> StageLoad:
    """Of a method of real images: in the driver, or in the pool where its actors reserve GPUs."""
    s, size, slots = v.config.sample, Sizes.of(v.config, facts), facts.images.classes * v.config.ipc
    batches = -(-slots // s.batch)
    return StageLoad(
        f"sample {v.config.method}", slots * draws, "images", batches * draws,
        "actors" if s.num_gpus else "driver",
        costs={
            "encode": draws * batches * s.batch * facts.encode.flops,
            "read": draws * slots,
            "png": draws * slots,
            "table": draws * slots * 2 * size.latent,
        },
        calls=draws * batches,
        read=draws * slots * facts.images.bytes,
        written=draws * slots * (size.png + size.latent),
        memory=worker(s.batch * size.pixels, [facts.encode], s.batch),
        pool=of_pool("sample", s) if s.num_gpus else None,
        threads=s.threads,
        parts=draws,
    )  # fmt: skip


def importing(v: Variant, facts: Facts) -> StageLoad:
    """The images of a judged folder, as many as the largest class has of each."""
    s, size, slots = v.config.sample, Sizes.of(v.config, facts), facts.images.classes * v.config.ipc
    batches = -(-slots // s.batch)
    return StageLoad(
        f"import {v.config.method}", slots, "images", batches,
        costs={"encode": batches * s.batch * facts.encode.flops, "read": slots, "png": slots},
        calls=batches, read=slots * size.png, written=slots * (size.png + size.latent),
        memory=worker(s.batch * size.pixels, [facts.encode], s.batch), threads=s.threads,
    )  # fmt: skip


def checks(config: Config, variants: Sequence[Variant], facts: Facts) -> Iterator[StageLoad]:
    """The means of the classes, and where the syntheses of each method that generates, and of a folder, lie."""
    n, classes, size = facts.images.train, facts.images.classes, Sizes.of(config, facts)
    generating = [v for v in variants if v.method.generates or judged(v)]
    if not generating:
        return
    small = n <= IN_DRIVER
    yield StageLoad(
        "means", n, "images", min(config.group.buckets, classes), "driver" if small else "tasks",
        costs={"table": n * size.half}, read=n * size.half, written=classes * size.latent,
        memory=PROCESS, pool=None if small else of_clustering(config),
    )  # fmt: skip
    for v in generating:
        slots = classes * v.config.ipc
        distances, read = 2.0 * slots * classes * math.prod(facts.shape), (slots + classes) * size.latent
        yield StageLoad(
            f"check {v.config.method}", 1, "sets", 1,
            costs={"cluster": distances, "table": read}, read=read,
        )  # fmt: skip


def evaluations(plan: SamplingPlan, generator: Generator | None) -> int:
    """How often the generator is asked for an image, guidance included, not counting both halves of classifier-free
    guidance. Of an adaptive sampler the fewest; without a generator at the schedule of most."""
    steps, guide = timesteps(plan, generator), plan.make_guidance()
    if not plan.flows:
        if steps is None:
            return plan.start.share(plan.steps)
        return len(steps) + (0 if guide is None else sum(guide.calls_at(step) for step in steps))
    batch = Batch(torch.zeros(1, dtype=torch.long), torch.zeros(1, 1, 1, 1), [NoiseKey(0, "", 0)])
    field, sampler = Field(lambda x, t, c: torch.zeros_like(x), None, batch), plan.make_sampler()
    x = torch.zeros(1, 1, 1, 1)
    for step in steps or ():
        x = sampler.step(field, x, step)
    of_guidance = 0 if guide is None else sum(guide.calls_at(s) for s in steps or () if guide.window.active(s))
    return int(field.calls[0]) + of_guidance


def timesteps(plan: SamplingPlan, generator: Generator | None) -> Sequence[Any] | None:
    """The steps of a sampler; None of a diffusion without a generator, whose schedule decides."""
    if plan.flows:
        if generator is None:
            return flow_path(plan.steps, plan.start.time)
        return generator.times(plan.steps, plan.start.time, plan.sampler.grid)
    return None if generator is None else generator.steps(plan.sampler.grid, plan.steps, plan.start)
