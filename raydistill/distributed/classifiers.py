"""A classifier trained on a set, as one call: teachers, references, what a curriculum asks for its next increment."""

from __future__ import annotations

from collections.abc import Callable

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
    return training(keeping(config), run, trained_on, student, seed, splits.test)


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
    t = planned(config, run, trained_on, splits, student, seed)
    students.train_missing(keeping(config), run, [t], splits.train, splits.test, prove)
    return t.checkpoint(run.root / "checkpoints")


def keeping(config: Config) -> Config:
    """The configuration whose trainings keep their networks."""
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"keep_weights": True})})
