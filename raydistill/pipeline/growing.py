"""What can be known of a curriculum before any work: refused here, as everything else is in preflight.py."""

from __future__ import annotations

from raydistill import registry
from raydistill.config import Config
from raydistill.errors import BadInput
from raydistill.methods.base import Curriculum
from raydistill.methods.lgd import judged_by_latents
from raydistill.methods.resolve import Growth, Variant
from raydistill.pipeline.curriculum import asks_teacher, judging, of_current, of_reference
from raydistill.stages.evaluation import trainings
from raydistill.store.rundir import RunDir


def config_of_student(config: Config, how: Curriculum) -> Config:
    """The configuration with the student that a curriculum trains as the one that is evaluated."""
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"students": [how.student]})})


def check(v: Variant, growth: Growth, run: RunDir | None = None) -> None:
    """Refuses a curriculum that its seed ends, and of what its increments ask a student that cannot be read back or
    trained on so few images, and a teacher who sees no latents."""
    how, ipc, method = growth.how, v.config.ipc, v.config.method
    if growth.count(ipc) < 2:
        smaller = ", or give an lgd.increment below it that divides it" if ipc > 1 else ""
        raise BadInput(
            f"method {method}: ipc={ipc} is a single increment of {how.increment}, which is its seed alone; raise ipc"
            f"{smaller}"
        )
    latents = judged_by_latents(v.config)
    if judging(growth) and not latents:
        if how.student not in registry.names("student"):
            raise BadInput(f"lgd.student={how.student} is one of a family, which cannot be read back; choose another")
        if run is not None and not run.artifacts.is_local:
            raise BadInput(
                f"method {method}: the students that lead it are read from folders, and {run.artifacts} is none; give "
                "artifact_dir as a path that every node sees, or choose learnability.space=latent"
            )
        of_parts = (of_current(v, i) for i in range(1, growth.count(ipc)))
        for config in (*of_parts, of_reference(growth)):
            trainings.recipe(config, 2, how.student)
    norm = v.config.weights.norm
    if norm != "mean" and any(one.config.weights.mode is not None for one in v.makers()):
        raise BadInput(
            f"weights.norm={norm} would scale each increment of method {method} by itself, and they are one set; leave "
            "weights.norm out, which is mean"
        )
    if latents and asks_teacher(growth):
        raise BadInput(
            "lgd.reference=teacher sees images, and learnability.space=latent wants judges of latents; choose one of "
            "lgd.reference=trained and learnability.space=pixel"
        )
