"""What a person does in a notebook (docs/python.md): runs as by the command line, and their parts on own arrays.

Latents and prototypes are in VAE-scaled space, (C, h, w) each; labels index `class_ids`. Only `run` and
`train_classifier` use Ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from raydistill import registry
from raydistill.config import Config, load
from raydistill.errors import BadInput, StageFailed, one_line
from raydistill.evaluation.recipe import Setting
from raydistill.evaluation.recipe import resolve as resolve_recipe
from raydistill.evaluation.score import Score
from raydistill.evaluation.train import Student, train_student
from raydistill.evaluation.zca import Whitening
from raydistill.methods.resolve import SamplingPlan, Variant, resolve
from raydistill.metrics.arrays import between
from raydistill.models.device import mixed, on_cuda
from raydistill.pipeline import classifiers, job, preflight
from raydistill.planning.ahead import expected
from raydistill.seeding import NoiseKey
from raydistill.sources.base import open_splits
from raydistill.sources.images import decode
from raydistill.stages.evaluation import pixel_array
from raydistill.stages.evaluation.image_sets import real_images, usable_images, whitened
from raydistill.stages.prototypes.selection import class_candidates
from raydistill.stages.syntheses import ingest
from raydistill.stages.syntheses.sample import Maker, Trace, see
from raydistill.state import Results
from raydistill.store import schemas

T = TypeVar("T")


@dataclass(frozen=True)
class Latents:
    """Of real images: latents (N, C, h, w) float16, labels (N,) int32, image_ids (N,)."""

    latents: np.ndarray
    labels: np.ndarray
    image_ids: list[str]
    class_ids: list[str]


@dataclass(frozen=True)
class Prototypes:
    """prototypes (K, C, h, w) float32, labels (K,) int32, sizes (K,) int64 images each, medoids (K,) image ids.

    Of each class as its slots take them, the classes one after the other.
    """

    prototypes: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray
    medoids: list[str]
    class_ids: list[str]


@dataclass(frozen=True)
class Syntheses:
    """pixels (M, S, S, 3) uint8, latents (M, C, h, w) float32, labels and slots (M,) int32, weights (M,) float64.

    `slots` count the images of a class from 0.
    """

    pixels: np.ndarray
    latents: np.ndarray
    labels: np.ndarray
    slots: np.ndarray
    weights: np.ndarray
    class_ids: list[str]


class Run:
    """What a run has made so far, read from its directory when it is asked for."""

    def __init__(self, results: Results) -> None:
        self._results = results

    @property
    def directory(self) -> str:
        return str(self._results.prepared.run.root)

    @property
    def config(self) -> Config:
        """The configuration with what its method fills in."""
        return self._results.prepared.config

    @property
    def class_ids(self) -> list[str]:
        return [c.class_id for c in self._results.prepared.splits.train.classes]

    def latents(self) -> Latents:
        """Of every usable training image, in memory; class by class once they are grouped."""
        table = (self._results.classes or _made(self._results.latents, "latents", "encode")).read()
        return Latents(
            schemas.tensor_numpy(table["latent"]),
            table["class_index"].to_numpy(),
            table["image_id"].to_pylist(),
            self.class_ids,
        )

    def prototypes(self, method: str | None = None) -> Prototypes:
        """Those of the run's own method, or of a baseline. Raises BadInput if it has none or they are not made yet."""
        v = self._variant(method)
        if not v.method.uses_prototypes or v.growth is not None:
            raise BadInput(
                f"method {v.config.method} has no prototypes of its own; name a method that has (mgd3, kmeans)"
            )
        sealed = self._results.prototypes.get(v.config.cluster.algorithm or "kmeans")
        clusters = _made(sealed, f"prototypes of method {v.config.method}", "cluster")
        classes = _made(self._results.classes, "prototypes", "cluster")
        candidates, labels = [], []
        for record in classes.records:
            table, start = classes.table(record.key), 0
            for index, count in zip(record.meta["classes"], record.meta["counts"], strict=True):
                mine = table.slice(start, count)
                latents, ids = schemas.tensor_numpy(mine["latent"]), mine["image_id"]
                candidates.append(
                    class_candidates(clusters.table(record.key), index, self.class_ids[index], ids, latents, v.config)
                )
                labels.append(np.full(len(candidates[-1].sizes), index, np.int32))
                start += count
        return Prototypes(
            np.concatenate([o.centroids for o in candidates]),
            np.concatenate(labels),
            np.concatenate([o.sizes for o in candidates]),
            [m for o in candidates for m in o.medoids],
            self.class_ids,
        )

    def syntheses(self, method: str | None = None) -> Syntheses:
        """The images of the run's own method, or of a baseline, class by class. Raises BadInput if it has none yet."""
        name = method or self.config.method
        distilled = _made(self._results.syntheses.get(name), f"syntheses of method {name}", "sample")
        table = distilled.read(["class_index", "slot", "weight", "image", "latent"])
        table = table.take(pa.array(np.lexsort((table["slot"].to_numpy(), table["class_index"].to_numpy()))))
        source = self.config.source
        return Syntheses(
            np.stack([decode(png, source.image_size, source.max_pixels) for png in table["image"].to_pylist()]),
            schemas.tensor_numpy(table["latent"]),
            table["class_index"].to_numpy(),
            table["slot"].to_numpy(),
            table["weight"].to_numpy(),
            self.class_ids,
        )

    def _variant(self, method: str | None) -> Variant:
        variants = {v.config.method: v for v in self._results.prepared.variants}
        name = method or self.config.method
        if name not in variants:
            raise BadInput(f"method {name!r} is none of this run's: {', '.join(variants)}")
        return variants[name]


