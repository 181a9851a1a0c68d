"""A folder of images that somebody else distilled becomes a set of the run: checked first, then imported as a stage."""

from __future__ import annotations

import difflib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import fs as pafs

from raydistill import registry, strict_json
from raydistill.config import Config, SampleConfig, SourceConfig, WeightsConfig
from raydistill.declared import Keys
from raydistill.errors import BadInput, BrokenImage, StageFailed, one_line
from raydistill.exporters.marker import check_ours
from raydistill.identity import digest
from raydistill.methods.base import ClassView, Method, Slot
from raydistill.methods.weighting import in_norm
from raydistill.models import loaded
from raydistill.models.device import placement
from raydistill.models.vae import VaeSpec
from raydistill.progress import say
from raydistill.report.scores import BOUNDS
from raydistill.sources.base import ClassInfo, Listing, open_source, unique_names
from raydistill.sources.images import FORMATS, decode
from raydistill.sources.layout import CLASSES
from raydistill.sources.levels import is_class
from raydistill.sources.order import ORDER, by_folder, numbered
from raydistill.sources.tensors import is_tensors, whitened_levels
from raydistill.sources.tree import hidden
from raydistill.sources.weights import read_weights, refuse_unread
from raydistill.stages.latents.encode import encode_all
from raydistill.stages.runner import Stage
from raydistill.stages.syntheses import normalised, numbers
from raydistill.stages.syntheses.sample import Slots, commit
from raydistill.stages.work import StageWork
from raydistill.store import schemas
from raydistill.store.artifact import Record
from raydistill.store.location import Location, reason
from raydistill.store.rundir import RunDir

TRAIN = "train"
MEANS = {"mean": "the mean 1", "sum": "the sum 1", "inv_sqrt_k": "the mean 1 / sqrt(images of the class)"}


class JudgedMethod(Method):
    """Stands where a run's own method does: its images are there already, so it makes none."""

    summary: ClassVar[str] = "images of a folder"
    generates: ClassVar[bool] = False

    def slots(self, view: ClassView, ipc: int, seed: int) -> list[Slot]:
        raise NotImplementedError("its images are not planned")


@dataclass(frozen=True)
class JudgedFolder:
    """The folder's images: labels (N,) of `listing` index the training classes; weights (N,) float64 in the norm
    `weights.norm`, which are ones if the folder has none (`weighed`).

    `levels`: of images that are whitened, what their darkest and brightest pixels stand for. `note`: what became of
    images that were normalised; empty of others.
    """

    name: str
    source: SourceConfig
    listing: Listing
    weights: np.ndarray
    levels: tuple[float, float] | None = None
    note: str = ""
    weighed: bool = False

    @property
    def ipc(self) -> int:
        """The largest number of images of a class."""
        return int(self.listing.counts.max())

    def weighing(self, config: WeightsConfig) -> np.ndarray:
        """What they weigh, (N,): as they are, unless a mode is given, of which `uniform` needs no masses."""
        return (
            self.weights
            if config.mode is None
            else in_norm(np.ones(len(self.listing)), self.listing.labels, config.norm)
        )

    def parts(self) -> list[Any]:
        """What the images are and how they are read."""
        s = self.source
        return [s.kind, self.listing.digest, digest(self.weights.tobytes()), s.image_size, s.max_pixels]


def find(config: Config, classes: Sequence[ClassInfo]) -> JudgedFolder:
    """The folder evaluate.images, held against the training classes. Raises BadInput; writes nothing."""
    folder = config.evaluate.images or ""
    try:
        check_ours(_root(folder))
        source = _layout(folder, config.source)
        source, note = normalised.settle(config, source, len(classes)) if source.kind == "tensors" else (source, "")
        images = _list(source)
        listing = _match(images, classes, _class_ids(folder, source, images.classes, classes))
        refuse_unread(_root(folder), source, listing)
        stored = read_weights(source, listing)
        levels = whitened_levels(source) if source.kind == "tensors" else None
        side = _one_size(source, listing)
        if levels is not None and not config.evaluate.protocol.zca:
            raise BadInput("its images are whitened, as normalisation.json says; add evaluate.protocol.zca=true")
    except BadInput as e:
        raise BadInput(f"--images {folder}: {e}") from None
    of = f"{len(classes)} classes, {listing.per_class} per class"
    say("images", f"{len(listing)} images of {side} in {of}, from {folder}")
    if note:
        say("images", note)
    mode, norm = config.weights.mode, config.weights.norm
    weights = np.ones(len(listing)) if stored is None else in_norm(stored, listing.labels, norm)
    if stored is None:
        say("images", "no weights lie beside them: all weigh the same")
    elif mode is not None:
        say("images", f"weights lie beside them, and weights.mode={mode} goes before")
    else:
        say("images", f"their weights are read, and scaled in each class to {MEANS[norm]} (weights.norm={norm})")
    return JudgedFolder(_name(folder), source, listing, weights, levels, note, stored is not None)


