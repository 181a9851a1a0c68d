"""A distilled set as tensors, as DC, MTT and others publish them: images*.pt and labels*.pt, or one .npz of both."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raydistill import strict_json
from raydistill.config import SourceConfig
from raydistill.config.source import Channels
from raydistill.errors import BadInput, one_line
from raydistill.identity import digest
from raydistill.registry import register
from raydistill.sources.base import ClassInfo, Listing
from raydistill.sources.images import png
from raydistill.sources.layout import open_root, required_path
from raydistill.store.location import Location

# {"mean": [R, G, B], "std": [R, G, B]} of images that were normalised, or {"whitened": true} of those that ZCA was.
NORMALISATION = "normalisation.json"
LARGEST = 2**33  # bytes of a file, which is read whole
HALF_A_LEVEL = 0.5 / 255
# What tells images that were normalised and say nothing of it: of their values so many are no plain pixels', and hardly
# any are none once it is taken back. Photographs that are normalised deviate by about 1, whitened ones by about 0.25.
LEAST_OUTSIDE, MOST_OUTSIDE, LEAST_DEVIATION = 0.25, 0.1, 0.5


def is_tensors(name: str) -> bool:
    """Whether a file of this name may hold the images of a set."""
    return (name.startswith("images") and name.endswith(".pt")) or name.endswith(".npz")


@register("source", "tensors")
class Tensors:
    """Images (N, 3, H, W): uint8, or floats of 0 to 1, or what normalisation.json says. Labels (N,).

    Without that file they are as `config.normalisation` has it, if that is known.

    Whitened images are kept in 256 levels from their lowest value to their highest (`whitened_levels`).

    The class id of a label is its number. There is one split, by whatever name, so it is no source of a run.
    """

    judged_only = True

    def __init__(self, config: SourceConfig) -> None:
        self.path, self.normalisation = required_path(config), config.normalisation

    def list(self, split: str) -> Listing:
        """Images in the order of the file. Raises BadInput for files, shapes, types or ranges that do not fit."""
        pixels, labels = self._load()
        values, index = np.unique(labels, return_inverse=True)
        tags = pa.array([digest(image.tobytes()) for image in pixels], pa.string())
        classes = tuple(ClassInfo(str(v), str(v)) for v in values)
        return Listing(split, classes, pa.array([str(i) for i in range(len(labels))]), index.astype(np.int32), tags)

    def read(self, split: str, ids: Sequence[str]) -> Iterator[bytes]:
        """PNG of each image."""
        pixels, _ = self._load()
        return (png(pixels[int(i)]) for i in ids)

    def _load(self) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (N, H, W, 3) and int64 (N,)."""
        root, images, labels = self.arrays()
        pixels = _pixels(root, images, self.normalisation).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(pixels), labels.astype(np.int64)

    def arrays(self) -> tuple[Location, np.ndarray, np.ndarray]:
        """Where they lie, images (N, 3, H, W) as they were saved and labels (N,)."""
        root = open_root(self.path)
        file = _images(root)
        if file.name.endswith(".npz"):
            archive = _read(file)
            images, labels = (archive.get(key) for key in ("images", "labels"))
        else:
            images, labels = _read(file), _read(root / file.name.replace("images", "labels", 1))
        for what, array in (("images", images), ("labels", labels)):
            if not isinstance(array, np.ndarray):
                raise BadInput(f"{file}: its {what} are no array of numbers; save {what} as one tensor")
        if (
            images.ndim != 4
            or images.shape[1] != 3
            or not images.size
            or labels.shape != images.shape[:1]
            or labels.dtype.kind not in "iu"
        ):
            raise BadInput(
                f"{file} has images {images.shape} and labels {labels.shape} of {labels.dtype}; give images "
                "(N, 3, H, W) and whole numbers (N,)"
            )
        return root, images, labels


def beside(root: Location, what: str) -> np.ndarray | None:
    """An array that came with the images, None if none did: `weights*.pt`, or `weights` of the archive."""
    file = _images(root)
    if file.name.endswith(".npz"):
        return _read(file).get(what)
    other = root / file.name.replace("images", what, 1)
    if other.size() is not None:
        return np.asarray(_read(other))
    for name in sorted(i.base_name for i in root.infos()):
        if name.startswith(what) and name.endswith(".pt"):
            raise BadInput(f"{root / name} goes with no images: those here are {file.name}; call it {other.name}")
    return None


def _images(root: Location) -> Location:
    """The one file of images. Raises BadInput."""
    names = sorted(i.base_name for i in root.infos() if is_tensors(i.base_name))
    if len(names) != 1:
        raise BadInput(f"{root} holds {', '.join(names) or 'no images*.pt'}; keep the one file of images that is meant")
    return root / names[0]


def whitened_levels(config: SourceConfig) -> tuple[float, float] | None:
    """What the darkest and the brightest pixel of whitened images stand for; None for others. Raises BadInput."""
    root, images, _ = Tensors(config).arrays()
    return _range(images) if _normalisation(root).get("whitened") is True else None


