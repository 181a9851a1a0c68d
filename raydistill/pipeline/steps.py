"""The stages of a prepared run, one by one: each brings what it needs first, and none is brought twice.

A plain run calls them in its order (job.py). A curriculum calls them an increment at a time with trainings in between,
a sweep calls them for variants of its own: what these agree in has one fingerprint, and so is one artifact.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from raydistill import registry
from raydistill.distributed import classifiers, students
from raydistill.distributed.classifiers import Lesson
from raydistill.distributed.nodes import Nodes
from raydistill.errors import RaydistillError
from raydistill.evaluation.recipe import students_of
from raydistill.methods.resolve import Variant
from raydistill.methods.weighting import MODES
from raydistill.metrics.own_class import OwnClass
from raydistill.models.classifier import ClassifierSpec
from raydistill.models.latent_classifier import LatentClassifierSpec
from raydistill.pipeline import features, teaching, uneven
from raydistill.pipeline.spreading import nodes_of, on_ray, together_on_ray
from raydistill.progress import say
from raydistill.stages import runner
from raydistill.stages.evaluation import measure, trainings
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainer import Rung, Teaching, Training
from raydistill.stages.latents import embed, encode, group
from raydistill.stages.prototypes import cluster
from raydistill.stages.runner import Execute, Stage
from raydistill.stages.syntheses import check, ingest, plan, sample, weigh
from raydistill.stages.syntheses import increment as increments
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.state import Prepared
from raydistill.store.sealed import Sealed

T = TypeVar("T")
COMPUTED = "computed"  # among what is kept, which those of all variants share


class Steps:
    """What each stage of a run gives, carried to its end when it is first asked for.

    Finished work is found and skipped; Ray starts with the first stage that has work. All raise StageFailed and
    CorruptArtifact, and what `still_ours` raises once another run has the run directory.
    """

    def __init__(
        self,
        prepared: Prepared,
        execute: Execute | None = None,
        nodes: Nodes | None = None,
        still_ours: Callable[[], None] = lambda: None,
    ) -> None:
        self.prepared = prepared
        self.nodes = nodes or nodes_of(prepared)
        self.still_ours = still_ours
        self._execute = execute or on_ray(prepared, self.nodes)
        self._together = runner.one_by_one(execute) if execute else together_on_ray(prepared, self.nodes)
        self._kept: dict[object, object] = {}

    @property
    def computed(self) -> bool:
        """Whether anything was done, by those beside it too."""
        return bool(self._kept.get(COMPUTED))

    @computed.setter
    def computed(self, value: bool) -> None:
        self._kept[COMPUTED] = value

    # -- what all variants share -----------------------------------------------------------------------------------

    def latents(self) -> Sealed:
        """Of every usable training image."""
        p = self.prepared
        return self._once("latents", lambda: self.run_stage(encode.stage(p.config, p.run, p.splits.train, p.vae)))

    def classes(self) -> Sealed:
        """The latents class by class."""
        p = self.prepared
        return self._once("classes", lambda: self.run_stage(group.stage(p.run, self.latents(), p.splits.train.classes)))

    def features(self) -> Sealed:
        """What the network of features.path, which must be given, makes of the images, class by class."""
        p = self.prepared
        assert p.features is not None
        network = p.features
        return self._once(
            "features", lambda: self.run_stage(embed.stage(p.config, p.run, self.classes(), p.splits.train, network))
        )

    def imported(self) -> DistilledSet:
        """The images of the judged folder, which nobody planned, as a set."""
        p = self.prepared
        assert p.judged is not None
        images = self.run_stage(ingest.stage(p.config, p.run, p.judged, p.vae), f"import {p.judged.name}")
        return self._weighed(p.variants[0], images, images, f"weigh {p.judged.name}")

    # -- of a variant, and an increment of it ----------------------------------------------------------------------

    def prototypes(self, v: Variant) -> Sealed:
        p, algorithm = self.prepared, v.config.cluster.algorithm or "kmeans"
        return self.run_stage(
            cluster.stage(v.config, p.run, self.classes(), p.splits.train.classes, p.shape),
            "cluster" if algorithm == "kmeans" else f"cluster {algorithm}",
        )

    def plan(self, v: Variant, increment: int = 0) -> Sealed:
        """The slots, with their prototypes and noise. A curriculum has a plan an increment and none of its own."""
        return self._plan(v, v, increment)

    def plan_of(self, v: Variant, increment: int) -> Sealed:
        """The slots of an increment of a curriculum, with other prototypes than those of the increments before."""
        assert v.growth is not None
        growth = v.growth
        taken: list[Sealed] = []
        for i in range(increment):
            maker = growth.next if i else growth.first
            if growth.next.method.uses_prototypes and maker.method.uses_prototypes:
                taken.append(self._plan(maker, growth.among(i) if i else maker, i, taken))
        return self._plan(growth.next, growth.among(increment), increment, taken)

    def _plan(self, v: Variant, among: Variant, increment: int, taken: Sequence[Sealed] = ()) -> Sealed:
        """Of the prototypes of `among` those that no plan of `taken` has."""
        p = self.prepared
        assert v.growth is None, "a set that grows is made by pipeline/curriculum.py"
        stage = plan.stage(
            v,
            p.run,
            self.classes(),
            self.prototypes(among) if v.method.uses_prototypes else None,
            p.splits.train.classes,
            p.shape,
            self.features() if features.by_features(v) else None,
            increment,
            tuple(taken),
        )
        slots = self.run_stage(stage, shown("plan", v, increment))
        self._check_masses(among, slots)
        return slots

    def syntheses(self, v: Variant, increment: int = 0) -> Sealed:
        """The images, one a slot."""
        return self.run_stage(self.sampling(v, increment), shown("sample", v, increment))

    def sampling(self, v: Variant, increment: int = 0) -> Stage:
        """The stage of `syntheses`, whose plan is brought."""
        p, slots = self.prepared, self.plan(v, increment)
        return sample.stage(v, p.run, slots, self.classes(), p.splits.train, p.vae, p.generator)

    def weighed(self, v: Variant, increment: int = 0) -> DistilledSet:
        """The images as a set, with weights if the variant asks for others than they have."""
        slots = self.plan(v, increment)
        return self._weighed(v, self.syntheses(v, increment), slots, shown("weigh", v, increment))

    def increment(
        self,
        v: Variant,
        increment: int,
        judges: Mapping[str, ClassifierSpec | LatentClassifierSpec],
        before: DistilledSet,
    ) -> DistilledSet:
        """An increment of a curriculum after its first: the most learnable images of their slots, by these judges."""
        p, growth = self.prepared, v.growth
        assert growth is not None and growth.next.sampling is not None and p.generator is not None
        next_one = growth.next.with_networks({**growth.next.sampling.networks, **judges})
        slots, among = self.plan_of(v, increment), growth.among(increment)
        stage = increments.stage(next_one, growth.how, p.run, slots, self.classes(), p.vae, p.generator, judges, before)
        images = self.run_stage(stage, shown("increment", v, increment))
        return self._weighed(among, images, slots, shown("weigh", v, increment))

    def classifiers(self, lessons: Sequence[Lesson], name: str = "judge") -> list[tuple[str, Training]]:
        """The files of students that are trained on sets with hard labels, in one fit, and their trainings."""
        p, planned = self.prepared, []
        checkpoints, left = p.run.root / "checkpoints", []
        for lesson in lessons:
            t = lesson.planned(p.run, p.splits)
            kept = t.checkpoint(checkpoints)
            if t.artifact.manifest() is None or not kept.sealed():
                left.append(lesson)
            self._kept["classifier", t.artifact.fingerprint] = t
            planned.append(t)
        if left:
            self._train(left, name)
        return [(t.checkpoint(checkpoints).path, t) for t in planned]

    # -- of sets ---------------------------------------------------------------------------------------------------

    def checks(self, sets: Mapping[str, DistilledSet]) -> dict[str, OwnClass]:
        """Whether what was made is of its classes, by the name of the set."""
        p = self.prepared
        return check.check(p.run, self.classes(), sets, p.splits.train.classes, self.run_stage)

    def measured(self, ref: SetRef) -> Sealed:
        """The metrics of a set, which metrics.names must ask for."""
        p = self.prepared
        points = {measure.LATENT: self.classes()}
        if p.features and p.features.architecture in measure.requested_spaces(p.config.metrics, p.features).values():
            points[p.features.architecture] = self.features()
        stage = measure.stage(p.config, p.run, ref, points, p.features, len(p.splits.train.classes))
        return self.run_stage(stage, f"measure {ref.name}")

    def teaching(self, sets: Sequence[SetRef]) -> Teaching | None:
        """The teacher with its labels of these sets; None for hard labels."""
        key = ("teaching", self.prepared.config.evaluate.protocol, *(s.digest for s in sets))
        return self._once(key, lambda: teaching.teach(self.prepared, sets, self.run_stage))

    def trainings(self, sets: Sequence[SetRef]) -> list[Training]:
        """Every student and seed on every set, and on its parts if they are asked for, in one fit over what is left."""
        p, taught = self.prepared, self.teaching(sets)
        every, seconds = students.evaluate(
            p.config, p.run, sets, p.splits.train, p.splits.test, self.nodes.prove, taught
        )
        self.computed |= seconds > 0
        return every

    def paired(self, sets: Sequence[tuple[SetRef, int]]) -> list[list[Training]]:
        """Every student on each set, with the training seed beside it; equal ones are trained once. In one fit."""
        p, (every, distinct, taught) = self.prepared, self._paired(sets)
        seconds = students.train_missing(
            p.config, p.run, distinct, p.splits.train, p.splits.test, self.nodes.prove, taught
        )
        self.computed |= seconds > 0
        return every

    def rungs(self, sets: Sequence[tuple[SetRef, int]], tests: int) -> list[list[tuple[Training, Rung]]]:
        """As `paired`, but only until so many tests are done; what they said is committed on the rung."""
        p, (every, distinct, taught) = self.prepared, self._paired(sets)
        rung = trainings.rung(p.run, distinct, tests)
        self.computed |= students.train_to(
            p.config, p.run, distinct, rung, p.splits.train, p.splits.test, self.nodes.prove, taught
        )
        return [[(t, rung) for t in of_set] for of_set in every]

    def _paired(
        self, sets: Sequence[tuple[SetRef, int]]
    ) -> tuple[list[list[Training]], list[Training], Teaching | None]:
        """The trainings of each set, all that are different, and who teaches them."""
        p, taught = self.prepared, self.teaching(list({ref.digest: ref for ref, _ in sets}.values()))
        train, test = p.splits.train, p.splits.test
        of_students = [
            [trainings.training(p.config, p.run, ref, student, seed, test, taught, train) for ref, seed in sets]
            for student in students_of(p.config.evaluate)
        ]
        distinct = {t.artifact.fingerprint: t for of_student in of_students for t in of_student}
        every = [list(of_set) for of_set in zip(*of_students, strict=True)]
        return every, list(distinct.values()), taught

    def beside(self, prepared: Prepared) -> Steps:
        """Those of another variant of the run; what the one has brought the other has, too."""
        other = copy.copy(self)
        other.prepared = prepared
        return other

    def stands_on(self, trainings: Sequence[Training]) -> list[str]:
        """STAGE/FINGERPRINT of all that was brought, and of these trainings."""
        parts = [kept.artifact for kept in self._kept.values() if isinstance(kept, Sealed)]
        parts += [a for t in self._kept.values() if isinstance(t, Training) for a in (t.artifact, t.classifier)]
        return sorted({f"{a.stage}/{a.fingerprint}" for a in [*parts, *(t.artifact for t in trainings)]})

    def tell(self, name: str, text: str) -> None:
        """Says what was learned on the way."""
        say(name, text)

    # -- how -------------------------------------------------------------------------------------------------------

    def run_stage(self, stage: Stage, name: str | None = None) -> Sealed:
        """Any stage, shown under this name."""
        key = (stage.artifact.stage, stage.artifact.fingerprint)
        return self._once(key, lambda: self._carry(stage, name or stage.name))

    def run_together(self, stages: Sequence[Stage]) -> list[RaydistillError | None]:
        """Stages of actors at once, which `run_stage` then finds. Of each its error, if it failed: the others go on."""
        distinct = {(s.artifact.stage, s.artifact.fingerprint): s for s in stages}
        left = {key: s for key, s in distinct.items() if key not in self._kept}
        self.still_ours()
        begun = [key for key, s in left.items() if s.artifact.manifest() is None]
        ended = dict(zip(left, runner.run_together(list(left.values()), self._together), strict=True))
        self.computed |= any(isinstance(ended[key], Sealed) for key in begun)
        self._kept.update({key: sealed for key, sealed in ended.items() if isinstance(sealed, Sealed)})
        errors = {key: e for key, e in ended.items() if isinstance(e, RaydistillError)}
        return [errors.get((s.artifact.stage, s.artifact.fingerprint)) for s in stages]

    def _weighed(self, v: Variant, images: Sealed, slots: Sealed, name: str) -> DistilledSet:
        if v.config.weights.mode is None:
            return DistilledSet((images,))
        weights = self.run_stage(self._weighing(v, slots), name)
        if v.method.uses_prototypes and MODES[v.config.weights.mode].needs_masses:
            self._once(("uneven", weights.artifact.fingerprint), lambda: self._tell_uneven(v, weights, name))
        return DistilledSet((images,)).weighing(weights)

    def _tell_uneven(self, v: Variant, weights: Sealed, name: str) -> None:
        config, sizes = v.config, self.prototypes(v).read(["size"])["size"].to_numpy()
        clustering = registry.get("clustering", config.cluster.algorithm or "kmeans").of(config)
        left = weights.manifest.summary["effective_sample_size"]
        a_class = weights.rows // len(
            self.prepared.splits.train.classes
        )  # of an increment, whose ipc counts all so far
        if text := uneven.advice(clustering, sizes, left, a_class):
            self.tell(name, text)

    def _weighing(self, v: Variant, slots: Sealed) -> Stage:
        anchors = self.prototypes(v) if v.method.uses_prototypes else None
        return weigh.stage(v.config, self.prepared.run, slots, anchors, self.classes())

    def _check_masses(self, v: Variant, slots: Sealed) -> None:
        """A slot that has no mass to be weighed by is told before anything is sampled."""
        if v.config.weights.mode is None or not v.method.uses_prototypes:
            return
        stage = self._weighing(v, slots)
        if stage.artifact.manifest() is None:
            self._once(("masses", stage.artifact.fingerprint), lambda: weigh.check(stage))

    def _carry(self, stage: Stage, name: str) -> Sealed:
        self.still_ours()
        outcome = runner.run(stage, self._execute, name)
        self.computed |= not outcome.reused
        return outcome.sealed

    def _train(self, lessons: Sequence[Lesson], name: str) -> None:
        p = self.prepared
        self.still_ours()
        classifiers.train_all(lessons, p.run, p.splits, self.nodes.prove, name)
        self.computed = True

    def _once(self, key: object, make: Callable[[], T]) -> T:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]  # type: ignore[return-value]


def shown(kind: str, v: Variant, increment: int) -> str:
    """What the stage of a variant is called on the way."""
    return f"{kind} {v.config.method}" + (f" {increment}" if increment else "")
