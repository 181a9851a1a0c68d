"""increment: the slots of an increment of a curriculum -> images: of several candidates a slot the most learnable one.

A unit is some whole classes: the slots of a class see what was chosen for it in rounds before, and nothing of others.
There are as many units as batches fill, but at least UNITS, by which actors share few classes and a kill loses little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import torch

from raydistill.config import SampleConfig
from raydistill.declared import Aside, Keys
from raydistill.guidance.learnability import MEMORY, learnability, roles
from raydistill.methods.base import Curriculum
from raydistill.methods.resolve import SamplingPlan, Variant
from raydistill.models import loaded
from raydistill.models.classifier import Classifier, ClassifierSpec, class_columns, unit_images
from raydistill.models.device import Placement
from raydistill.models.generator import Generator
from raydistill.models.latent_classifier import LatentClassifier, LatentClassifierSpec
from raydistill.models.vae import VaeSpec
from raydistill.seeding import NoiseKey
from raydistill.stages.runner import Stage
from raydistill.stages.syntheses import numbers
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.stages.syntheses.planned import PlannedUnits
from raydistill.stages.syntheses.sample import Maker, Slots, Trace, commit, identity, see
from raydistill.stages.work import StageWork
from raydistill.store import schemas
from raydistill.store.artifact import Record
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed

UNITS = 4  # unless there are fewer classes
CHOSEN, REJECTED = "score chosen", "score rejected"  # in the trace, at step 0: S of the finished images


@dataclass(frozen=True)
class IncrementWork(StageWork):
    name, folder = "increment", "syntheses"

    plan: Sealed  # which holds the seed
    vae: VaeSpec
    pool: Annotated[SampleConfig, Keys("threads", "dtype", "batch")]
    generator: Generator
    sampling: Annotated[SamplingPlan, identity]
    how: Annotated[Curriculum, Keys("candidates", "round")]
    judges: Annotated[Mapping[str, ClassifierSpec | LatentClassifierSpec], judging]
    remembered: Annotated[DistilledSet | None, lambda before, _: [before and before.images_digest]]
    real: Aside[Sealed]  # group's, of which guidance may ask to see a class
    units: Annotated[int, finer]  # last bits depend on how many images are computed together

    def load(self, item: Slots) -> Slots:
        """The slots with what guidance asks to see, and what their classes remember of earlier increments."""
        t, context = item.table, {}
        index = t["class_index"].to_numpy()
        if self.sampling.context:
            prototypes = schemas.tensor_numpy(t["prototype"])
            context = see(self.sampling.context, self.latents_of, index, t["class_id"], prototypes)
        if self.remembered is not None:
            context[MEMORY] = remembered(self.remembered, index)
        return replace(item, context=context)

    def latents_of(self, class_index: int) -> np.ndarray:
        """The real latents of a class, (N, C, h, w) float16, by image id."""
        return schemas.tensor_numpy(self.real.of(class_index, ["latent"])["latent"])

    def open(self) -> Callable[[Slots], Record]:
        maker = Maker(self.sampling, self.generator, self.vae, self.pool)
        networks = {role: loaded.classifier(spec, maker.at) for role, spec in self.judges.items()}
        return Filler(self, maker, Judge(networks, self.how.omega, maker.at)).fill


@dataclass(frozen=True)
class CandidateRound:
    """Of the slots of a round, candidate by candidate: pixels (K, N, S, S, 3), latents (K, N, C, h, w), their scores
    (K, N) or None where nothing is chosen, network calls (K, N), and the trace of each in sampling order."""

    pixels: np.ndarray
    latents: np.ndarray
    scores: np.ndarray | None
    nfe: np.ndarray
    traces: list[list[list[dict[str, object]]]]

    def best(self) -> np.ndarray:
        """(N,): the candidate with the highest score, of equals the first."""
        return np.zeros(self.latents.shape[1], np.int64) if self.scores is None else self.scores.argmax(axis=0)

    def trace(self, slot: int, chosen: int) -> list[dict[str, object]]:
        """What guidance did for the chosen one, and what was chosen and rejected by."""
        trace = self.traces[chosen][slot]
        if self.scores is None:
            return trace
        rejected = np.delete(self.scores[:, slot], chosen).mean()
        scores = {CHOSEN: self.scores[chosen, slot], REJECTED: rejected}
        return [*trace, *({"step": 0, "name": name, "value": float(score)} for name, score in scores.items())]


class Filler:
    """Fills the slots of whole classes, round by round."""

    def __init__(self, work: IncrementWork, maker: Maker, judge: Judge) -> None:
        self.work, self.maker, self.judge = work, maker, judge

    def fill(self, slots: Slots) -> Record:
        t = slots.table
        index, order = t["class_index"].to_numpy(), t["slot"].to_numpy()
        prototypes = schemas.tensor_numpy(t["prototype"])
        memory = slots.context.get(MEMORY, np.zeros((len(t), 0, *prototypes.shape[1:]), np.float32))
        parts, rows = [], []
        for begin in range(0, int(order.max()) + 1, self.work.how.round):
            now = np.flatnonzero((order >= begin) & (order < begin + self.work.how.round))
            context = {name: values[now] for name, values in slots.context.items()} | {MEMORY: memory[now]}
            candidates = self.candidates(
                prototypes[now], [NoiseKey.of(t["seed_key"][int(i)].as_py()) for i in now], context
            )
            which = candidates.best()
            parts.append((candidates, which))
            rows.append(now)
            kept = candidates.latents[which, np.arange(len(now))]
            memory = grown(memory, index, index[now], kept)
        return self.commit(slots, np.concatenate(rows), parts)

    def candidates(
        self, prototypes: np.ndarray, keys: Sequence[NoiseKey], context: Mapping[str, np.ndarray]
    ) -> CandidateRound:
        """Candidate by candidate the slots of a round, the first by the very keys of the plan, in batches."""
        count, most = self.work.how.candidates, self.work.pool.batch
        every = [replace(key, candidate=c) for c in range(count) for key in keys]
        rows = np.tile(np.arange(len(keys)), count)
        pixels, latents, calls, traces = [], [], [], []
        for begin in range(0, len(every), most):
            now, trace = slice(begin, begin + most), Trace()
            at = rows[now]
            seen = {name: values[at] for name, values in context.items()}
            p, z, nfe = self.maker(prototypes[at], every[now], seen, trace)
            pixels.append(p)
            latents.append(z)
            calls.append(np.broadcast_to(nfe, len(at)))
            traces += trace.rows(len(at))
        shape = (count, len(keys))
        images, z = np.concatenate(pixels), np.concatenate(latents)
        shown = z if self.judge.of_latents else images
        scores = self.judge(shown, [k.class_id for k in every]).reshape(shape) if count > 1 else None
        return CandidateRound(
            images.reshape(*shape, *images.shape[1:]),
            z.reshape(*shape, *z.shape[1:]),
            scores,
            np.concatenate(calls).reshape(shape),
            [traces[c * len(keys) : (c + 1) * len(keys)] for c in range(count)],
        )

    def commit(self, slots: Slots, rows: np.ndarray, parts: Sequence[tuple[CandidateRound, np.ndarray]]) -> Record:
        """The chosen of all rounds become the unit's rows. What a slot cost are the calls of all its candidates."""
        keys = [
            replace(NoiseKey.of(slots.table["seed_key"][int(row)].as_py()), candidate=int(c)).text()
            for row, c in zip(rows, np.concatenate([which for _, which in parts]), strict=True)
        ]
        table = slots.table.take(pa.array(rows))
        table = table.set_column(table.column_names.index("seed_key"), "seed_key", pa.array(keys))
        every = [(candidates, int(c), i) for candidates, which in parts for i, c in enumerate(which)]
        return commit(
            self.work.artifact,
            Slots(slots.key, table),
            np.stack([candidates.pixels[c, i] for candidates, c, i in every]),
            np.stack([candidates.latents[c, i] for candidates, c, i in every]),
            np.concatenate([candidates.nfe.sum(axis=0) for candidates, _ in parts]),
            self.maker.at.kind,
            [candidates.trace(i, c) for candidates, c, i in every],
        )


