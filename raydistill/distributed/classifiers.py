"""A classifier trained on a set, as one call: teachers, references, what a curriculum asks for its next increment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raydistill.config import Config
from raydistill.distributed import students
from raydistill.sources.base import Splits
from raydistill.stages.evaluation.checkpoint import Checkpoint
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainer import Training
from raydistill.stages.evaluation.trainings import training
from raydistill.store.rundir import RunDir


def planned(config: Config, run: RunDir, trained_on: SetRef, splits: Splits, student: str, seed: int) -> Training:
    """The training of a classifier: that of a student by section `evaluate`, so that one is found as the other."""
    return training(keeping(config), run, trained_on, student, seed, splits.test, train=splits.train)


@dataclass(frozen=True)
class Lesson:
    """Which student is trained on what, by the section `evaluate` of its configuration."""

    config: Config
    trained_on: SetRef
    student: str
    seed: int = 0

    def planned(self, run: RunDir, splits: Splits) -> Training:
        return planned(self.config, run, self.trained_on, splits, self.student, self.seed)


def train_all(
    lessons: Sequence[Lesson], run: RunDir, splits: Splits, prove: Callable[[], None], name: str = "evaluate"
) -> None:
    """`train` of several in one fit, side by side, shown under this name. They may differ in how long is trained."""
    config, every = keeping(lessons[0].config), [lesson.planned(run, splits) for lesson in lessons]
    students.train_missing(config, run, every, splits.train, splits.test, prove, name=name)


def train(
    config: Config,
    run: RunDir,
    trained_on: SetRef,
    splits: Splits,
    student: str,
    seed: int = 0,
    prove: Callable[[], None] = lambda: None,
) -> Checkpoint:
    """Trains a student with hard labels on a set in a fit of Ray Train, unless that is done.

    Returns its weights, sealed under the fingerprint of the training: `Checkpoint.path` is what a ClassifierSpec takes.
    An interrupted training goes on at its last test. Raises StageFailed.
    """
    lesson = Lesson(config, trained_on, student, seed)
    train_all([lesson], run, splits, prove)
    return lesson.planned(run, splits).checkpoint(run.root / "checkpoints")


def keeping(config: Config) -> Config:
    """The configuration whose trainings keep their networks."""
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"keep_weights": True})})
