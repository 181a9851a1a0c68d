"""Soft labels, if the protocol asks for them: the teacher is examined, then the sets that store labels are labelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raydistill.evaluation.recipe import students_of
from raydistill.progress import say
from raydistill.stages.evaluation import label, teacher, trainings
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainer import Teaching
from raydistill.stages.runner import Stage
from raydistill.state import Prepared
from raydistill.store.sealed import Sealed

RunStage = Callable[[Stage, str], Sealed]  # carries a stage, by the name it is shown under, to its end


def teach(p: Prepared, sets: Sequence[SetRef], run_stage: RunStage) -> Teaching | None:
    """Nothing for hard labels. Raises StageFailed for a teacher that knows too little."""
    classes = p.splits.test.classes
    recipe = trainings.recipe(p.config, len(classes), students_of(p.config.evaluate)[0])
    if not recipe.soft:
        return None
    assert p.teacher is not None
    examined = run_stage(teacher.stage(p.config, p.run, p.splits.test, p.teacher, recipe), "teacher")
    accuracy = round(teacher.accuracy(examined), 6)
    say("teacher", f"{p.teacher.architecture}: {100 * accuracy:.1f} % of {examined.rows} test images are right")
    stored = {
        s.images_digest: run_stage(label.stage(p.config, p.run, s, classes, p.teacher, recipe), f"label {s.name}")
        for s in sets
        if recipe.labels == "stored" and s.distilled is not None
    }
    return Teaching(p.teacher, accuracy, stored)