class Judge:
    """The score S of finished images, by the losses of the current model and of the reference."""

    def __init__(self, networks: Mapping[str, Classifier | LatentClassifier], omega: float, at: Placement) -> None:
        self.networks, self.omega, self.at = networks, omega, at
        self.of_latents = any(isinstance(network, LatentClassifier) for network in networks.values())

    def __call__(self, shown: np.ndarray, class_ids: Sequence[str]) -> np.ndarray:
        """(B,) float64 of pixels (B, S, S, 3) uint8, or of latents (B, C, h, w) float32 for judges of these."""
        judges = [self.networks[role] for role in roles(self.omega)]
        x = torch.from_numpy(shown) if self.of_latents else unit_images(shown)
        logits = [network.logits(x).double() for network in judges]
        columns = [torch.from_numpy(class_columns(n.spec, class_ids)).to(self.at.device) for n in judges]
        return learnability(logits, columns, self.omega).cpu().numpy()


def remembered(before: DistilledSet, index: np.ndarray) -> np.ndarray:
    """Latents (B, M, C, h, w) float32 of earlier increments for slots of classes index (B,), NaN where a class has
    fewer."""
    of_class: dict[int, list[np.ndarray]] = {int(c): [] for c in np.unique(index)}
    for table in before.tables(["class_index", "latent"]):
        latents = schemas.tensor_numpy(table["latent"])
        for row, c in enumerate(table["class_index"].to_pylist()):
            if c in of_class:
                of_class[c].append(latents[row])
    most = max(map(len, of_class.values()))
    shape = next(z.shape for latents in of_class.values() for z in latents)
    out = np.full((len(index), most, *shape), np.nan, np.float32)
    for row, c in enumerate(index):
        for m, z in enumerate(of_class[int(c)]):
            out[row, m] = z
    return out


