"""One command for a folder of one's own: the preset `folder`, sized to the images and to the machine."""

from __future__ import annotations

import io
import os
import shlex
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image

from raydistill.config import Config, load
from raydistill.config.reads import TRAIN
from raydistill.config.reads import keys as keys_of
from raydistill.distributed.nodes import joins
from raydistill.models import hub
from raydistill.models.denoiser import GeneratorSpec
from raydistill.models.text_generator import is_pipeline
from raydistill.pipeline import preflight, trained
from raydistill.pipeline.automatic import AUTO, WITH_GENERATOR, WITHOUT, method_of
from raydistill.progress import say
from raydistill.sources import detect, splits
from raydistill.sources.base import Splits, open_splits
from raydistill.store.location import Location
from raydistill.store.rundir import CONFIG

PRESET = "folder"
SIDES = (32, 64, 128, 256)
LOOKED_AT = 32  # images whose size is read
SHARE = 5  # a class has at least so many times the images that are made of it
MOST = 10  # images per class


def sized(overrides: Sequence[str], suffix: str = "") -> Config:
    """The configuration of a folder. What `overrides` give stays; all else is chosen, and a line says as what.

    Raises BadInput.
    """
    config = load(PRESET, overrides, suffix)
    if config.source.path is None:
        return config
    given_keys, name = set(keys_of(overrides)), Location.of(config.source.path).name
    chosen = _source(config, given_keys)
    config = load(PRESET, [*_words(chosen), *overrides])
    images = open_splits(detect.settled(config.source))
    chosen |= _of_machine(config) | _of_images(config, images, given_keys)
    chosen = {key: value for key, value in chosen.items() if key not in given_keys}
    judges = config.evaluate.images is not None  # images that are made already, and as many as there are
    unread = ("ipc", "pretrain.") if judges else ()
    shown = " ".join(shlex.quote(word) for word in _words(chosen) if not word.startswith(unread))
    of = f"{len(images.train.classes)} classes of {images.train.per_class} images"
    say("source", f"{of}, taken as {shown}; give any of these keys to choose otherwise")
    config = load(PRESET, [*_words(chosen), *overrides], f"-{name}{suffix}")
    new = not (Location.of(config.run_dir or "") / CONFIG).exists()
    if new and not judges and config.method == AUTO and method_of(config) == WITHOUT:
        as_trained = trained.with_path(config, "generator", TRAIN)
        chosen |= _of_images(as_trained, images, given_keys)
        more = [f"method={WITH_GENERATOR}", f"generator.path={TRAIN}"]
        left = trained.trainings(preflight.absolute(load(PRESET, [*_words(chosen), *overrides, *more])))
        say("method", f"a generator of these classes would train for about {trained.total(left)} on this machine")
    return config


def _words(values: Mapping[str, object]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def _source(config: Config, given_keys: set[str]) -> dict[str, object]:
    """Which kind lies there, and where its splits are."""
    source = detect.settled(config.source)
    kind: dict[str, object] = {"source.kind": source.kind}
    kind |= {} if source.revision is None else {"source.revision": source.revision}
    if given_keys & {"source.train", "source.val", "source.search_split"} or source.kind not in detect.SPLIT:
        return kind
    return kind | {f"source.{key}": value for key, value in splits.located(source).items()}


def _of_images(config: Config, images: Splits, given_keys: set[str]) -> dict[str, object]:
    """Their size, which a generator decides if one is given, and how many of them are made of a class."""
    side = _side_of_generator(config) or _side(config, images)
    side = config.source.image_size if "source.image_size" in given_keys else side
    return {
        "source.image_size": side,
        "ipc": int(min(MOST, max(1, images.train.counts.min() // SHARE))),
        "evaluate.protocol.image_size": min(side, 64 if _gpus(config) else 32),
    }


def _side(config: Config, images: Splits) -> int:
    """The largest of SIDES that half of the images have, and this machine can work with in minutes."""
    ids = images.train.ids
    some = [ids[int(i)].as_py() for i in np.linspace(0, len(ids) - 1, min(LOOKED_AT, len(ids)))]
    sides = []
    for data in images.source.read(images.train.split, some):
        try:
            with Image.open(io.BytesIO(data)) as image:
                sides.append(min(image.size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # a broken one, which the run counts
            continue
    trains = config.generator.path == TRAIN
    most = (128 if trains else 256) if _gpus(config) else (64 if trains else 128)
    half = float(np.median(sides)) if sides else 0.0
    return max(side for side in SIDES if side <= max(SIDES[0], min(half, most)))


def _side_of_generator(config: Config) -> int | None:
    """Pixels a side that a generator of labels makes with the VAE; None if none is given, or it is told text."""
    if config.generator.path in (None, TRAIN):
        return None
    model = hub.find("generator", config.generator.path, config.generator.revision)
    if is_pipeline(model.folder):
        return None
    latents = GeneratorSpec(model.folder, model.name).latent_shape
    probe = SIDES[-1]
    return probe * latents[1] // preflight.find_vae(config).latent_shape(probe)[1]


def _of_machine(config: Config) -> dict[str, object]:
    """Threads of a training on a CPU; on a GPU its size, and the stages that are given it."""
    if not _gpus(config):
        return {"pretrain.threads": min(4, len(os.sched_getaffinity(0)))}
    sizes = {"steps": 20000, "batch": 128, "layers": 12, "heads": 6, "head_dim": 64}
    return {
        **{f"{stage}.num_gpus": 1 for stage in ("encode", "sample", "evaluate")},
        **{f"pretrain.{key}": value for key, value in sizes.items()},
        "evaluate.width": 128,
        "evaluate.protocol.visits": 40000,
    }


def _gpus(config: Config) -> int:
    """GPUs of this machine, where the run is its own cluster."""
    return 0 if joins(config.ray) else torch.cuda.device_count()
