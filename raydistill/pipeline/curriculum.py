"""A curriculum: a set grows by increments, each led by what was trained on those before it (LGD, arXiv 2604.00519).

An increment is a stage like any other, by the fingerprint of the classifiers that led it: a run that is continued, or
given more images a class, finds what is there and goes on behind it.
"""

from __future__ import annotations

from raydistill.config import Config
from raydistill.errors import StageFailed
from raydistill.guidance.learnability import CURRENT, REFERENCE, roles
from raydistill.methods.base import Curriculum
from raydistill.methods.resolve import Growth, Variant
from raydistill.models.classifier import ClassifierSpec
from raydistill.pipeline.steps import Steps
from raydistill.stages.evaluation import teacher, trainer, trainings
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainer import Training
from raydistill.stages.syntheses.distilled_set import DistilledSet


def grow(steps: Steps, v: Variant) -> tuple[DistilledSet, list[Training]]:
    """The set of a curriculum, and what was trained on its increments on the way: on the first, the first two, ...

    Nothing is trained where nothing asks for it. Raises StageFailed for a student or a reference that learned nothing.
    """
    assert v.growth is not None
    growth, distilled, students = v.growth, steps.weighed(v.growth.first), []
    needed = judging(growth)
    judges = {REFERENCE: reference(steps, growth)} if REFERENCE in needed else {}
    for i in range(1, growth.count(v.config.ipc)):
        if CURRENT in needed:
            judges[CURRENT], student = current(steps, v, distilled, i)
            students.append(student)
        distilled = distilled.followed_by(steps.increment(v, i, judges, distilled))
    return distilled, students


def judging(growth: Growth) -> set[str]:
    """Whose judgement guidance or choice asks for."""
    assert growth.next.sampling is not None
    return {*growth.next.sampling.roles, *(roles(growth.how.omega) if growth.how.candidates > 1 else ())}


def current(steps: Steps, v: Variant, distilled: DistilledSet, increments: int) -> tuple[ClassifierSpec, Training]:
    """The student of the set so far, trained from scratch."""
    assert v.growth is not None
    how = v.growth.how
    config = of_student(v.config.model_copy(update={"ipc": increments * how.increment}), how)
    ref = SetRef.of(f"{v.config.method} {increments}", distilled)
    path, training = steps.classifier(config, ref, how.student, how.training_seed)
    learned(f"{how.student} on {increments} increment{'s' if increments > 1 else ''}", training, steps)
    return ClassifierSpec(path, key=CURRENT), training


def reference(steps: Steps, growth: Growth) -> ClassifierSpec:
    """What can do what is to be learned: trained on all real images, or given. Its accuracy is said first."""
    p, how = steps.prepared, growth.how
    if how.reference == "teacher":
        assert p.teacher is not None
        recipe = trainings.recipe(of_student(growth.next.config, how), len(p.splits.test.classes), how.student)
        examined = steps.run_stage(teacher.stage(p.config, p.run, p.splits.test, p.teacher, recipe), "reference")
        steps.tell("reference", f"{p.teacher.architecture} {right(teacher.accuracy(examined))}")
        return p.teacher
    e = growth.next.config.evaluate.model_copy(update={"full_epochs": how.reference_epochs})
    config = of_student(growth.next.config.model_copy(update={"evaluate": e}), how)
    path, training = steps.classifier(config, SetRef.full(p.splits.train), how.student, how.training_seed)
    learned(f"{how.student} on all real images", training, steps, "reference")
    return ClassifierSpec(path, key=REFERENCE)


def of_student(config: Config, how: Curriculum) -> Config:
    """The configuration by which a curriculum trains: that of students with hard labels."""
    e = config.evaluate
    if trainings.recipe(config, 2, how.student).soft:
        hard = {"name": "hard", "temperature": None, "views": None}
        e = e.model_copy(update={"protocol": e.protocol.model_copy(update=hard)})
    return config.model_copy(update={"evaluate": e})


def learned(what: str, training: Training, steps: Steps, name: str = "current") -> None:
    """Says how many test images are right. Raises StageFailed where chance would do as well."""
    score, splits = trainer.score(training), steps.prepared.splits
    assert score is not None
    steps.tell(name, f"{what} {right(score.last)}")
    images, classes = len(splits.test), len(splits.test.classes)
    chance = int(splits.test.counts.max()) / images
    if classes > 1 and score.last <= chance + 2 * (chance * (1 - chance) / images) ** 0.5:
        raise StageFailed(
            f"{name}: {what} {right(score.last)}, and chance gives {100 * chance:.1f} %: it has learned nothing by "
            "which images could be judged; train longer (evaluate.protocol.visits or budget, lgd.reference_epochs), or "
            "begin with more images (lgd.increment)"
        )


def right(accuracy: float) -> str:
    return f"is right on {100 * accuracy:.1f} % of the test images"