def _name(folder: str) -> str:
    """The folder's name, told apart from the sets that it is compared with."""
    name = folder.rstrip("/").rpartition("/")[2]
    return f"{name} (images)" if name in (*registry.names("method"), *BOUNDS) else name


# ---- what lies there -------------------------------------------------------------------------------------------------


def _root(folder: str) -> Location:
    return Location.of(folder if "://" in folder else os.path.realpath(os.path.expanduser(folder)))


def _layout(folder: str, like: SourceConfig) -> SourceConfig:
    """Shards of either kind, class folders under train/, or class folders: the source that reads it."""
    root = _root(folder)
    try:
        fs, inside = root.filesystem()
        if fs.get_file_info(inside).type != pafs.FileType.Directory:
            raise BadInput("there is no such folder; give one that holds CLASS/*.png, train/CLASS/*.png or shards")
        files = [
            i.base_name
            for parent in (root, root / TRAIN, root / "data")
            for i in parent.infos()
            if i.type == pafs.FileType.File
        ]
        folders = [i.base_name for i in root.infos() if i.type == pafs.FileType.Directory and not hidden(i.base_name)]
    except OSError as e:
        raise BadInput(f"it cannot be listed: {reason(e)}; check its permissions") from None
    kind = next(
        (k for k, end in (("webdataset", ".tar"), ("parquet", ".parquet")) if any(f.endswith(end) for f in files)),
        "imagefolder",
    )
    if kind == "imagefolder" and not folders and any(is_tensors(f) for f in files):
        kind = "tensors"
    path, split = root.uri, TRAIN
    if kind == "imagefolder" and (TRAIN not in folders or is_class(root, TRAIN)):
        if not folders:
            raise BadInput("it holds no images sorted by class; give CLASS/*.png, train/CLASS/*.png or shards")
        path, _, split = root.uri.rpartition("/")
        if hidden(split):
            raise BadInput(
                f"a folder that is called {split} is not looked at; rename it, or copy it under another name"
            )
    return SourceConfig(
        kind=kind, path=path, train=split, val=split, image_size=like.image_size, max_pixels=like.max_pixels
    )


def _list(source: SourceConfig) -> Listing:
    listing = open_source(source).list(source.train)
    if not len(listing):
        raise BadInput("it holds no images; give CLASS/*.png, train/CLASS/*.png or shards")
    return listing


def _class_ids(
    folder: str, source: SourceConfig, folders: Sequence[ClassInfo], wanted: Sequence[ClassInfo]
) -> dict[str, str]:
    """Folder -> class id, where folders are named otherwise: by order.txt, or classes.json, by class id or name."""
    if source.kind in ("imagefolder", "tensors") and (order := _root(folder) / ORDER).size() is not None:
        return by_folder(order, [c.class_id for c in folders])
    known = {c.class_id for c in wanted}
    for root in dict.fromkeys((source.folder or "", folder)):
        try:
            tree = strict_json.mapping((Location.of(root) / CLASSES).read())
            if source.kind == "tensors":  # by label
                return {str(i): str(c) for i, c in enumerate(tree.get("class_ids") or tree["dirs"])}
            named = "class_ids" in tree or not known.isdisjoint(tree["dirs"])  # then names are for readers
            ids = dict(zip(tree["dirs"], tree["class_ids" if named else "names"], strict=True))
            if all(isinstance(text, str) for text in (*ids, *ids.values())):
                return ids
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return {}


def _match(listing: Listing, wanted: Sequence[ClassInfo], ids: dict[str, str]) -> Listing:
    """The listing with labels that index `wanted`: a class is found by its id, or else by its name, never by place."""
    known = {n: i for i, n in enumerate(unique_names(wanted))} | {c.class_id: i for i, c in enumerate(wanted)}
    index = np.full(len(listing.classes), -1, np.int32)
    owner: dict[int, str] = {}
    for label, (info, count) in enumerate(zip(listing.classes, listing.counts, strict=True)):
        candidates = (ids.get(info.class_id), info.class_id, info.class_name)
        at = next((known[c] for c in candidates if c in known), None)
        if at is None:
            if count:
                raise BadInput(_unknown(info.class_id, wanted))
            continue
        if at in owner and count:
            raise BadInput(
                f"the classes {owner[at]!r} and {info.class_id!r} are both {wanted[at].class_id!r}; "
                "keep one folder a class"
            )
        index[label] = at
        owner |= {at: info.class_id} if count else {}
    missing = [c for i, c in enumerate(wanted) if i not in owner]
    if missing:
        more = f" and of {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadInput(
            f"it has no image of class {missing[0].class_id!r} ({missing[0].class_name}){more}; add some, "
            "or pick the classes that it has with source.classes=[...]"
        )
    return Listing(listing.split, tuple(wanted), listing.ids, index[listing.labels], listing.tags)


