"""A curriculum: a set grows by increments, each led by what was trained on those before it (LGD, arXiv 2604.00519).

An increment is a stage like any other, by the fingerprint of the classifiers that led it: a run that is continued, or
given more images a class, finds what is there and goes on behind it.
"""

from __future__ import annotations

from raydistill.config import Config, ProtocolConfig
from raydistill.distributed.classifiers import Lesson
from raydistill.errors import StageFailed
from raydistill.guidance.learnability import CURRENT, REFERENCE, roles
from raydistill.methods.base import Curriculum
from raydistill.methods.lgd import judged_by_latents
from raydistill.methods.resolve import Growth, Variant
from raydistill.models.classifier import ClassifierSpec
from raydistill.models.latent_classifier import LatentClassifierSpec
from raydistill.pipeline.steps import Steps, shown
from raydistill.stages.evaluation import latent_judge, teacher, trainer, trainings
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainer import Training
from raydistill.stages.syntheses.distilled_set import DistilledSet

# What to change where one of them learns nothing.
EPOCHS = "train longer (lgd.reference_epochs)"
LATENTS = "begin with more images (lgd.increment), or let images be judged (learnability.space=pixel)"


def grow(steps: Steps, v: Variant) -> tuple[DistilledSet, list[Training]]:
    """The set of a curriculum, and what was trained on its increments on the way: on the first, the first two, ...

    Nothing is trained where nothing asks for it. Raises StageFailed for a student or a reference that learned nothing.
    """
    assert v.growth is not None
    growth, distilled, students = v.growth, steps.weighed(v.growth.first), []
    needed, latents = judging(growth), judged_by_latents(v.config)
    judges: dict[str, ClassifierSpec | LatentClassifierSpec] = {}
    if needed == {CURRENT, REFERENCE} and growth.how.reference == "trained" and not latents:
        lessons = [reference_lesson(steps, growth), current_lesson(v, distilled, 1)]
        steps.classifiers(lessons, shown("judge", v, 1))  # in one fit
    if REFERENCE in needed:
        judges[REFERENCE] = of_latents(steps, v, None, REFERENCE) if latents else reference(steps, growth)
    for i in range(1, growth.count(v.config.ipc)):
        if CURRENT in needed and latents:
            judges[CURRENT] = of_latents(steps, v, distilled, CURRENT)
        elif CURRENT in needed:
            judges[CURRENT], student = current(steps, v, distilled, i)
            students.append(student)
        distilled = distilled.followed_by(steps.increment(v, i, judges, distilled))
    return distilled, students


def judging(growth: Growth) -> set[str]:
    """Whose judgement learnability or choice asks for."""
    assert growth.next.sampling is not None
    every = {*growth.next.sampling.roles, *(roles(growth.how.omega) if growth.how.candidates > 1 else ())}
    return every & {CURRENT, REFERENCE}


def trains_students(growth: Growth) -> bool:
    """Whether students are trained on the way, on images."""
    return bool(judging(growth)) and not judged_by_latents(growth.next.config)


def asks_teacher(growth: Growth) -> bool:
    """Whether its reference is the network of teacher.path, and somebody asks for a reference."""
    return growth.how.reference == "teacher" and REFERENCE in judging(growth)


def of_latents(steps: Steps, v: Variant, distilled: DistilledSet | None, role: str) -> LatentClassifierSpec:
    """A classifier of the latents of the set so far, or of all real ones, in the place of a student of images."""
    assert v.growth is not None
    p, how = steps.prepared, v.growth.how
    classes, e = [c.class_id for c in p.splits.train.classes], v.config.evaluate
    stage = latent_judge.stage(
        p.run,
        distilled,
        steps.classes(),
        classes,
        p.shape,
        e.width,
        how.reference_epochs,
        how.training_seed,
        v.config.sample,
    )
    parts = 0 if distilled is None else len(distilled.parts)
    sealed = steps.run_stage(stage, shown("judge", v, parts) if parts else "judge reference")
    share, tested, chance = latent_judge.accuracy(sealed, len(classes))
    if not tested:
        raise StageFailed(
            f"{role}: no class has a second real image, so that no latents are held out to judge a classifier by; let "
            "images be judged (learnability.space=pixel)"
        )
    on = f"{parts} increment{'s' if parts > 1 else ''}" if parts else "all real latents"
    remedy = LATENTS if parts else EPOCHS
    learned(f"a classifier of latents on {on}", share, tested, chance, steps, role, remedy, "latents held out")
    return latent_judge.spec(stage.work, sealed, role)  # type: ignore[arg-type]