def _range(images: np.ndarray) -> tuple[float, float]:
    """Raises BadInput for values that are not finite, or all the same."""
    low, high = float(images.min()), float(images.max())
    if not (images.dtype.kind == "f" and -math.inf < low < high < math.inf):
        raise BadInput(
            f"whitened images must be finite floats that differ, not {images.dtype} from {low:g} to {high:g}"
        )
    return low, high


def _normalisation(root: Location) -> dict[str, Any]:
    """What normalisation.json says; empty where there is none."""
    location = root / NORMALISATION
    if location.size() is None:
        return {}
    try:
        return dict(strict_json.mapping(location.read()))
    except (OSError, ValueError) as e:
        raise BadInput(f"{location} cannot be read ({one_line(e)[:60]}); mend it") from None


def _read(location: Location) -> Any:
    """The array of a .pt, of nothing but tensors, or the arrays of a .npz."""
    try:
        if (location.size() or 0) > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        data = io.BytesIO(location.read())
        if location.uri.endswith(".npz"):
            with np.load(data, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        loaded = torch.load(data, map_location="cpu", weights_only=True)
        return _array(location, loaded.detach()) if isinstance(loaded, torch.Tensor) else loaded
    except (OSError, ValueError, RuntimeError, TypeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as e:
        raise BadInput(f"{location} cannot be read: {one_line(e)[:120]}; save tensors and nothing else") from None


def _array(location: Location, values: torch.Tensor) -> np.ndarray:
    """Raises BadInput for what is not dense."""
    if values.layout != torch.strided:
        raise BadInput(f"{location} holds a sparse tensor; save it dense (to_dense())")
    half = values.is_floating_point() and values.dtype not in (torch.float16, torch.float32, torch.float64)
    return (values.float() if half else values).numpy()  # numpy has no bfloat16


def looks_normalised(images: np.ndarray, by: Channels) -> bool:
    """Whether images that say nothing are those that this mean and deviation normalised, and nothing else."""
    if images.dtype.kind != "f" or not np.isfinite(images).all() or np.abs(images).max() <= 1:  # or from -1 to 1
        return False
    plain = _plain(images, by)
    return bool(
        images.std() >= LEAST_DEVIATION and _outside(images) >= LEAST_OUTSIDE and _outside(plain) <= MOST_OUTSIDE
    )


def share_cut(config: SourceConfig) -> float:
    """The share of values that are no pixels once the normalisation is taken back, and become 0 or 1."""
    root, images, _ = Tensors(config).arrays()
    by = _channels(root, _normalisation(root)) or config.normalisation
    return 0.0 if by is None or images.dtype.kind != "f" else _outside(_plain(images, by))


def _plain(images: np.ndarray, by: Channels) -> np.ndarray:
    """float32 (N, 3, H, W), the normalisation taken back."""
    mean, std = (np.array(three, np.float32).reshape(1, 3, 1, 1) for three in by)
    return np.asarray(images.astype(np.float32) * std + mean)


def _outside(values: np.ndarray) -> float:
    """The share of values that are not from 0 to 1, by more than what rounding to 256 levels takes away."""
    return float(np.mean((values < -HALF_A_LEVEL) | (values > 1 + HALF_A_LEVEL)))


def _channels(root: Location, said: dict[str, Any]) -> Channels | None:
    """Mean and deviation by normalisation.json; None of whitened images, and without that file. Raises BadInput."""
    if not said or said.get("whitened") is True:
        return None
    try:
        (r, g, b), (s, t, u) = (map(float, said[key]) for key in ("mean", "std"))
    except (ValueError, KeyError, TypeError) as e:
        raise BadInput(
            f'{root / NORMALISATION} must hold "mean" and "std", three numbers each, or "whitened": true '
            f"({one_line(e)[:60]})"
        ) from None
    return (r, g, b), (s, t, u)


def _pixels(root: Location, images: np.ndarray, assumed: Channels | None) -> np.ndarray:
    """uint8 of the same shape; normalised as `assumed` where normalisation.json says nothing."""
    if images.dtype == np.uint8:
        return images
    values, said = images.astype(np.float32), _normalisation(root)
    if said.get("whitened") is True:
        low, high = _range(images)
        return np.round((values - low) / (high - low) * 255).astype(np.uint8)
    if (by := _channels(root, said) or assumed) is not None:
        values = np.where(np.isfinite(values), np.clip(_plain(images, by), 0, 1), np.nan)
    low, high = float(values.min()), float(values.max())
    if not (images.dtype.kind == "f" and 0 <= low <= high <= 1):
        raise BadInput(
            f"the images are {images.dtype} from {low:g} to {high:g}; give uint8 or floats of 0 to 1, or, if they were "
            f'normalised, {NORMALISATION} beside them: {{"mean": [R, G, B], "std": [R, G, B]}}, or {{"whitened": true}}'
        )
    return np.round(values * 255).astype(np.uint8)
