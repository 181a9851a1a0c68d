"""The stages of a run from nothing, in their order, with what each has to do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from raydistill import registry
from raydistill.config import Config
from raydistill.diffusion.flow import Field
from raydistill.diffusion.flow import path as flow_path
from raydistill.diffusion.loop import Batch
from raydistill.distributed.resources import of_clustering, of_pool, of_students
from raydistill.evaluation.cartography import ends_of_epochs
from raydistill.evaluation.recipe import Recipe, Setting, resolve
from raydistill.evaluation.train import count_steps, exam_steps
from raydistill.methods.resolve import SamplingPlan, Variant
from raydistill.models.generator import Generator
from raydistill.planning.facts import Facts, tree
from raydistill.planning.load import StageLoad
from raydistill.planning.networks import NetworkCost, bytes_of
from raydistill.seeding import NoiseKey
from raydistill.stages.syntheses.check import IN_DRIVER

PROCESS = 0.7e9  # bytes of a worker before it has anything to do
PNG_SHARE = 0.55  # of the bytes of the pixels
ITERATIONS = 20  # of k-means, about, until nothing moves


@dataclass(frozen=True)
class Sizes:
    """Bytes of a latent as it is kept of real images and of syntheses, of pixels, of a PNG of them."""

    half: int
    latent: int
    pixels: int
    png: float

    @classmethod
    def of(cls, config: Config, facts: Facts) -> Sizes:
        pixels = 3 * config.source.image_size**2
        return cls(bytes_of(facts.shape, 2), bytes_of(facts.shape), pixels, PNG_SHARE * pixels)


def works(config: Config, variants: Sequence[Variant], facts: Facts) -> list[StageLoad]:
    """Of a whole run, up to its report."""
    draws = config.seeds.generation
    latents = [encoding(config, facts), grouping(config, facts), *clusterings(config, variants, facts)]
    measured = bool(config.metrics.names)
    stages = [*latents, *embedding(config, variants, facts)]
    for v in variants:
        stages.append(planning(v, facts, draws))
        stages.append((sampling if v.sampling is not None else picking)(v, facts, draws))
    stages += checks(config, variants, facts)
    if measured:
        stages += [measuring(config, v, facts, first=i == 0) for i, v in enumerate(variants)]
    return warmed([*stages, *teaching(config, variants, facts), evaluating(config, variants, facts)])


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
    """One of each algorithm that a method has its prototypes from."""
    n, classes, size = facts.images.train, facts.images.classes, Sizes.of(config, facts)
    dim, buckets = math.prod(facts.shape), min(config.group.buckets, facts.images.classes)
    configs = {v.config.cluster.algorithm or "kmeans": v.config for v in variants if v.method.uses_prototypes}
    for algorithm, c in configs.items():
        grows = tree(algorithm)
        clusters = c.cluster.leaves if grows else c.ipc
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
    selecting = any(v.method.uses_points and v.config.selection.space == "feature" for v in variants)
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


def planning(v: Variant, facts: Facts, draws: int) -> StageLoad:
    slots = facts.images.classes * v.config.ipc * draws
    latent = bytes_of(facts.shape)
    read = facts.images.train * bytes_of(facts.shape, 2) if v.method.uses_points else 0
    return StageLoad(
        f"plan {v.config.method}", slots, "slots", draws,
        costs={"table": 2 * slots * latent + read}, read=slots * latent + read, written=slots * latent,
    )  # fmt: skip


def sampling(v: Variant, facts: Facts, draws: int) -> StageLoad:
    """Of a method that generates."""
    assert v.sampling is not None and facts.denoise is not None
    s, size = v.config.sample, Sizes.of(v.config, facts)
    slots, steps = facts.images.classes * v.config.ipc, evaluations(v.sampling, facts.generator)
    batches = -(-slots // s.batch)
    passes = 1 if v.sampling.sampler.cfg_scale == 1 else 2
    seen = facts.images.train * size.half if v.sampling.context else 0
    return StageLoad(
        f"sample {v.config.method}", slots * draws, "images", batches * draws, "actors",
        costs={
            "denoise": draws * slots * steps * passes * facts.denoise.flops,
            "decode": draws * slots * facts.decode.flops,
            "png": draws * slots,
            "table": draws * (slots * 2 * size.latent + seen),
        },
        calls=draws * batches * (steps + 1),
        read=draws * (slots * size.latent + seen),
        written=draws * slots * (size.png + size.latent),
        memory=worker(s.batch * size.pixels, [replace_batch(facts.denoise, passes), facts.decode], s.batch),
        pool=of_pool("sample", s),
        threads=s.threads,
        deadline_s=s.deadline_s,
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
    )  # fmt: skip


def checks(config: Config, variants: Sequence[Variant], facts: Facts) -> Iterator[StageLoad]:
    """The means of the classes, and where the syntheses of each method that generates lie."""
    n, classes, size = facts.images.train, facts.images.classes, Sizes.of(config, facts)
    generating = [v for v in variants if v.method.generates]
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


def measuring(config: Config, v: Variant, facts: Facts, first: bool) -> StageLoad:
    """A set; whoever takes the first one reads the real side."""
    size, slots = Sizes.of(config, facts), facts.images.classes * v.config.ipc
    read = facts.images.train * size.half * first + slots * size.latent
    featured = facts.features is not None and any(
        registry.get("metric", name).space != "latent" for name in config.metrics.names
    )
    seen = {"teach": slots * facts.features.flops, "read": slots} if featured and facts.features else {}
    compared = 2.0 * facts.images.train * v.config.ipc * math.prod(facts.shape)
    return StageLoad(
        f"measure {v.config.method}", 1, "sets", 1, "actors",
        costs={"table": 2.0 * read, "cluster": compared, **seen}, read=read, memory=worker(0, [], 0),
        pool=of_pool("measure", config.embed),
    )  # fmt: skip


def recipes(config: Config, facts: Facts, parts: int = 1) -> Iterator[tuple[str, Recipe]]:
    """How each student is trained on a set, or on one of so many parts of it."""
    p = config.evaluate.protocol
    for student in facts.students:
        yield student, resolve(p, Setting(config.ipc // parts, facts.images.classes, p.image_size, student))


def teaching(config: Config, variants: Sequence[Variant], facts: Facts) -> Iterator[StageLoad]:
    """The teacher's own examination, and the labels that are stored."""
    if facts.teacher is None:
        return
    _, recipe = next(recipes(config, facts))
    pool, n, size = config.label, facts.images.test, 3 * recipe.image_size**2
    memory = worker(pool.batch * size, [facts.teacher], pool.batch)
    yield StageLoad(
        "teacher", n, "images", -(-n // 250), "actors",
        costs={"teach": n * facts.teacher.flops, "read": n}, calls=-(-n // 250), read=n * facts.images.bytes,
        memory=memory, pool=of_pool("teacher", pool), threads=pool.threads,
    )  # fmt: skip
    if recipe.labels != "stored":
        return
    for v in variants:
        slots = facts.images.classes * v.config.ipc
        views, sets = slots * recipe.views, config.seeds.generation
        yield StageLoad(
            f"label {v.config.method}", slots * sets, "images", -(-slots // v.config.sample.batch) * sets, "actors",
            costs={"teach": sets * views * facts.teacher.flops, "read": sets * slots},
            calls=sets * -(-views // pool.batch), written=sets * views * facts.images.classes * 2.0,
            memory=memory, pool=of_pool("label", pool), threads=pool.threads,
        )  # fmt: skip


def evaluating(config: Config, variants: Sequence[Variant], facts: Facts) -> StageLoad:
    """All trainings in one fit. Every worker reads the images to test on, and those of the sets that it trains on."""
    e, images, size = config.evaluate, facts.images, Sizes.of(config, facts)
    total: dict[str, float] = {"train": 0.0, "test": 0.0, "teach": 0.0, "read": 0.0}
    trainings, calls, tests, largest = 0, 0, 1, 0
    for student, recipe, n, count in trained(config, variants, facts):
        step, test = facts.students[student]
        steps = count_steps(n, recipe.batch, recipe.visits)
        exams, mapped = len(exam_steps(recipe, steps)), len(ends_of_epochs(n, recipe))
        live = recipe.labels == "teacher" or (recipe.soft and n == images.train)
        total["train"] += count * recipe.visits * step.flops
        total["test"] += count * (exams * images.test + mapped * n + recipe.visits * recipe.bn_pass) * test.flops
        total["teach"] += count * recipe.visits * facts.teacher.flops if live and facts.teacher else 0.0
        total["read"] += count * n  # once a worker and set, of which a worker seldom has two trainings
        trainings, calls = trainings + count, calls + count * steps
        tests, largest = max(tests, exams), max(largest, n)
    seen = 3 * e.protocol.image_size**2
    costs = [step for step, _ in facts.students.values()]
    batch = max(recipe.batch for _, recipe in recipes(config, facts))
    return StageLoad(
        "evaluate", trainings, "trainings", trainings, "fit",
        costs=total,
        once={"read": images.test},
        calls=calls,
        read=total["read"] * size.png,
        read_once=images.test * images.bytes,
        memory=PROCESS + (images.test + largest) * seen + max(4 * c.weights + batch * c.kept for c in costs),
        pool=of_students(e),
        threads=e.threads,
        deadline_s=e.deadline_s,
        gang=True,
        segments=tests,
    )  # fmt: skip


def trained(config: Config, variants: Sequence[Variant], facts: Facts) -> Iterator[tuple[str, Recipe, int, int]]:
    """Student, recipe, images of the set and how many such trainings, each its own."""
    e, draws = config.evaluate, config.seeds.generation
    slots = facts.images.classes * config.ipc
    for student, recipe in recipes(config, facts):
        yield student, recipe, slots, len(variants) * draws * e.seeds
        if e.full:
            visits = recipe.visits if e.full_epochs is None else e.full_epochs * facts.images.train
            yield student, replace(recipe, visits=visits), facts.images.train, e.seeds
    if e.redundancy_parts:
        for student, recipe in recipes(config, facts, e.redundancy_parts):
            yield student, recipe, slots // e.redundancy_parts, len(variants) * e.redundancy_parts * e.seeds


def evaluations(plan: SamplingPlan, generator: Generator | None) -> int:
    """How often the generator is asked for an image, guidance included, not counting both halves of classifier-free
    guidance. Of an adaptive sampler the fewest; without a generator at the schedule of most."""
    start, guide = plan.start, plan.make_guidance()
    if not plan.flows:
        if generator is None:
            return start.share(plan.steps)
        steps = generator.steps(plan.sampler.grid, plan.steps, start)
        return len(steps) + (0 if guide is None else sum(guide.calls_at(step) for step in steps))
    times = (
        flow_path(plan.steps, start.time)
        if generator is None
        else generator.times(plan.steps, start.time, plan.sampler.grid)
    )
    batch = Batch(torch.zeros(1, dtype=torch.long), torch.zeros(1, 1, 1, 1), [NoiseKey(0, "", 0)])
    field, sampler = Field(lambda x, t, c: torch.zeros_like(x), None, batch), plan.make_sampler()
    x = torch.zeros(1, 1, 1, 1)
    for step in times:
        x = sampler.step(field, x, step)
    of_guidance = 0 if guide is None else sum(guide.calls_at(step) for step in times if guide.window.active(step))
    return int(field.calls[0]) + of_guidance


def worker(held: float, costs: Sequence[NetworkCost], batch: int) -> float:
    """Bytes of a worker: its process, its networks, what it holds, and twice its largest operation on a batch."""
    return PROCESS + sum(c.weights for c in costs) + held + 2 * batch * max((c.largest for c in costs), default=0.0)


def replace_batch(cost: NetworkCost, passes: int) -> NetworkCost:
    """A network that is asked for so many images a slot at once."""
    return replace(cost, largest=cost.largest * passes)
