"""The stages of a run from nothing, in their order, with what each has to do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from raydistill import registry
from raydistill.config import Config
from raydistill.distributed.resources import of_clustering, of_pool
from raydistill.methods.resolve import Variant
from raydistill.pipeline.features import by_features
from raydistill.planning.facts import Facts, tree
from raydistill.planning.growth import growing
from raydistill.planning.judging import evaluating, measuring, teaching
from raydistill.planning.load import StageLoad
from raydistill.planning.making import checks, draws_of, importing, judged, picking, planning, sampling
from raydistill.planning.sizes import PROCESS, Sizes, worker

ITERATIONS = 20  # of k-means, about, until nothing moves


def works(config: Config, variants: Sequence[Variant], facts: Facts) -> list[StageLoad]:
    """Of a whole run, up to its report."""
    latents = [encoding(config, facts), grouping(config, facts), *clusterings(config, variants, facts)]
    measured = bool(config.metrics.names)
    stages = [*latents, *embedding(config, variants, facts)]
    for v in variants:
        stages += making(v, config, facts)
    stages += checks(config, variants, facts)
    if measured:
        stages += [measuring(config, v, facts, first=i == 0) for i, v in enumerate(variants)]
    return warmed([*stages, *teaching(config, variants, facts), evaluating(config, variants, facts)])


def making(v: Variant, config: Config, facts: Facts) -> Iterator[StageLoad]:
    """How a set comes about, by each generation seed."""
    draws = draws_of(v, config)
    if judged(v):
        yield importing(v, facts)
    elif v.growth is not None:
        yield from growing(v, facts, draws)
    else:
        yield planning(v, facts, draws)
        yield (sampling if v.sampling is not None else picking)(v, facts, draws)


def warmed(stages: Sequence[StageLoad]) -> list[StageLoad]:
    """Actors that reserve the same stay between stages, and the driver keeps its libraries."""
    seen: set[object] = set()
    kept = []
    for stage in stages:
        key = (stage.pool.num_cpus, stage.pool.num_gpus) if stage.pool is not None else bool(stage.calls)
        kept.append(replace(stage, warm=key in seen))
        if stage.style in ("actors", "driver"):
            seen.add(key)
    return kept


def encoding(config: Config, facts: Facts) -> StageLoad:
    e, n, size = config.encode, facts.images.train, Sizes.of(config, facts)
    chunks = -(-n // e.chunk)
    calls = n // e.chunk * -(-e.chunk // e.batch) + -(-(n % e.chunk) // e.batch)
    return StageLoad(
        "encode", n, "images", chunks, "stream",
        costs={"encode": calls * e.batch * facts.encode.flops, "table": n * size.half},  # the last batch is padded
        beside={"read": n},
        calls=calls,
        read=n * facts.images.bytes,
        written=n * size.half,
        memory=worker(e.chunk * size.pixels, [facts.encode], e.batch),
        pool=of_pool("encode", e),
        threads=e.threads,
        deadline_s=e.deadline_s,
    )  # fmt: skip


def grouping(config: Config, facts: Facts) -> StageLoad:
    total = facts.images.train * Sizes.of(config, facts).half
    buckets = min(config.group.buckets, facts.images.classes)
    return StageLoad(
        "group", facts.images.train, "images", buckets, "tasks",
        costs={"table": 2 * total}, read=total, written=total, memory=PROCESS + 2 * total / buckets,
        pool=of_clustering(config),
    )  # fmt: skip


def clusterings(config: Config, variants: Sequence[Variant], facts: Facts) -> Iterator[StageLoad]:
    """One of each algorithm and number of clusters that a method has its prototypes from."""
    n, classes, size = facts.images.train, facts.images.classes, Sizes.of(config, facts)
    dim, buckets = math.prod(facts.shape), min(config.group.buckets, facts.images.classes)
    makers = [one for v in variants for one in v.makers()]
    makers += [v.growth.among(i) for v in variants if v.growth for i in range(1, v.growth.count(v.config.ipc))]
    configs = {}
    for c in (v.config for v in makers if v.method.uses_prototypes):
        algorithm = c.cluster.algorithm or "kmeans"
        configs[algorithm, c.cluster.leaves if tree(algorithm) else c.ipc] = c
    for (algorithm, clusters), c in configs.items():
        grows = tree(algorithm)
        compared = math.log2(max(2, clusters)) * 2 if grows else clusters
        yield StageLoad(
            "cluster" if algorithm == "kmeans" else f"cluster {algorithm}", classes, "classes", buckets, "tasks",
            costs={
                "cluster": 2.0 * n * dim * compared * min(c.cluster.iterations, ITERATIONS) * c.cluster.restarts,
                "table": n * size.half,
            },
            read=n * size.half,
            written=classes * clusters * size.latent,
            memory=PROCESS + min(c.cluster.memory_mb * 1e6, 3 * n / classes * size.latent),
            pool=of_clustering(config),
        )  # fmt: skip


def embedding(config: Config, variants: Sequence[Variant], facts: Facts) -> Iterator[StageLoad]:
    selecting = any(by_features(one) for v in variants for one in v.makers())
    metrics = any(registry.get("metric", name).space != "latent" for name in config.metrics.names)
    if facts.features is None or not (selecting or metrics):
        return
    e, n = config.embed, facts.images.train
    yield StageLoad(
        "embed", n, "images", min(config.group.buckets, facts.images.classes), "actors",
        costs={"teach": n * facts.features.flops, "read": n},
        calls=-(-n // e.batch),
        read=n * facts.images.bytes,
        memory=worker(e.batch * Sizes.of(config, facts).pixels, [facts.features], e.batch),
        pool=of_pool("embed", e),
        threads=e.threads,
    )  # fmt: skip