def grown(memory: np.ndarray, index: np.ndarray, of: np.ndarray, latents: np.ndarray) -> np.ndarray:
    """Memory (B, M, C, h, w) of slots of classes index (B,), with latents (N, C, h, w) of classes `of` (N,) at its end.

    Of every class there are equally many.
    """
    more = np.stack([latents[of == c] for c in index])
    return np.concatenate([memory, more], axis=1)


def judging(judges: Mapping[str, ClassifierSpec | LatentClassifierSpec], work: IncrementWork) -> list[Any]:
    """What candidates are chosen by; nothing where there is no choice."""
    return [[work.how.omega, {role: spec.identity() for role, spec in judges.items()}]] if judges else []


def filled(batch: int, how: Curriculum) -> int:
    """Classes whose candidates for a round fill a batch."""
    return max(1, batch // (how.candidates * how.round))


def shared(classes: int, batch: int, how: Curriculum) -> list[range]:
    """Which of so many classes are a unit: as many as fill a batch, or about as many in each of UNITS."""
    least, each = min(UNITS, classes), filled(batch, how)
    if -(-classes // each) >= least:
        return [range(i, min(i + each, classes)) for i in range(0, classes, each)]
    return [range(i * classes // least, (i + 1) * classes // least) for i in range(least)]


def finer(units: int, work: IncrementWork) -> list[Any]:
    """How many units there are, where they are more than batches fill."""
    classes = work.plan.rows // work.how.increment
    return [{"units": units}] if units > -(-classes // filled(work.pool.batch, work.how)) else []


def stage(
    v: Variant,
    how: Curriculum,
    run: RunDir,
    plan: Sealed,
    real: Sealed,
    vae: VaeSpec,
    generator: Generator,
    judges: Mapping[str, ClassifierSpec | LatentClassifierSpec],
    before: DistilledSet,
) -> Stage:
    """The increment of a plan whose guidance has its networks. `judges` choose, if there is a choice; `before` is the
    set so far. The plan's file is checked before anything is computed from it."""
    assert v.sampling is not None
    pool = v.config.sample
    choosing = {role: judges[role] for role in roles(how.omega)} if how.candidates > 1 else {}
    remembering = before if how.remember_all else None
    units = shared(plan.rows // how.increment, pool.batch, how)
    work = IncrementWork(plan, vae, pool, generator, v.sampling, how, choosing, remembering, real, len(units))
    work = work.within(run)

    def groups(slots: pa.Table) -> dict[str, np.ndarray]:
        classes = np.unique(slots["class_index"].to_numpy())
        return {f"classes-{i:05d}": classes[unit] for i, unit in enumerate(units)}

    planned = PlannedUnits(plan, groups)

    def item(key: str) -> Slots:
        mine = np.isin(planned.slots["class_index"].to_numpy(), planned.units[key])
        part = planned.slots.filter(pa.array(mine)).combine_chunks()
        return Slots(key, part.sort_by([("slot", "ascending"), ("class_index", "ascending")]).combine_chunks())

    count = partial(numbers.summary, work.artifact)
    return Stage("increment", "images", work.artifact, planned, item, work, plan.rows, "actors", pool, numbers=count)