def _unknown(name: str, wanted: Sequence[ClassInfo]) -> str:
    known = [t for c in wanted for t in (c.class_id, c.class_name)]
    alike = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {alike[0]!r}? " if alike else ""
    order = ""
    if numbered([name]) is not None:
        order = f", or, for folders numbered from 0, an {ORDER} beside them with a class id a line in their order"
    return (
        f"its class {name!r} is none of the {len(wanted)} training classes ({', '.join(known[:12:2])}...); {hint}"
        f"name it by class id or class name, or give a classes.json that does{order}"
    )


def _one_size(source: SourceConfig, listing: Listing) -> str:
    """'W x H' of all images. Raises BadInput if they differ or one cannot be decoded."""
    first: tuple[str, tuple[int, int]] | None = None
    ids = listing.ids.to_pylist()
    for name, data in zip(ids, open_source(source).read(listing.split, ids), strict=True):
        try:
            size = Image.open(io.BytesIO(data), formats=FORMATS).size
        except Exception as e:  # Pillow raises many kinds on bytes that are no image
            raise BadInput(f"{name} is no image that can be read ({one_line(e)[:80]}); replace it") from None
        first = first or (name, size)
        if size != first[1]:
            raise BadInput(
                f"images differ in size: {first[0]} is {first[1][0]} x {first[1][1]}, {name} is "
                f"{size[0]} x {size[1]}; bring all to one size"
            )
        try:
            decode(data, source.image_size, source.max_pixels)
        except BrokenImage as e:
            raise BadInput(f"{name} cannot be used: {e}; replace it") from None
    assert first is not None
    return f"{first[1][0]} x {first[1][1]}"


# ---- the stage -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImportWork(StageWork):
    """Prepares images exactly as real ones are for encoding; their latents go along for the report."""

    name, folder = "foreign", "syntheses"

    judged: Annotated[JudgedFolder, lambda judged, _: judged.parts()]
    vae: VaeSpec
    pool: Annotated[SampleConfig, Keys("batch", "threads", "dtype")]

    def load(self, item: Slots) -> tuple[Slots, np.ndarray]:
        s, ids = self.judged.source, item.table["image_id"].to_pylist()
        pixels = np.empty((len(ids), s.image_size, s.image_size, 3), np.uint8)
        for i, data in enumerate(open_source(s).read(self.judged.listing.split, ids)):
            try:
                pixels[i] = decode(data, s.image_size, s.max_pixels)
            except BrokenImage as e:
                raise StageFailed(
                    f"--images: {ids[i]} cannot be used: {e}; replace it, then run the same command again"
                ) from None
        return item, pixels

    def open(self) -> Callable[[tuple[Slots, np.ndarray]], Record]:
        at = placement(self.pool)
        vae = loaded.vae(self.vae, at)
        shape = self.vae.latent_shape(self.judged.source.image_size)

        def finish(payload: tuple[Slots, np.ndarray]) -> Record:
            slots, pixels = payload
            return commit(self.artifact, slots, pixels, encode_all(vae, pixels, self.pool.batch, shape), 0, at.kind)

        return finish


def stage(config: Config, run: RunDir, judged: JudgedFolder, vae: VaeSpec) -> Stage:
    """The import stage: an artifact of syntheses like a method's, so that all that follows takes it as one."""
    s, listing = config.sample, judged.listing
    shape = vae.latent_shape(config.source.image_size)
    keys = [f"batch-{n:05d}" for n in range(-(-len(listing) // s.batch))]
    order = np.argsort(listing.labels, kind="stable")
    labels = listing.labels[order]
    slot = np.arange(len(labels)) - np.searchsorted(labels, labels)  # the number of the image within its class
    ids, weights = listing.ids.take(pa.array(order)), judged.weights[order]

    def item(key: str) -> Slots:
        start = keys.index(key) * s.batch
        part = slice(start, start + s.batch)
        count = len(labels[part])
        return Slots(
            key,
            pa.table(
                {
                    "class_index": pa.array(labels[part], pa.int32()),
                    "slot": pa.array(slot[part], pa.int32()),
                    "prototype_id": pa.array([-1] * count, pa.int32()),
                    "weight": weights[part],
                    "seed_key": [""] * count,
                    "image_id": ids.slice(start, s.batch),
                    "prototype": schemas.tensor_array(np.zeros((count, *shape), np.float32)),
                }
            ),
        )

    work = ImportWork(judged, vae, s).within(run)
    count = partial(numbers.summary, work.artifact)
    return Stage("import", "images", work.artifact, keys, item, work, len(listing), "driver", s, numbers=count)
