"""The stages that judge syntheses: metrics, teachers, trainings of students."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from raydistill import registry
from raydistill.config import Config
from raydistill.distributed.resources import of_pool, of_students
from raydistill.evaluation.cartography import ends_of_epochs
from raydistill.evaluation.recipe import Recipe, Setting, resolve, students_of
from raydistill.evaluation.train import count_steps, exam_steps
from raydistill.methods.resolve import Variant
from raydistill.planning.facts import Facts
from raydistill.planning.load import StageLoad
from raydistill.planning.making import draws_of
from raydistill.planning.networks import NetworkCost
from raydistill.planning.sizes import PROCESS, Sizes, worker
from raydistill.stages.evaluation.trainings import parts


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
    for student in students_of(config.evaluate):
        yield student, resolve(p, Setting(config.ipc // parts, facts.images.classes, p.image_size, student))


def examining(name: str, config: Config, facts: Facts, teacher: NetworkCost) -> StageLoad:
    """What a teacher gets right itself of the images to test on."""
    pool, n = config.label, facts.images.test
    size = 3 * config.evaluate.protocol.image_size**2
    return StageLoad(
        name, n, "images", -(-n // 250), "actors",
        costs={"teach": n * teacher.flops, "read": n}, calls=-(-n // 250), read=n * facts.images.bytes,
        memory=worker(pool.batch * size, [teacher], pool.batch), pool=of_pool("teacher", pool), threads=pool.threads,
    )  # fmt: skip


def teaching(config: Config, variants: Sequence[Variant], facts: Facts) -> Iterator[StageLoad]:
    """The teacher's own examination, and the labels that are stored."""
    _, recipe = next(recipes(config, facts))
    if facts.teacher is None or not recipe.soft:
        return
    examined = examining("teacher", config, facts, facts.teacher)
    yield examined
    pool = config.label
    if recipe.labels != "stored":
        return
    for v in variants:
        slots = facts.images.classes * v.config.ipc
        views, sets = slots * recipe.views, draws_of(v, config)
        yield StageLoad(
            f"label {v.config.method}", slots * sets, "images", -(-slots // v.config.sample.batch) * sets, "actors",
            costs={"teach": sets * views * facts.teacher.flops, "read": sets * slots},
            calls=sets * -(-views // pool.batch), written=sets * views * facts.images.classes * 2.0,
            memory=examined.memory, pool=of_pool("label", pool), threads=pool.threads,
        )  # fmt: skip


def evaluating(config: Config, variants: Sequence[Variant], facts: Facts) -> StageLoad:
    """All trainings of students in one fit."""
    return fit("evaluate", list(trained(config, variants, facts)), config, facts)


def fit(
    name: str, counted: Sequence[tuple[str, Recipe, int, int]], config: Config, facts: Facts, parts: int = 1
) -> StageLoad:
    """Trainings, as `trained` has them. Every worker reads the images to test on, and those of the sets that it trains
    on."""
    e, images, size = config.evaluate, facts.images, Sizes.of(config, facts)
    total: dict[str, float] = {"train": 0.0, "test": 0.0, "teach": 0.0, "read": 0.0}
    trainings, calls, tests, largest = 0, 0, 1, 0
    for student, recipe, n, count in counted:
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
    costs = [facts.students[student][0] for student, *_ in counted]
    batch = max(recipe.batch for _, recipe, *_ in counted)
    return StageLoad(
        name, trainings, "trainings", trainings, "fit",
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
        parts=parts,
    )  # fmt: skip


def trained(config: Config, variants: Sequence[Variant], facts: Facts) -> Iterator[tuple[str, Recipe, int, int]]:
    """Student, recipe, images of the set and how many such trainings, each its own."""
    e, sets = config.evaluate, sum(draws_of(v, config) for v in variants)
    slots = facts.images.classes * config.ipc
    for student, recipe in recipes(config, facts):
        yield student, recipe, slots, sets * e.seeds
        for epochs in bounds(config, facts):
            visits = recipe.visits if epochs is None else epochs * facts.images.train
            yield student, replace(recipe, visits=visits), facts.images.train, e.seeds * config.seeds.generation
    for v in variants:
        if n := parts(config, v.growth.count(config.ipc) if v.growth is not None else 1):
            for student, recipe in recipes(config, facts, n):
                yield student, recipe, slots // n, n * e.seeds


def bounds(config: Config, facts: Facts) -> list[int | None]:
    """How long all images are trained on, as pipeline/job.py has it: in epochs, None for the visits of the sets."""
    e, splits = config.evaluate, facts.images.splits
    if not e.full:
        return []
    uneven = splits is not None and splits.train.uneven
    return [None, *([] if e.full_epochs is None else [e.full_epochs]), *([e.full_epochs] if uneven else [])]