def run(config: Config, until: job.Until = "sample") -> Run:
    """Carries a run to a stage as the command line does, on Ray; what is there already is found and kept.

    Raises BadInput before anything is written, and StageFailed on the way: the same call goes on.
    """
    known = job.Until.__args__  # type: ignore[attr-defined]
    if until not in known:
        raise BadInput(f"until={until!r} is no stage; one of {', '.join(known)}")
    return Run(job.carry(config, until, foresee=expected))


def sample(
    prototypes: Any,
    class_ids: Sequence[str],
    config: Config | None = None,
    guidance: str | None = None,
    real: Latents | None = None,
) -> Syntheses:
    """An image a prototype, (B, C, h, w) of any floats, of the class that `class_ids` (B,) names, in this process.

    `config` (the quickstart's if None) has generator, VAE, sampler, seed and the numbers of guidance; `guidance` names
    another than that of its method. `real` is what a guidance looks at that asks for the latents of the classes.
    Images come in the order of the prototypes; slots count the images of a class. A generator that is told text takes
    the class ids for names. Raises BadInput.
    """
    config = preflight.absolute(config or load())
    v = resolve(config.model_copy(update={"method": _method(config, guidance)}))
    plan = v.sampling
    if plan is None:
        raise BadInput(f"method {v.config.method} generates no images; give a guidance or another method")
    if v.growth is not None:
        raise BadInput(
            f"method {v.config.method} trains students on the way, and a call has none; give its base (dit), or call "
            "raydistill.run"
        )
    vae = preflight.find_vae(v.config)
    shape, ids = vae.latent_shape(v.config.source.image_size), [str(c) for c in class_ids]
    generator = preflight.find_generator(v.config, v.method, {c: c for c in ids})
    generator.check_fits(shape, list(dict.fromkeys(ids)))
    generator.check_vae(vae)
    preflight.check_steps(plan, generator)
    v = preflight.find_decoder(preflight.find_networks(v, list(dict.fromkeys(ids))), vae)
    assert v.sampling is not None
    plan = v.sampling
    z = _vectors("prototypes", prototypes)
    if z.shape != (len(ids), *shape) or not ids:
        raise BadInput(f"prototypes of shape {z.shape} do not fit {len(ids)} class ids and latents of shape {shape}")
    names = list(dict.fromkeys(ids))
    labels = np.array([names.index(c) for c in ids], np.int32)
    slots = np.array([ids[:i].count(c) for i, c in enumerate(ids)], np.int32)
    context = _context(plan, real, labels, names, z)
    keys = [NoiseKey(v.config.seed, c, int(s)) for c, s in zip(ids, slots, strict=True)]
    pixels, latents, batch = [], [], v.config.sample.batch
    with _threads():
        make = Maker(plan, generator, vae, v.config.sample)
        for start in range(0, len(ids), batch):
            rows = slice(start, start + batch)
            decoded, sampled, _ = make(z[rows], keys[rows], {n: c[rows] for n, c in context.items()}, Trace())
            pixels.append(decoded)
            latents.append(sampled)
    return Syntheses(np.concatenate(pixels), np.concatenate(latents), labels, slots, np.ones(len(ids)), names)


def measure(
    metric: str, real: Any, synthetic: Any, real_labels: Any = None, labels: Any = None, weights: Any = None
) -> dict[str, float]:
    """The values of a metric for two arrays of vectors, (n, ...) and (m, ...) floats; what follows n is flattened.

    Without labels, (n,) and (m,) integers, all is one class; weights (m,) are equal if None. Raises BadInput.
    """
    if (real_labels is None) != (labels is None):
        raise BadInput(f"metric {metric}: give the labels of both sets or of none")
    x, generated = (a.reshape(len(a), -1) for a in (_vectors("real", real), _vectors("synthetic", synthetic)))
    return between(metric, x, generated, real_labels, labels, weights)


