"""A whole run so small that its stages can be killed by the dozen: 21 digits of two classes, two sampler steps, no Ray.

Stages find what is upstream of them in the run directory, and fingerprints know no place: a copied directory continues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from samples import write_student

from raydistill.config import Config, build
from raydistill.evaluation.recipe import Recipe
from raydistill.guidance.learnability import CURRENT, REFERENCE
from raydistill.methods.lgd import LgdConfig
from raydistill.methods.resolve import resolve
from raydistill.models.classifier import ClassifierSpec
from raydistill.models.denoiser import GeneratorSpec
from raydistill.models.vae import VaeSpec
from raydistill.pipeline.features import by_features
from raydistill.pipeline.preflight import find_networks
from raydistill.sources.base import Listing, open_splits
from raydistill.stages import runner
from raydistill.stages.evaluation import label, latent_judge, measure, teacher, trainings
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.latents import embed, encode, group
from raydistill.stages.prototypes import cluster
from raydistill.stages.runner import Execute, Outcome, Stage, Work, serial
from raydistill.stages.syntheses import check, increment, ingest, plan, sample, weigh
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.store.artifact import Manifest, Record
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed

REAL = "random"
GENERATED = "mgd3"
CHOSEN = "herding"  # by features
STAGES = (
    "encode",
    "group",
    "cluster",
    "embed",
    f"plan {GENERATED}",
    f"plan {REAL}",
    f"plan {CHOSEN}",
    f"sample {GENERATED}",
    f"sample {REAL}",
    "means",
    f"check {GENERATED}",
    f"measure {GENERATED}",
)
IMPORT, TEACHER, LABEL = "import", "teacher", f"label {GENERATED}"  # of a folder's images, and for soft labels
WEIGH, INCREMENT = f"weigh {GENERATED}", f"increment {GENERATED}"  # of a curriculum whose base this is
JUDGE = f"judge {GENERATED}"  # a classifier of its latents
EVERY = (*STAGES, IMPORT, TEACHER, LABEL, WEIGH, INCREMENT, JUDGE)
UPSTREAM = {
    "encode": (),
    "group": ("encode",),
    "cluster": ("group",),
    "embed": ("group",),
    f"plan {GENERATED}": ("group", "cluster"),
    f"plan {REAL}": ("group",),
    f"plan {CHOSEN}": ("group", "embed"),
    f"sample {GENERATED}": (f"plan {GENERATED}",),
    f"sample {REAL}": (f"plan {REAL}",),
    "means": ("group",),
    f"check {GENERATED}": ("means", f"sample {GENERATED}"),
    f"measure {GENERATED}": ("group", "embed", f"sample {GENERATED}"),
}


def config(**more: Any) -> Config:
    tree: dict[str, Any] = {
        "method": GENERATED,
        "ipc": 3,
        "source": {"kind": "digits", "classes": ["3", "7"]},
        "encode": {"chunk": 6, "batch": 4, "device": "cpu"},
        "embed": {"batch": 4, "device": "cpu"},
        "metrics": {"names": ["l2", "wasserstein"]},
        "cluster": {"restarts": 1, "iterations": 10},
        "sampler": {"steps": 2, "cfg_scale": 1.0},
        "guidance": {"stop": 0.0},
        "sample": {"batch": 4, "device": "cpu"},
        "evaluate": {
            "width": 8,
            "seeds": 2,
            "protocol": {"visits": 32, "batch": 8, "image_size": 8, "evaluations": 2},
        },
        "label": {"batch": 5, "device": "cpu"},
    }
    return build(tree | more)


class TinyRun:
    """The stages of the run under `root`; whatever is upstream of a stage must be sealed there."""

    def __init__(self, root: Path | str, beside: Path | None = None) -> None:
        """`root` may be a URI; then `beside` is a local folder for the network that features are made with."""
        self.root = root
        self.run = RunDir(str(root))
        self.config = config(selection={"space": "feature"}, weights={"mode": "density"})
        splits = open_splits(self.config.source)
        self.train = few(splits.train, 21)
        self.test = few(splits.test, 12)
        self.vae = VaeSpec(None)
        self.generator = GeneratorSpec(None)
        self.network = ClassifierSpec(write_student((beside or Path(root).parent) / "network"), key="features")
        self.shape = self.vae.latent_shape(self.config.source.image_size)

    def sealed(self, name: str) -> Sealed:
        sealed = Sealed.finished(self.stage(name).artifact)
        assert sealed is not None, f"{name} is not finished under {self.root}"
        return sealed

    def distilled(self, method_name: str) -> DistilledSet:
        """The sealed syntheses of a method."""
        return DistilledSet((self.sealed(f"sample {method_name}"),))

    def stage(self, name: str) -> Stage:
        """A stage of EVERY by name."""
        kind, _, method_name = name.partition(" ")
        if kind == "encode":
            return encode.stage(self.config, self.run, self.train, self.vae)
        if kind == "group":
            return group.stage(self.run, self.sealed("encode"), self.train.classes)
        if kind == "embed":
            return embed.stage(self.config, self.run, self.sealed("group"), self.train, self.network)
        if kind == "means":
            return check.means_stage(self.run, self.sealed("group"))
        if kind == "check":
            return check.stage(self.run, self.sealed("means"), self.distilled(method_name))
        if kind == "cluster":
            return cluster.stage(self.config, self.run, self.sealed("group"), self.train.classes, self.shape)
        if kind == "import":
            return ingest.stage(self.config, self.run, self.judged(), self.vae)
        if kind == "teacher":
            return teacher.stage(self.config, self.run, self.test, self.network, self.recipe())
        if kind == "label":
            classes = self.train.classes
            return label.stage(self.config, self.run, self.ref(method_name), classes, self.network, self.recipe())
        if kind == "judge":
            above, real = self.distilled(method_name), self.sealed("group")
            classes, width = [c.class_id for c in self.train.classes], self.config.evaluate.width
            return latent_judge.stage(self.run, above, real, classes, self.shape, width, 1, 0, self.config.sample)
        if kind == "increment":
            return self.increment(method_name)
        v = resolve(self.config.model_copy(update={"method": method_name}))
        v = find_networks(v, [c.class_id for c in self.train.classes])
        if kind == "plan":
            anchors = self.sealed("cluster") if v.method.uses_prototypes else None
            features = self.sealed("embed") if by_features(v) else None
            return plan.stage(v, self.run, self.sealed("group"), anchors, self.train.classes, self.shape, features)
        if kind == "weigh":
            above = (self.sealed(name) for name in (f"plan {method_name}", "cluster", "group"))
            return weigh.stage(v.config, self.run, *above)
        if kind == "measure":
            ref = self.ref(method_name)
            points = {measure.LATENT: self.sealed("group"), self.network.architecture: self.sealed("embed")}
            return measure.stage(v.config, self.run, ref, points, self.network, len(self.train.classes))
        above = self.sealed(f"plan {method_name}")
        return sample.stage(v, self.run, above, self.sealed("group"), self.train, self.vae, self.generator)

    def increment(self, base: str) -> Stage:
        """As if the syntheses of a method were what there is so far, and `network` the judge of what to add."""
        own = LgdConfig(base=base, increment=self.config.ipc, candidates=2, memory_scope="all")
        growth = resolve(self.config.model_copy(update={"method": "lgd", "brought": {"lgd": own}})).growth
        assert growth is not None
        judges = dict.fromkeys((CURRENT, REFERENCE), self.network)
        v = find_networks(growth.next, [c.class_id for c in self.train.classes], (CURRENT, REFERENCE))
        assert v.sampling is not None
        v = v.with_networks({**v.sampling.networks, **judges})
        slots, real = self.sealed(f"plan {base}"), self.sealed("group")
        return increment.stage(
            v, growth.how, self.run, slots, real, self.vae, self.generator, judges, self.distilled(base)
        )

    def ref(self, method_name: str) -> SetRef:
        """The syntheses of a method as a training set."""
        return SetRef.of(method_name, self.distilled(method_name))

    def recipe(self) -> Recipe:
        """That of a student on stored soft labels."""
        e = self.config.evaluate
        soft = e.protocol.model_copy(update={"name": "fkd", "batch": None, "visits": None, "views": 2})
        own = self.config.model_copy(update={"evaluate": e.model_copy(update={"protocol": soft})})
        return trainings.recipe(own, len(self.train.classes), "convnet")

    def judged(self) -> ingest.JudgedFolder:
        """Five of the training images, as if they had been found in a folder."""
        listing = few(self.train, 5)
        return ingest.JudgedFolder("mine", self.config.source, listing, np.ones(len(listing)))

    def finish(self, names: Sequence[str] = STAGES) -> dict[str, Manifest]:
        return {name: runner.run(self.stage(name), serial).manifest for name in names}


def few(listing: Listing, count: int) -> Listing:
    return listing.take(np.arange(len(listing)) < count)


@dataclass
class Calls:
    """The work of a stage, and the keys that it was asked for."""

    work: Work
    loaded: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    opened: int = 0

    def load(self, item: Any) -> Any:
        self.loaded.append(getattr(item, "key", item))
        return self.work.load(item)

    def open(self) -> Callable[[Any], Record]:
        self.opened += 1
        finish = self.work.open()

        def counted(payload: Any) -> Record:
            record = finish(payload)
            self.finished.append(record.key)
            return record

        return counted


def watched(stage: Stage, execute: Execute = serial) -> tuple[Outcome, Calls]:
    """Runs a stage; also says for which keys its work was called."""
    calls = Calls(stage.work)
    return runner.run(replace(stage, work=calls), execute), calls


def backwards(stage: Stage, todo: Sequence[str]) -> Iterator[Record]:
    """An executor that takes the keys in the opposite order and yields them out of step."""
    yield from list(serial(stage, todo[::-1]))[::-1]