def current(steps: Steps, v: Variant, distilled: DistilledSet, increments: int) -> tuple[ClassifierSpec, Training]:
    """The student of the set so far, trained from scratch."""
    lesson = current_lesson(v, distilled, increments)
    ((path, training),) = steps.classifiers([lesson], shown("judge", v, increments))
    judged(f"{lesson.student} on {increments} increment{'s' if increments > 1 else ''}", training, steps)
    return ClassifierSpec(path, key=CURRENT), training


def current_lesson(v: Variant, distilled: DistilledSet, increments: int) -> Lesson:
    assert v.growth is not None
    how, config = v.growth.how, of_current(v, increments)
    return Lesson(config, SetRef.of(f"{v.config.method} {increments}", distilled), how.student, how.training_seed)


def reference(steps: Steps, growth: Growth) -> ClassifierSpec:
    """What can do what is to be learned: trained on all real images, or given. Its accuracy is said first."""
    p, how = steps.prepared, growth.how
    if how.reference == "teacher":
        assert p.teacher is not None
        recipe = trainings.recipe(of_student(growth.next.config, how), len(p.splits.test.classes), how.student)
        examined = steps.run_stage(teacher.stage(p.config, p.run, p.splits.test, p.teacher, recipe), "reference")
        steps.tell("reference", f"{p.teacher.architecture} {right(teacher.accuracy(examined))}")
        return p.teacher
    ((path, training),) = steps.classifiers([reference_lesson(steps, growth)])
    judged(f"{how.student} on all real images", training, steps, "reference", EPOCHS)
    return ClassifierSpec(path, key=REFERENCE)


def reference_lesson(steps: Steps, growth: Growth) -> Lesson:
    how, config = growth.how, of_reference(growth)
    real = SetRef.full(steps.prepared.splits.train, how.reference_epochs)
    return Lesson(config, real, how.student, how.training_seed)


def of_current(v: Variant, increments: int) -> Config:
    """By which the student of so many increments is trained."""
    assert v.growth is not None
    how = v.growth.how
    return of_student(v.config.model_copy(update={"ipc": increments * how.increment}), how)


def of_reference(growth: Growth) -> Config:
    """By which the reference is trained."""
    return of_student(growth.next.config, growth.how)


def of_student(config: Config, how: Curriculum) -> Config:
    """The configuration by which a curriculum trains: that of students with hard labels, of images as they are."""
    e = config.evaluate
    if e.protocol.zca:
        e = e.model_copy(update={"protocol": e.protocol.model_copy(update={"zca": None})})
        config = config.model_copy(update={"evaluate": e})
    # Of some numbers of images alone a protocol may know the batch, and asked is only whether its labels are soft.
    batch = {"batch": e.protocol.batch or 1}
    any_number = e.model_copy(update={"protocol": e.protocol.model_copy(update=batch)})
    if trainings.recipe(config.model_copy(update={"evaluate": any_number}), 2, how.student).soft:
        hard = {"name": "hard", "temperature": None, "views": None, "soft_labels": None}
        e = e.model_copy(update={"protocol": e.protocol.model_copy(update=hard)})
    return config.model_copy(update={"evaluate": e})


def judged(what: str, training: Training, steps: Steps, name: str = "current", remedy: str = "") -> None:
    """Says how many test images are right. Raises StageFailed where chance would do as well."""
    score, p = trainer.score(training), steps.prepared
    assert score is not None
    counts = score.tested or p.splits.test.counts.tolist()
    chance = max(counts) / sum(counts)
    learned(what, score.last, sum(counts), chance, steps, name, remedy or longer(p.config.evaluate.protocol))


def longer(protocol: ProtocolConfig) -> str:
    """What to change where the student of the set so far learns nothing: the key that says how long it is trained."""
    key = next((key for key in ("visits", "epochs") if getattr(protocol, key) is not None), "budget")
    return f"train longer (evaluate.protocol.{key}), or begin with more images (lgd.increment)"


def learned(
    what: str, share: float, tested: int, chance: float, steps: Steps, name: str, remedy: str, of: str = "test images"
) -> None:
    """Says which share of so many is right. Raises StageFailed where chance would do as well."""
    steps.tell(name, f"{what} {right(share, of)}")
    if chance < 1 and share < 1 and share <= chance + 2 * (chance * (1 - chance) / tested) ** 0.5:
        raise StageFailed(
            f"{name}: {what} {right(share, of)}, and chance gives {100 * chance:.1f} %: it has learned nothing by "
            f"which images could be judged; {remedy}"
        )


def right(accuracy: float, of: str = "test images") -> str:
    return f"is right on {100 * accuracy:.1f} % of the {of}"