def train(folder: str, config: Config | None = None, student: str = "convnet", seed: int = 0) -> Score:
    """Trains a student on a folder of class folders (or what else `--images` takes), in this process.

    `config` (the quickstart's if None) has the protocol, of hard labels, and the images to test on: its test split.
    Classes are matched by their ids or names. Raises BadInput, and StageFailed above source.max_broken.
    """
    config = preflight.absolute(config or load())
    e = config.evaluate.model_copy(update={"images": str(folder), "students": [student]})
    config = config.model_copy(update={"evaluate": e})
    preflight.check_students(config)
    splits = open_splits(config.source)
    classes = splits.train.classes
    judged = ingest.find(config, classes)
    preflight.check_masses(Variant(config.model_copy(update={"method": judged.name}), ingest.JudgedMethod(), None))
    recipe = resolve_recipe(e.protocol, Setting(judged.ipc, len(classes), e.protocol.image_size, student))
    if recipe.soft:
        raise BadInput(f"evaluate.protocol.name={e.protocol.name} trains on a teacher's labels; choose hard")
    most = pixel_array.most(e)
    judged_images = real_images(judged.source, judged.listing, recipe.image_size, most=most)
    if judged_images.broken:
        raise BadInput(f"{folder}: {one_line(': '.join(judged_images.broken[0]))}; mend it or take it out")
    weights = torch.from_numpy(judged.weighing(config.weights).astype(np.float32))
    test = usable_images(config.source, splits.test, recipe.image_size, recipe.test_crop, most)
    device = torch.device("cuda" if on_cuda(e.device, e.num_gpus) else "cpu")
    who = Student(student, e.width, len(classes), seed)
    with _threads():
        torch.set_num_threads(e.threads)
        images, tested = replace(judged_images.images, weights=weights), test.images
        if recipe.zca:
            every = usable_images(config.source, splits.train, recipe.image_size, most=most)
            whitening = Whitening.of(every.images.pixels)
            images, tested = whitened(images, whitening, judged.levels), whitened(tested, whitening)
        score, _ = train_student(who, recipe, images, tested, device, arithmetic=mixed(e.dtype, device))
    return score


def train_classifier(
    config: Config | None = None, student: str = "convnet", seed: int = 0, epochs: int | None = None
) -> str:
    """Trains a student on all training images of `config` (the quickstart's if None), on Ray, by section `evaluate`.

    Returns its file, which says itself what it is: a `teacher.path` or `features.path`. The same call finds it again,
    goes on where it was stopped, and shares it by `artifact_dir`. `epochs` None = `evaluate.full_epochs`, or 30.
    Raises BadInput before anything is written, and StageFailed on the way.
    """
    return classifiers.train_classifier(config or load(), student, seed, epochs)


def _made(finished: T | None, what: str, until: str) -> T:
    if finished is None:
        raise BadInput(f"this run has no {what}; run(config, until={until!r}) makes them if the method uses them")
    return finished


def _method(config: Config, guidance: str | None) -> str:
    """A method that samples with this guidance: the configuration's own if it does."""
    if guidance is None:
        return config.method
    registry.get("guidance", guidance)
    kinds = {name: registry.get("method", name) for name in (config.method, *registry.names("method"))}
    having = [name for name, kind in kinds.items() if kind.generates and kind.guidance == guidance]
    if not having:
        raise BadInput(f"guidance {guidance!r} is of no method, which says how to sample with it; register one")
    return having[0]


def _context(
    plan: SamplingPlan, real: Latents | None, labels: np.ndarray, class_ids: list[str], z: np.ndarray
) -> dict[str, np.ndarray]:
    """What guidance asks to see of the real latents, (B, ...) by name."""
    if not plan.context:
        return {}
    if real is None:
        asking = next(iter(plan.context.values())).asked_by
        raise BadInput(f"{asking} needs the latents of the classes: give real=run.latents()")
    unknown = [c for c in class_ids if c not in real.class_ids]
    if unknown:
        raise BadInput(f"real: has no latents of class {unknown[0]!r}")

    def latents_of(label: int) -> np.ndarray:
        return real.latents[real.labels == real.class_ids.index(class_ids[label])]

    try:
        return see(plan.context, latents_of, labels, [class_ids[i] for i in labels], z)
    except StageFailed as e:  # here it can be known beforehand
        raise BadInput(str(e)) from None


def _vectors(name: str, values: Any) -> np.ndarray:
    """(n, ...) float32. Raises BadInput for what is no array of finite numbers."""
    try:
        array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float32)
    except (TypeError, ValueError) as e:
        raise BadInput(f"{name}: no array of numbers: {one_line(e)}") from None
    if array.ndim < 2 or not np.isfinite(array).all():
        raise BadInput(f"{name}: must be finite numbers of shape (n, ...), not of shape {array.shape}")
    return np.ascontiguousarray(array)


@contextmanager
def _threads() -> Iterator[None]:
    """Gives torch's threads back to the notebook: what runs here sets those that its bytes depend on."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
