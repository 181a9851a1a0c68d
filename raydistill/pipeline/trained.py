"""generator.path=train: a generator, and a VAE where none is given, are trained first, for later runs too."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from raydistill import registry
from raydistill.config import Config
from raydistill.config.reads import TRAIN
from raydistill.errors import BadInput, printable
from raydistill.models import hub
from raydistill.models.checkpoint import packaged
from raydistill.models.denoiser import GeneratorSpec
from raydistill.pipeline.automatic import method_of
from raydistill.pipeline.preflight import absolute, check_steps, prepare
from raydistill.pipeline.weights import pretrain
from raydistill.pretraining import estimate
from raydistill.pretraining.origin import Origin, from_scratch
from raydistill.pretraining.plan import Plan, make_plan
from raydistill.progress import say
from raydistill.store.location import Location
from raydistill.store.rundir import RunDir

MODELS = "models"
WITHOUT_GENERATOR = ("encode", "cluster")  # runs that end before one is asked


@dataclass(frozen=True)
class Pending:
    """A training that is left: what of, how many steps, and the seconds that they take here."""

    target: str
    steps: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.target}, {self.steps:,} steps in about {duration(self.seconds)}"


def first(config: Config, until: str = "report") -> Config:
    """The configuration with what was trained for it in place of `train`: trained now, or found trained.

    Raises BadInput for what can be known beforehand, StageFailed on the way: the same command goes on.
    """
    if config.generator.path != TRAIN:
        return config
    config = absolute(config)
    if (left := unfinished(config, until)) != []:
        say("generator", f"trained first, about {total(left)} on this machine: {'; '.join(map(str, left))}")
        say("generator", f"kept in {home(config)} for later runs; interrupt it, and the same command goes on")
        claim(config)
    if trains_vae(config):
        config = with_path(config, "vae", pretrain(placed(config, "vae").config))
    if until in WITHOUT_GENERATOR:
        return with_path(config, "generator", None)
    return with_path(config, "generator", pretrain(placed(config, "generator").config))


def unfinished(config: Config, until: str = "report") -> list[Pending]:
    """What `first` would train. Raises BadInput as it does, also for what the run would refuse afterwards."""
    if config.generator.path != TRAIN:
        return []
    config = absolute(config)
    check(config)
    left = trainings(config, until)
    if left:
        check_run(config, until)
    return left


def trainings(config: Config, until: str = "report") -> list[Pending]:
    """Those that are not finished, in their order. Takes seconds, writes nothing."""
    left, p = [], config.pretrain
    wanted = until not in WITHOUT_GENERATOR
    if trains_vae(config):
        plan = placed(config, "vae")
        if plan.finished():
            config = with_path(config, "vae", str(plan.out))
        else:
            left.append(Pending("VAE", p.steps, estimate.seconds(config, len(plan.listing.classes))))
            if wanted:
                side = config.source.image_size // 2 ** (len(p.vae_channels) - 1)
                scratch = from_scratch(config.generator.objective or "epsilon", plan.listing.classes)
                shape = (p.latent_channels, side, side)
                left.append(_generator(config, len(plan.listing.classes), scratch, shape))
            return left
    if wanted and not (plan := placed(config, "generator")).finished():
        assert plan.origin is not None
        left.append(_generator(config, len(plan.listing.classes), plan.origin, plan.latent_shape))
    return left


def _generator(config: Config, classes: int, origin: Origin, shape: tuple[int, int, int]) -> Pending:
    return Pending("generator", config.pretrain.steps, estimate.seconds(config, classes, origin, shape))


def trains_vae(config: Config) -> bool:
    """Whether the VAE is trained as well: one's own images want one, unless it is given."""
    return config.vae.path is None and config.pretrain.init is None


def placed(config: Config, target: str) -> Plan:
    """The training of one of the two, in a folder called by its fingerprint. Raises BadInput."""
    shared = config.artifact_dir or config.run_dir

    def plan(out: str) -> Plan:
        p = config.pretrain.model_copy(update={"target": target, "out": out})
        return make_plan(config.model_copy(update={"pretrain": p, "artifact_dir": shared}))

    return plan(os.path.join(home(config), f"{target}-{plan(home(config)).fingerprint}"))


def claim(config: Config) -> None:
    """Marks the place of the run's artifacts as ours before models lie in it, which would make it somebody else's."""
    if config.artifact_dir:
        RunDir(config.artifact_dir).claim()


def in_words(config: Config, left: Sequence[Pending], what: str) -> str:
    """For a dry run, where these come first: what it is, whose directory they lie in, and `what` follows them."""
    lines = [f"  pretrain  {printable(str(t))}" for t in left]
    head = f"{config.run_dir}: would first train in {home(config)}; nothing is written"
    return "\n".join([head, *lines, f"  then the {what}, which is checked once they are there"])


def home(config: Config) -> str:
    """The folder of what is trained, which later runs share: in artifact_dir, or beside run_dir."""
    if config.artifact_dir:
        return os.path.join(config.artifact_dir, MODELS)
    return os.path.join(os.path.dirname(config.run_dir or ""), MODELS)


def check(config: Config) -> None:
    """Raises BadInput where no generator would be asked, or nothing can be kept."""
    names = [method_of(config), *config.evaluate.baselines]
    if not any(registry.get("method", n).generates for n in names):
        raise BadInput(
            f"generator.path=train: method={config.method} takes real images and asks no generator; leave one of the "
            "two out"
        )
    if not Location.of(home(config)).is_local:
        raise BadInput(
            f"generator.path=train: {home(config)} is no folder, and models are read from folders; give artifact_dir "
            "as a path that every node sees, or train one with jobs/pretrain.py"
        )


def check_run(config: Config, until: str) -> None:
    """Raises BadInput for what of the run itself can be known before its generator is there: all but its weights."""
    without = with_path(config, "generator", None)
    prepared = prepare(without, evaluate=until in ("evaluate", "report"), generate=False)
    init = hub.find("generator", config.pretrain.init, None).folder
    alike = GeneratorSpec(init or packaged("flow" if config.generator.objective == "flow" else "generator"))
    for v in (one for variant in prepared.variants for one in variant.makers()):
        if v.sampling is not None:
            check_steps(v.sampling, alike)


def with_path(config: Config, section: str, path: str | None) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update={"path": path})})


def total(left: Sequence[Pending]) -> str:
    return duration(sum(t.seconds for t in left))


def duration(seconds: float) -> str:
    """Rounded up to what an estimate can say."""
    if seconds < 90 * 60:
        return f"{max(1, math.ceil(seconds / 60))} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 10 else f"{math.ceil(hours)} h"
