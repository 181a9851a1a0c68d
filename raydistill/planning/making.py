"""The stages that make syntheses, of a method, of a judged folder, and the checks of what was made."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from raydistill.config import Config
from raydistill.distributed.resources import of_clustering, of_pool
from raydistill.methods.resolve import Variant
from raydistill.pipeline.steps import shown
from raydistill.planning.asking import evaluations, led, passes
from raydistill.planning.facts import Facts
from raydistill.planning.load import StageLoad
from raydistill.planning.networks import NetworkCost, bytes_of
from raydistill.planning.sizes import PROCESS, Sizes, replace_batch, worker
from raydistill.stages.syntheses.check import IN_DRIVER
from raydistill.stages.syntheses.ingest import JudgedMethod

NOBODY: Mapping[str, NetworkCost] = {}


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


def sampling(
    v: Variant, facts: Facts, draws: int, judges: Mapping[str, NetworkCost] = NOBODY, of_latents: Collection[str] = ()
) -> StageLoad:
    """Of a method that generates, with the classifiers that lead it; of a curriculum's increments also its `judges`."""
    assert v.sampling is not None and facts.denoise is not None
    s, size = v.config.sample, Sizes.of(v.config, facts)
    slots, steps = facts.images.classes * v.config.ipc, evaluations(v.sampling, facts.generator)
    batches = -(-slots // s.batch)
    doubled = passes(v.sampling)
    seen = facts.images.train * size.half if v.sampling.context else 0
    more, held = led(v, facts, judges, of_latents)
    return StageLoad(
        f"sample {v.config.method}", slots * draws, "images", batches * draws, "actors",
        costs={
            "denoise": draws * slots * (steps * doubled * facts.denoise.flops + more["denoise"]),
            "decode": draws * slots * (facts.decode.flops + more["decode"]),
            "png": draws * slots,
            "table": draws * (slots * 2 * size.latent + seen),
        }
        | ({"teach": draws * slots * more["teach"]} if more["teach"] else {}),
        calls=draws * batches * (steps + 1),
        read=draws * (slots * size.latent + seen),
        written=draws * slots * (size.png + size.latent),
        memory=worker(s.batch * size.pixels, [replace_batch(facts.denoise, doubled), facts.decode], s.batch) + held,
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
