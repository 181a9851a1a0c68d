"""What a sweep is asked for, as far as it is known before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raydistill.config import Config, TuneConfig, changed
from raydistill.config.base import SEED_LIMIT
from raydistill.config.text import write
from raydistill.errors import BadInput
from raydistill.evaluation.recipe import students_of
from raydistill.report.scores import Measure
from raydistill.results import judgement
from raydistill.stages.evaluation.trainings import recipe
from raydistill.state import Prepared
from raydistill.tune.objectives import SECONDS
from raydistill.tune.rungs import Rungs
from raydistill.tune.space import Space

HELD_OUT = 0.3  # of the training images, where source.search_split says nothing
ALONE = {"evaluate.baselines": [], "evaluate.full": False, "seeds.generation": 1}


@dataclass(frozen=True)
class SweepPlan:
    """A configuration with its images prepared twice: `held_out` to search, `tested` to test."""

    config: Config
    space: Space
    rungs: Rungs | None
    held_out: Prepared
    tested: Prepared

    @property
    def trials(self) -> int:
        t = self.config.tune
        return self.space.size() if t.search == "grid" else t.samples

    @property
    def finalists(self) -> int:
        return min(self.config.tune.finalists, self.trials)

    @property
    def sets(self) -> int:
        """That are drawn, and trained on: the trials', the default's, the finalists' and the tests'."""
        t = self.config.tune
        return (self.trials + 1) * t.seeds + (self.finalists + 3) * t.final_seeds


def searching(config: Config) -> Config:
    """Trials are scored on training images that were held out."""
    share = config.source.search_split or HELD_OUT
    return changed(config, {"source.search_split": share, **ALONE})


def testing(config: Config) -> Config:
    """The winner is tested as a plain run is."""
    return changed(config, {"source.search_split": 0.0, **ALONE})


def leading(p: Prepared) -> Measure:
    """What students are compared by: where classes are uneven, the mean over them."""
    return judgement.measures(p.splits.train.uneven or p.splits.test.uneven)[0]


def check_keys(config: Config, command_keys: Sequence[str]) -> None:
    """Raises BadInput for keys of the command line that nothing would come of."""
    for key in ("tune.rungs", "tune.reduction"):
        if key in command_keys and config.tune.scheduler == "none":
            raise BadInput(f"{key}: tune.scheduler=none does not read it; give tune.scheduler=asha, or leave it out")
    if config.tune.rates is not None and not set(config.tune.objectives) & set(SECONDS):
        raise BadInput(
            f"tune.rates: tune.objectives={','.join(config.tune.objectives)} counts no seconds; add seconds to it, or "
            "leave tune.rates out"
        )
    if config.tune.budget is not None and config.tune.price_per_hour is None:
        raise BadInput("tune.budget: what is left of it needs a price; give tune.price_per_hour, or leave it out")


def check_teacher(space: Space, p: Prepared) -> None:
    """Raises BadInput for a protocol among the knobs' values that trains on a teacher's labels where no teacher is."""
    config, classes = p.config, len(p.splits.test.classes)
    for name in (v for k in space.knobs if k.key == "evaluate.protocol.name" for v in k.choices):
        theirs = changed(config, {"evaluate.protocol.name": name})
        if p.teacher is None and any(recipe(theirs, classes, s).soft for s in students_of(theirs.evaluate)):
            raise BadInput(
                f"tune.space.evaluate.protocol.name: {name} trains on a teacher's labels; give evaluate.protocol.name="
                f"{name} teacher.path=FILE as what the sweep begins from, or leave {name} out"
            )


def check_students(space: Space, config: Config) -> None:
    """Raises BadInput for a protocol among the knobs' values that trains other students than the default is."""
    key, students = "evaluate.protocol.name", students_of(config.evaluate)
    for name in (v for k in space.knobs if k.key == key for v in k.choices):
        theirs = students_of(changed(config, {key: name}).evaluate)
        if theirs != students:
            raise BadInput(
                f"tune.space.{key}: {name} trains {', '.join(theirs)}, and {config.evaluate.protocol.name} "
                f"{', '.join(students)}, which cannot be compared; give evaluate.students=[{','.join(students)}] for "
                f"all trials, or leave {name} out"
            )


def check_seeds(config: Config) -> None:
    """Raises BadInput where the last seed would be beyond what a seed may be."""
    t = config.tune
    further = t.seeds + 2 * t.final_seeds - 1
    if config.seed + further >= SEED_LIMIT:
        raise BadInput(
            f"seed={config.seed}: a sweep draws by {further} seeds after it (tune.seeds, twice tune.final_seeds), and "
            f"2^63 - 1 is the last; lower it to {SEED_LIMIT - 1 - further} or less"
        )


def best_yaml(config: Config, values: Mapping[str, Any]) -> str:
    """The configuration with the winner's values, as `distill --config` takes it."""
    tree = changed(config, {**values, "tune": TuneConfig().model_dump()}).tree()
    for key in ("run_dir", "artifact_dir", "tracking", "tune"):
        tree.pop(key)
    return write(tree)
