"""What a plan is made of: how many images, which networks. Of folders that are there, or of what is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from raydistill import registry
from raydistill.config import Config, class_list
from raydistill.config.reads import TRAIN
from raydistill.errors import BadInput
from raydistill.evaluation import recipe
from raydistill.methods.resolve import Variant
from raydistill.models import published
from raydistill.models.checkpoint import read_config
from raydistill.models.classifier import ClassifierSpec
from raydistill.models.generator import Generator
from raydistill.models.vae import VaeSpec
from raydistill.pipeline import counts, preflight, trained
from raydistill.pipeline.guiding import find_networks
from raydistill.planning import networks, untrained
from raydistill.planning.networks import NetworkCost
from raydistill.sources import detect
from raydistill.sources.base import Splits, open_splits
from raydistill.sources.hub import check_cached
from raydistill.store.hub import is_id

IMAGENET = (1_281_167, 50_000, 115_000.0)  # training and validation images of ImageNet-1K, bytes of one
SAMPLE = 64  # images of a source whose bytes are looked at


@dataclass(frozen=True)
class Images:
    """Counts, and bytes of an image as it is stored. `splits` is None of images that are not there."""

    classes: int
    train: int
    test: int
    bytes: float
    splits: Splits | None


@dataclass(frozen=True)
class Facts:
    """`assumed` says in lines what was taken for known. `vae` and `generator` are None where no folder is there.

    `trained` are those of "vae" and "generator" that are trained before the run, `guiding` by role the classifiers that
    guidance asks, but for those that a curriculum trains.
    """

    images: Images
    shape: tuple[int, int, int]
    encode: NetworkCost
    decode: NetworkCost
    denoise: NetworkCost | None
    students: Mapping[str, tuple[NetworkCost, NetworkCost]]
    teacher: NetworkCost | None
    features: NetworkCost | None
    vae: VaeSpec | None
    generator: Generator | None
    assumed: tuple[str, ...]
    trained: tuple[str, ...] = ()
    guiding: Mapping[str, NetworkCost] = field(default_factory=dict)


def gather(config: Config) -> tuple[Config, Sequence[Variant], Facts]:
    """The configuration, what it comes to, and all that is known beforehand; nothing is fetched, nothing written.

    Raises BadInput as the run would, and for what a plan cannot count.
    """
    check_cached(config.source)
    config = preflight.absolute(_with_kind(config))
    if config.evaluate.images:
        raise BadInput("plan --cluster counts a run that makes its images; leave evaluate.images out")
    variants = preflight.variants_of(config, evaluate=True)
    preflight.check_students(config)
    for v in variants:
        preflight.check_growth(v)
    images, assumed = _images(config)
    if images.splits is not None:
        counts.check_images(images.splits, variants)
    if config.generator.path == TRAIN:
        trained.check(config)
        config = untrained.with_finished(config)
    vae, of_vae, said = _vae(config)
    encode, decode, shape = networks.of_vae(of_vae, config.source.image_size)
    generator, denoise, also = _generator(config, variants, images, vae, shape)
    variants = [find_networks(v, _class_ids(config, images)) for v in variants]
    teacher, features = _classifiers(config, variants)
    e = config.evaluate
    costs = {
        name: networks.of_student(name, images.classes, e.protocol.image_size, e.width)
        for name in students(config, variants)
    }
    facts = Facts(
        images, shape, encode, decode, denoise, costs, teacher, features, vae, generator,
        tuple(dict.fromkeys(assumed + said + also)), untrained.targets(config), guiding(variants),
    )  # fmt: skip
    return config, variants, facts


def students(config: Config, variants: Sequence[Variant]) -> list[str]:
    """Those that are evaluated, and those that lead the increments of curricula."""
    leading = [v.growth.how.student for v in variants if v.growth is not None]
    return list(dict.fromkeys([*recipe.students_of(config.evaluate), *leading]))


def guiding(variants: Sequence[Variant]) -> dict[str, NetworkCost]:
    """The classifiers that guidance asks, by role, as they were found."""
    plans = [one.sampling for v in variants for one in v.makers() if one.sampling is not None]
    specs = {role: spec for plan in plans for role, spec in plan.networks.items()}
    return {role: networks.of_classifier(spec) for role, spec in specs.items() if isinstance(spec, ClassifierSpec)}


def _with_kind(config: Config) -> Config:
    """Where no images are there is nothing by which their kind could be recognised, and it decides nothing."""
    if config.source.path is not None or config.source.kind != detect.AUTO:
        return config
    return config.model_copy(update={"source": config.source.model_copy(update={"kind": "imagefolder"})})


def _images(config: Config) -> tuple[Images, list[str]]:
    s = config.source
    if s.path is None and s.kind != "digits":
        return _of_imagenet(config)
    splits = open_splits(s)
    ids = splits.train.ids[: SAMPLE * 16 : 16].to_pylist()[:SAMPLE]
    sizes = [len(data) for data in islice(splits.source.read(splits.train.split, ids), len(ids))]
    bytes_each = sum(sizes) / len(sizes)
    return Images(len(splits.train.classes), len(splits.train.ids), len(splits.test.ids), bytes_each, splits), []


def _of_imagenet(config: Config) -> tuple[Images, list[str]]:
    """Of the whole, or in proportion of some of its classes."""
    known = class_list("imagenet1k")
    classes = known if config.source.classes is None else config.source.classes
    if config.generator.path not in published.DITS or not set(classes) <= set(known):
        raise BadInput(
            "source.path is not given, and how many images there are is known of ImageNet alone; give source.path"
        )
    train, test, size = IMAGENET
    share = len(classes) / len(known)
    held = config.source.search_split
    counts = round(train * share * (1 - held)), round(train * share * held) if held else round(test * share)
    said = f"source.path is not given: ImageNet-1K's published counts, {counts[0]:,} and {counts[1]:,} images"
    return Images(len(classes), *counts, size, None), [f"{said} of {size / 1000:.0f} kB"]


def _class_ids(config: Config, images: Images) -> list[str]:
    if images.splits is not None:
        return [c.class_id for c in images.splits.train.classes]
    return list(class_list("imagenet1k") if config.source.classes is None else config.source.classes)


def _vae(config: Config) -> tuple[VaeSpec | None, Mapping[str, Any], list[str]]:
    path = config.vae.path
    if (shapes := untrained.vae_config(config)) is not None:
        return None, shapes, ["the VAE is trained first: counted by section pretrain"]
    if is_id(path):
        if path not in published.VAES:
            raise BadInput(f"vae.path={path}: a plan fetches nothing; give its folder with vae.path=DIR")
        return None, networks.SD_VAE, [f"vae.path={path} and its like are counted by their published shapes"]
    spec = preflight.find_vae(config)
    return spec, read_config(spec.path / "config.json", "vae.path"), []


def _generator(
    config: Config, variants: Sequence[Variant], images: Images, vae: VaeSpec | None, shape: tuple[int, int, int]
) -> tuple[Generator | None, NetworkCost | None, list[str]]:
    method = next((v.method for v in variants if v.method.generates), None)
    if method is None:
        return None, None, []
    path = config.generator.path
    if path == TRAIN:
        cost = networks.of_generator(untrained.generator_config(config, shape, images.classes), shape)
        return None, cost, ["the generator is trained first: counted by section pretrain"]
    if is_id(path):
        if path not in published.DITS:
            raise BadInput(f"generator.path={path}: a plan fetches nothing; give its folder with generator.path=DIR")
        cost = networks.of_generator({**networks.DIT_XL, "sample_size": shape[1]}, shape)
        return None, cost, [f"generator.path={path} and its like are counted by their published shapes"]
    classes = images.splits.train.classes if images.splits is not None else ()
    if vae is not None:
        spec = preflight.fitting_generator(config, method, classes, vae, shape)
    else:
        spec = preflight.find_generator(config, method, {c.class_id: c.class_name for c in classes})
    return spec, networks.of_generator(read_config(networks.config_of(spec.path), "generator.path"), shape), []


def _classifiers(config: Config, variants: Sequence[Variant]) -> tuple[NetworkCost | None, NetworkCost | None]:
    """Of the teacher, if one is asked for, and of the network of features."""
    teacher = features = None
    why = preflight.teacher_asked_by(config, variants, True)
    if why is not None:
        if config.teacher.path is None:
            raise BadInput(why.format(": give teacher.path=FILE or FOLDER, or choose "))
        teacher = networks.of_classifier(ClassifierSpec(**config.teacher.model_dump(), key="teacher"))
    if config.features.path is not None:
        features = networks.of_classifier(ClassifierSpec(**config.features.model_dump(), key="features"))
    return teacher, features


def tree(algorithm: str) -> bool:
    """Whether a clustering makes a tree."""
    return registry.get("clustering", algorithm).makes == "tree"
