"""The trainings that a comparison asks for: every student and seed on every set, and what each depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from raydistill import registry
from raydistill.config import Config, EvaluateConfig, SourceConfig
from raydistill.declared import Keys, Since, Spread
from raydistill.evaluation.recipe import Recipe, Setting, resolve, students_of
from raydistill.identity import fingerprint
from raydistill.models.classifier import ClassifierSpec
from raydistill.sources.base import Listing
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainer import Rung, Teaching, Training
from raydistill.stages.work import StageWork
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed

MOST_INCREMENTS = 10  # of a set that is cut into them without being asked to be: each is a training more a seed


@dataclass(frozen=True)
class TrainingReads(StageWork):
    """What a training depends on: how, on what, by whom taught, and where tested."""

    name, folder, version = "evaluate", "evaluations", 2

    recipe: Annotated[Recipe, lambda recipe, _: [recipe.tree()]]
    evaluate: Annotated[EvaluateConfig, Keys("width", "threads")]
    test: Annotated[Listing, Keys("digest")]
    source: Annotated[SourceConfig, Keys("image_size", "max_pixels")]
    set: Annotated[SetRef, Keys("digest")]
    student: str
    seed: int
    teacher: ClassifierSpec | None
    labels: Sealed | None
    redundancy_part: Annotated[tuple[int, int] | None, Since(None)]
    dtype: Annotated[str, Since("float32")]
    balanced: Annotated[bool, Since(False)]
    whitened_by: Annotated[list[Any] | None, Since(None)]  # the training images, and levels of a set that was before
    code: Spread[list[Any]]  # registry.identity of student and protocol, and `decay`


def recipe(config: Config, classes: int, student: str, parts: int = 1) -> Recipe:
    """What the configuration prescribes for one student on the distilled set and its equals, or on one of its parts."""
    p = config.evaluate.protocol
    return resolve(p, Setting(config.ipc // parts, classes, p.image_size, student))


def redundancy_parts(config: Config, sets: Sequence[SetRef]) -> list[SetRef]:
    """The parts of every distilled set, if they are asked for, and the increments of one that grew unless it is said
    otherwise; the whole training split is not cut."""
    cut = [(s, parts(config, len(s.distilled.parts))) for s in sets if s.distilled is not None and not s.draw]
    return [
        replace(s, name=f"{s.name} part {i + 1} of {n}", images=s.images // n, redundancy_part=(i, n))
        for s, n in cut
        for i in range(n)
    ]


def parts(config: Config, increments: int) -> int:
    """Into how many parts a set of so many increments is cut; 0 for none. Soft labels are of whole sets."""
    if config.evaluate.redundancy_parts is not None:
        return config.evaluate.redundancy_parts
    grew = 1 < increments <= MOST_INCREMENTS
    return increments if grew and not recipe(config, 2, students_of(config.evaluate)[0]).soft else 0


def training(
    config: Config,
    run: RunDir,
    s: SetRef,
    student: str,
    seed: int,
    test: Listing,
    teaching: Teaching | None = None,
    train: Listing | None = None,
) -> Training:
    """One student of one seed on one set, by the recipe of the configuration. `train` is needed where that whitens."""
    e = config.evaluate
    resolved = recipe(config, len(test.classes), student, s.redundancy_part[1] if s.redundancy_part else 1)
    if s.epochs is not None:
        resolved = replace(resolved, visits=s.epochs * s.images)
    stored = teaching.stored.get(s.images_digest) if teaching else None
    reads = TrainingReads(
        resolved,
        e,
        test,
        config.source,
        s,
        student,
        seed,
        teaching.network if teaching else None,
        stored,
        s.redundancy_part,
        e.dtype,
        s.balanced,
        whitened_by(resolved, s, train),
        registry.identity("student", student)
        + registry.identity("protocol", e.protocol.name)
        + decay(resolved, student),
    )
    scored = reads.within(run).artifact
    return Training(s, student, seed, resolved, scored, run.artifact("classifiers", scored.fingerprint))


def decay(resolved: Recipe, student: str) -> list[str]:
    """What AdamW decays, of a network that may have more to decay than weights; the students that ship have nothing."""
    return ["weights"] if resolved.optimiser == "adamw" and student not in registry.shipped("student") else []


def whitened_by(resolved: Recipe, s: SetRef, train: Listing | None) -> list[Any] | None:
    """None for a recipe that whitens nothing."""
    if not resolved.zca:
        return None
    assert train is not None, "whitening is by the training images"
    return [train.digest, *(s.levels or ())]


def rung(run: RunDir, every: Sequence[Training], tests: int) -> Rung:
    """Where what so many tests of these trainings said is committed."""
    ids = [t.artifact.fingerprint for t in every]
    return Rung(tests, {i: run.artifact("rungs", fingerprint([i, tests])) for i in ids})


def trainings(
    config: Config,
    run: RunDir,
    sets: Sequence[SetRef],
    test: Listing,
    teaching: Teaching | None = None,
    train: Listing | None = None,
) -> list[Training]:
    """Every student x seed on every set, in that order of importance: all sets of a seed before the next seed.

    Each generation seed has training seeds of its own, which its sets share; the full data have them all.
    """
    e = config.evaluate
    return [
        training(config, run, s, student, seed, test, teaching, train)
        for student in students_of(e)
        for seed in range(e.seeds * config.seeds.generation)
        for s in sets
        if s.draw is None or seed // e.seeds == s.draw
    ]


def everything(
    config: Config,
    run: RunDir,
    sets: Sequence[SetRef],
    test: Listing,
    teaching: Teaching | None,
    train: Listing | None = None,
) -> list[Training]:
    """The trainings on the sets, and on their parts if these are asked for."""
    return trainings(config, run, [*sets, *redundancy_parts(config, sets)], test, teaching, train)


def lacks_weights(config: Config, run: RunDir, t: Training) -> bool:
    """Whether its student is to be kept and is not there."""
    return config.evaluate.keep_weights and not t.checkpoint(run.root / "checkpoints").sealed()


def unfinished(config: Config, run: RunDir, every: Sequence[Training]) -> list[Training]:
    return [t for t in every if t.artifact.manifest() is None or lacks_weights(config, run, t)]
