"""LGD: learnability-guided distillation (arXiv 2604.00519): increments of what was not learned before."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, cast

from pydantic import Field

from raydistill import registry
from raydistill.config import Config, Search, Section
from raydistill.errors import BadInput
from raydistill.evaluation.recipe import students_of
from raydistill.guidance.learnability import LearnabilityConfig
from raydistill.methods.base import ClassView, Curriculum, Method, Slot
from raydistill.registry import register

MOST = 5  # increments, unless their size is given: the paper's at 50 images a class
BASES = ("uses_prototypes", "clustering", "uses_latents", "uses_points", "sampler", "guidance", "form", "weights")
EPOCHS = 30  # of the reference over all real images, unless they are given


class LgdConfig(Section):
    """Used by method `lgd`: the curriculum. What leads its images is in section `learnability`."""

    increment: Annotated[
        int | None,
        Field(ge=1, description="images a class in each increment; null = the fewest that give at most 5 increments"),
    ] = None
    seed_method: Annotated[str, Field(description="method of the first increment")] = "mgd3"
    base: Annotated[
        str, Field(description="method of the others, whose prototypes, sampler and own guidance they have")
    ] = "dit"
    candidates: Annotated[
        int,
        Field(ge=1, le=1000, description="kappa: images made for a slot, of which the best is kept; 1 = no choice"),
        Search(1, 5),
    ] = 3
    round: Annotated[
        int, Field(ge=1, le=100_000, description="slots of a class whose memory is frozen together; 1 = the paper")
    ] = 1
    memory_scope: Annotated[
        Literal["increment", "all"], Field(description="what images are repelled from: their own increment, or all")
    ] = "increment"
    omega: Annotated[
        float | None,
        Field(ge=0, le=100, description="of the score that chooses candidates; null = learnability.omega, paper: 1"),
    ] = None
    reference: Annotated[
        Literal["trained", "teacher"], Field(description="trained on all real images, or the network of teacher.path")
    ] = "trained"
    reference_epochs: Annotated[
        int | None, Field(ge=1, description="of its training; null = evaluate.full_epochs, or 30")
    ] = None
    student: Annotated[str | None, Field(description="what is trained; null = the first that is evaluated")] = None
    training_seed: Annotated[int, Field(ge=0, lt=2**31, description="seed of these trainings")] = 0


@register("method", "lgd")
class Lgd(Method):
    """Fills an increment as its base does. That a set is made of increments is its `curriculum`."""

    summary = "increments led to what was not learned from those before (LGD)"
    section: ClassVar[tuple[str, type[Section]] | None] = ("lgd", LgdConfig)
    terms = ("learnability",)

    def __init__(self, base: Method | None = None, name: str = "dit", curriculum: Curriculum | None = None) -> None:
        self.base = base or registry.get("method", name)()
        facts = (
            "uses_prototypes",
            "clustering",
            "uses_latents",
            "uses_points",
            "sampler",
            "guidance",
            "form",
            "weights",
        )
        for fact in facts:
            setattr(self, fact, getattr(self.base, fact))
        self.steps, self.start = self.base.steps, self.base.start  # type: ignore[misc]
        self.options = (name, *self.base.options, *registry.identity("method", name))
        self.curriculum = curriculum

    @classmethod
    def of(cls, config: Config) -> Lgd:
        """Raises BadInput for a base that makes no images of its own, and increments that do not divide ipc."""
        settings = cast(LgdConfig, config.section("lgd", LgdConfig))
        if settings.base == "lgd":
            raise BadInput("lgd.base=lgd fills no increment itself; choose another (dit, mgd3)")
        base: Method = registry.get("method", settings.base).of(config)
        if not base.generates or base.curriculum is not None:
            raise BadInput(f"lgd.base={settings.base} generates no images of its own; choose another (dit, mgd3)")
        return cls(base, settings.base, curriculum(config, settings))

    def slots(self, view: ClassView, ipc: int, seed: int) -> list[Slot]:
        return self.base.slots(view, ipc, seed)


def judged_by_latents(config: Config) -> bool:
    """Whether what judges sees latents and no images."""
    return cast(LearnabilityConfig, config.section("learnability", LearnabilityConfig)).space == "latent"


def curriculum(config: Config, settings: LgdConfig) -> Curriculum:
    """Raises BadInput for a seed that is a curriculum itself, and increments that do not divide ipc."""
    if settings.seed_method == "lgd":
        raise BadInput("lgd.seed_method=lgd begins nowhere; choose another (mgd3, dit, random)")
    size = settings.increment or next(
        d for d in range(1, config.ipc + 1) if config.ipc % d == 0 and config.ipc <= MOST * d
    )
    if config.ipc % size:
        raise BadInput(f"lgd.increment={size} does not divide ipc={config.ipc}; change one of them, or leave it out")
    guiding = cast(LearnabilityConfig, config.section("learnability", LearnabilityConfig))
    return Curriculum(
        increment=size,
        seed=settings.seed_method,
        base=settings.base,
        candidates=settings.candidates,
        round=min(settings.round, size),
        remember_all=settings.memory_scope == "all" and guiding.repulsion > 0,
        omega=guiding.omega if settings.omega is None else settings.omega,
        reference=settings.reference,
        reference_epochs=settings.reference_epochs or config.evaluate.full_epochs or EPOCHS,
        student=settings.student or students_of(config.evaluate)[0],
        training_seed=settings.training_seed,
    )
