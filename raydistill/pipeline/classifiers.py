"""A classifier of somebody's own images by one call: checked beforehand, trained on Ray, found again."""

from __future__ import annotations

from raydistill import registry
from raydistill.config import Config
from raydistill.distributed import classifiers
from raydistill.distributed.failures import keep_traceback
from raydistill.distributed.nodes import Nodes, joins
from raydistill.distributed.resources import check_room, local_room, of_students
from raydistill.distributed.visibility import needs
from raydistill.errors import BadInput, RaydistillError, StageFailed
from raydistill.pipeline import preflight
from raydistill.progress import say
from raydistill.sources.base import open_splits
from raydistill.stages.evaluation import trainer, trainings
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.store.rundir import RunDir

EPOCHS = 30


def train_classifier(config: Config, student: str, seed: int, epochs: int | None) -> str:
    """Trains a student on the whole training split. Returns its file, as `teacher.path` takes it.

    Raises BadInput for what can be known beforehand, with nothing written, and StageFailed on the way.
    """
    e = config.evaluate
    e = e.model_copy(update={"students": [student], "full_epochs": epochs or e.full_epochs or EPOCHS})
    config = preflight.absolute(config.model_copy(update={"evaluate": e}))
    run = RunDir(config.run_dir or "", config.artifact_dir)
    check(config, run, student)
    splits = open_splits(config.source)
    everything = SetRef.full(splits.train, e.full_epochs)
    planned = classifiers.planned(config, run, everything, splits, student, seed)
    if not joins(config.ray) and trainings.unfinished(classifiers.keeping(config), run, [planned]):
        check_room(of_students(e), local_room(config.ray))
    nodes = Nodes(config.ray, lambda: needs(run, config.source, [splits.train, splits.test], {}))
    with run.at_work(config.yaml()):
        try:
            checkpoint = classifiers.train(config, run, everything, splits, student, seed, nodes.prove)
        except RaydistillError as error:
            keep_traceback(run.root)
            if isinstance(error, BadInput):  # found only now: a cluster without GPUs
                raise StageFailed(str(error)) from error
            raise
    score = trainer.score(planned)
    assert score is not None
    say("classifier", f"{student}: {100 * score.last:.1f} % of the test images are right")
    return checkpoint.path


def check(config: Config, run: RunDir, student: str) -> None:
    """Raises BadInput for what could not be trained, or not be read back."""
    if not run.artifacts.is_local:
        raise BadInput(
            f"run_dir: {run.artifacts} is no folder, and classifiers are read from folders; give run_dir or "
            "artifact_dir as a path"
        )
    run.check()
    if student not in registry.names("student"):
        registry.get("student", student)
        raise BadInput(f"{student}: one of a family, which cannot be read back; choose another student")
    preflight.check_students(config)
    name = config.evaluate.protocol.name
    if config.evaluate.protocol.zca:
        raise BadInput("evaluate.protocol.zca=true: a classifier that is kept takes images as they are; leave it out")
    if trainings.recipe(config, 2, student).soft:
        raise BadInput(
            f"evaluate.protocol.name={name} trains on a teacher's labels, which a classifier of one's own has not; "
            "choose evaluate.protocol.name=hard"
        )
