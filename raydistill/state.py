"""What a run works with and what it has made so far: what the pipeline fills and the report reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from raydistill.config import Config
from raydistill.methods.resolve import Variant
from raydistill.metrics.own_class import OwnClass
from raydistill.models.classifier import ClassifierSpec
from raydistill.models.generator import Generator
from raydistill.models.vae import VaeSpec
from raydistill.sources.base import Splits
from raydistill.stages.evaluation.trainer import Teaching, Training
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.stages.syntheses.ingest import JudgedFolder
from raydistill.store.location import Location
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed


@dataclass(frozen=True)
class Prepared:
    """What a run works with. `variants[0]` is the run's own method, the others its baselines."""

    config: Config
    run: RunDir
    splits: Splits
    vae: VaeSpec
    shape: tuple[int, int, int]
    generator: Generator | None
    variants: tuple[Variant, ...]
    features: ClassifierSpec | None = None
    judged: JudgedFolder | None = None  # in place of the own method's images, those of a folder
    teacher: ClassifierSpec | None = None


@dataclass
class Results:
    """What a run has made so far; the report is drawn from it."""

    prepared: Prepared
    latents: Sealed | None = None
    classes: Sealed | None = None
    prototypes: dict[str, Sealed] = field(default_factory=dict)  # by algorithm
    features: Sealed | None = None
    plans: dict[str, Sealed] = field(default_factory=dict)
    syntheses: dict[str, DistilledSet] = field(default_factory=dict)
    further: dict[int, dict[str, DistilledSet]] = field(default_factory=dict)  # sets of later generation seeds
    checks: dict[str, OwnClass] = field(default_factory=dict)
    measured: dict[str, Sealed] = field(default_factory=dict)
    teaching: Teaching | None = None
    trainings: list[Training] = field(default_factory=list)
    on_parts: list[Training] = field(default_factory=list)  # on parts of the sets, for redundancy
    students: dict[str, list[Training]] = field(default_factory=dict)  # of curricula, on their first increments
    computed: bool = False  # whether anything was done in this run


def source_name(config: Config) -> str:
    """What to call the images: the folder's name, or the kind of an embedded source."""
    return Location.of(config.source.path).name if config.source.path else config.source.kind


def images_per_class(ipc: int) -> str:
    return f"{ipc} image{'' if ipc == 1 else 's'} per class"


def title(config: Config) -> str:
    """What a run is, on its pages."""
    return f"{source_name(config)}, {images_per_class(config.ipc)} by {config.method}"
