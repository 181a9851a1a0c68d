"""Pretrained classifiers: logits and embeddings of images. Teachers, feature extractors, and students that were saved.

A classifier is FILE.safetensors of a registered architecture, or a folder with model.safetensors and config.json:
{"architecture", "classes": ids in the order of the columns, "image_size", "mean", "std", "width" (students only)},
or the config.json of timm. A file may hold the same in its header, under "classifier", as those do that were trained
here.
"""

from __future__ import annotations

import difflib
import reprlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from raydistill import registry
from raydistill.config import class_list, class_lists
from raydistill.errors import BadInput, StageFailed, one_line
from raydistill.identity import canonical, digest, file_digest
from raydistill.models import fits
from raydistill.models.checkpoint import (
    PICKLES,
    check_weights,
    integer,
    is_finite,
    pickled,
    read_config,
    read_header,
)
from raydistill.models.device import LAYOUT, Placement

WEIGHTS = "model.safetensors"
HEADER = "classifier"


class Classes(Protocol):
    """What knows classes: `class_ids` in the order of its columns. `key` and `path` name it in errors."""

    @property
    def key(self) -> str: ...

    @property
    def path(self) -> Any: ...

    @property
    def class_ids(self) -> Sequence[str]: ...


class ClassifierSpec:
    """What is known of a classifier without loading its weights. Raises BadInput rather than guess.

    What is given here and what config.json or the header says must agree, but for `image_size`, which is what the
    network is shown.
    `key` is the configuration section that errors name.
    """

    def __init__(
        self,
        path: str,
        architecture: str | None = None,
        classes: Sequence[str] | str | None = None,
        image_size: int | None = None,
        *,
        key: str = "classifier",
    ) -> None:
        self.key, self.path = key, Path(path)
        self.weights = self._find()
        folder = self.path.is_dir()
        self.about = self.path / "config.json" if folder else self.path
        config = read_config(self.about, f"{key}.path") if folder else read_header(self.path, HEADER, f"{key}.path")
        config = _of_timm(config) if "pretrained_cfg" in config else config
        self.architecture = self._architecture(architecture, config)
        self.class_ids = self._classes(classes, config)
        student = self._is_student(config)
        if student and not config:
            raise BadInput(
                f"{key}.architecture: {self.architecture} is a student, whose preprocessing is not known; give a "
                f"folder with config.json (docs/bring-your-own.md shows one) and {WEIGHTS}"
            )
        self.width = integer(config, "width", self.about, f"{key}.path") if student else None
        entry = None if student else self._entry()
        self.image_size = image_size or self._image_size(config, entry)
        self.mean, self.std = (self._colours(config, entry, name) for name in ("mean", "std"))
        if min(self.std) <= 0:
            raise BadInput(f"{key}.path: {self.about} gives std={list(self.std)}; each must be positive")
        self._check_weights()
        if entry is not None and self.image_size != entry.image_size:
            self._check_size(entry.image_size)

    def build(self) -> nn.Module:
        """The network as its architecture makes it, with fresh weights."""
        if self.width is None:
            return self._entry()(len(self.class_ids))
        return registry.get("student", self.architecture)(len(self.class_ids), self.image_size, self.width)

    def identity(self) -> dict[str, Any]:
        """What logits and features depend on, free of paths."""
        code = registry.identity("classifier" if self.width is None else "student", self.architecture)
        return {
            **({"code": code} if code else {}),
            "weights": file_digest(self.weights),
            "layout": str(LAYOUT),
            "architecture": self.architecture,
            "classes": digest(canonical(self.class_ids).encode()),
            "image_size": self.image_size,
            "mean": self.mean,
            "std": self.std,
            "width": self.width,
        }

    def _find(self) -> Path:
        key = f"{self.key}.path"
        if self.path.is_dir():
            return check_weights(self.path, key, WEIGHTS)
        if not self.path.is_file():
            raise BadInput(f"{key}: {self.path} is not there; give FILE.safetensors, or a folder with config.json "
                           f"and {WEIGHTS}")  # fmt: skip
        if self.path.suffix in PICKLES:
            raise BadInput(f"{key}: {pickled(self.path, 'safetensors')}")
        return self.path

    def _architecture(self, requested: str | None, config: dict[str, Any]) -> str:
        name = self._agreed("architecture", requested, config.get("architecture"))
        if not any(registry.knows(kind, str(name)) for kind in ("classifier", "student")):
            known = [*registry.names("classifier"), *registry.names("student")]
            alike = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {alike[0]!r}?" if alike else ""
            known += [f"{family}NAME" for family in registry.families("classifier")]
            raise BadInput(f"{self.key}.architecture: unknown architecture {name!r}{hint} (known: {', '.join(known)})")
        return name

    def _is_student(self, config: dict[str, Any]) -> bool:
        """A name of both kinds, as timm's are, is that of a student where a width is stated, as all students have."""
        student, classifier = (registry.knows(kind, self.architecture) for kind in ("student", "classifier"))
        return student and ("width" in config or not classifier)

    def _entry(self) -> Any:
        """The registered classifier. Raises BadInput where the member of a family is not known or not installed."""
        try:
            return registry.get("classifier", self.architecture)
        except BadInput as e:
            raise BadInput(f"{self.key}.architecture: {e}") from None

    def _classes(self, requested: Sequence[str] | str | None, config: dict[str, Any]) -> list[str]:
        key = f"{self.key}.classes"
        stated = config.get("classes")
        ids = self._agreed(
            "classes",
            None if requested is None else self._listed(requested),
            None if stated is None else self._listed(stated),
        )
        if not ids:
            raise BadInput(f"{key}: no class is given; list the class id of each column")
        twice = [c for c, count in Counter(ids).items() if count > 1]
        if twice:
            raise BadInput(f"{key}: class {twice[0]!r} is listed twice; each column has a class of its own")
        return ids

    def _listed(self, value: object) -> list[str]:
        """Ids from a list of them, or from the name of a class list."""
        if isinstance(value, str):
            if value not in class_lists():
                alike = difflib.get_close_matches(value, class_lists(), n=1)
                hint = f"; did you mean {alike[0]!r}?" if alike else ""
                raise BadInput(
                    f"{self.key}.classes: there is no class list {value!r}{hint} (known: {', '.join(class_lists())}); "
                    "or list the ids in the order of the columns"
                )
            return class_list(value)
        if not isinstance(value, Sequence):
            raise BadInput(f"{self.key}.classes: {value!r} is neither a list of ids nor the name of a class list")
        return [str(c) for c in value]

    def _agreed(self, name: str, requested: Any, stated: Any) -> Any:
        if requested is None and stated is None:
            where = f"{self.about} {'does not' if self.path.is_dir() else 'cannot'}"
            raise BadInput(f"{self.key}.{name} is not given, and {where} say it; it is never guessed")
        if requested is not None and stated is not None and requested != stated:
            shown = f" ({requested} and {stated})" if isinstance(requested, str) else ""
            raise BadInput(f"{self.key}.{name} and {self.about} do not agree{shown}; leave {self.key}.{name} out")
        return stated if requested is None else requested

    def _image_size(self, config: dict[str, Any], entry: Any) -> int:
        if entry is not None and "image_size" not in config:
            return entry.image_size
        return integer(config, "image_size", self.about, f"{self.key}.path")

    def _colours(self, config: dict[str, Any], entry: Any, name: str) -> tuple[float, float, float]:
        value = config.get(name, getattr(entry, name, None))
        numbers = value if isinstance(value, Sequence) else ()
        if len(numbers) != 3 or not all(type(v) in (int, float) and is_finite(v) for v in numbers):
            raise BadInput(
                f"{self.key}.path: {self.about} gives {name}={reprlib.repr(value)}; it must list three numbers, "
                "for red, green and blue in [0, 1]"
            )
        return (float(numbers[0]), float(numbers[1]), float(numbers[2]))

    def _check_weights(self) -> None:
        """Compares the names and shapes of the file with those of the network; the weights stay where they are."""

        def build() -> nn.Module:
            try:
                return self.build()
            except BadInput as e:
                raise BadInput(f"{self.key}: {self.architecture} cannot be built: {e}") from None

        misfit = fits.check(build, self.weights, f"{self.key}.path", self.architecture, _counters)
        count = len(self.class_ids)
        for name, (got, wanted) in misfit.shapes.items() if not misfit.lacking and not misfit.surplus else ():
            if wanted[:1] == (count,) and got[1:] == wanted[1:]:
                raise BadInput(
                    f"{self.key}.classes: {count} classes are given, but {self.weights} has a head of {got[0]} "
                    f"({name}); list the class of each column"
                )
        if misfit:
            raise BadInput(
                f"{self.key}.path: {self.weights} does not fit {self.architecture}: {misfit}; give another "
                f"{self.key}.architecture or {self.key}.path"
            )

    def _check_size(self, made_for: int) -> None:
        """Shows the network an image of `image_size` without memory: some take only the size that they are made for."""
        try:
            with torch.device("meta"), torch.no_grad():
                self.build().eval()(torch.zeros(1, 3, self.image_size, self.image_size))
        except Exception as e:  # networks raise many kinds for what is too small or of another size
            raise BadInput(
                f"{self.key}.image_size: {self.architecture} cannot take images of {self.image_size} px "
                f"({one_line(e)}); {made_for} is what it is made for"
            ) from None


def _of_timm(config: dict[str, Any]) -> dict[str, Any]:
    """The config.json that timm writes beside its weights, in the words of this page."""
    data = config["pretrained_cfg"]
    if not isinstance(data, dict) or "architecture" not in config:
        return config
    name = ".".join(str(part) for part in (config["architecture"], data.get("tag")) if part)
    shown = {"image_size": data["input_size"][-1]} if isinstance(data.get("input_size"), list) else {}
    return {"architecture": f"timm:{name}", **shown, **{key: data[key] for key in ("mean", "std") if key in data}}


def _counters(net: nn.Module) -> set[str]:
    """Of batches in BatchNorm, which files may leave out."""
    return {name for name in net.state_dict() if name.endswith("num_batches_tracked")}


class Classifier:
    """A loaded classifier. Images go in as float32 (B, 3, S, S) in [0, 1], of any S.

    They are resized (bicubic, antialiased) to `spec.image_size`, centred and scaled. The same for a given batch shape,
    device and thread count. What `..._with_grad` returns is the same number, differentiable in the images wherever
    gradients are recorded (`guidance.gradient`); resizing clips to [0, 1], and what is clipped has no gradient.
    `checkpointed` keeps the network for the way back as its input alone and computes it twice. Results are float32, and
    float64 of a classifier in float64. Raises StageFailed on a non-finite result.
    """

    def __init__(self, spec: ClassifierSpec, placement: Placement) -> None:
        self.spec, self.placement = spec, placement
        net = spec.build()
        net.load_state_dict(load_file(spec.weights))  # strict; float16 files become float32
        self.net = net.eval().requires_grad_(False).to(placement.device, placement.dtype, memory_format=LAYOUT)
        self.mean, self.std = (torch.tensor(v, device=placement.device).view(3, 1, 1) for v in (spec.mean, spec.std))

    @torch.no_grad()  # not inference_mode: a loss may keep them as its targets
    def logits(self, x: Tensor) -> Tensor:
        """(B, K), a column a class of `spec.class_ids`, on the device."""
        return self.logits_with_grad(x)

    def logits_with_grad(self, x: Tensor, checkpointed: bool = False) -> Tensor:
        """As `logits`, differentiable in x."""
        return self._through(self.net, x, checkpointed)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """(B, D) on the device: the network's `features_of`, or else what its last linear layer is given."""
        return self.features_with_grad(x)

    def features_with_grad(self, x: Tensor, checkpointed: bool = False) -> Tensor:
        """As `features`, differentiable in x."""
        return self._through(getattr(self.net, "features_of", self._penultimate), x, checkpointed)

    def _through(self, network: Callable[[Tensor], Tensor], x: Tensor, checkpointed: bool) -> Tensor:
        x = self.prepare(x)
        return self._finite(checkpoint(network, x, use_reentrant=False) if checkpointed else network(x))

    def prepare(self, x: Tensor) -> Tensor:
        """float32 (B, 3, S, S) in [0, 1] -> what the network takes."""
        size = self.spec.image_size
        x = x.to(self.placement.device)
        if x.shape[-1] != size or x.shape[-2] != size:
            x = F.interpolate(x, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        x = ((x - self.mean) / self.std).to(self.placement.dtype)
        return x.contiguous(memory_format=LAYOUT)

    def _penultimate(self, x: Tensor) -> Tensor:
        heads = [m for m in self.net.modules() if isinstance(m, nn.Linear)]
        if not heads:
            raise BadInput(
                f"{self.spec.key}.architecture: {self.spec.architecture} has neither features_of nor a linear layer"
            )
        kept: list[Tensor] = []
        hook = heads[-1].register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        try:
            self.net(x)
        finally:
            hook.remove()
        return kept[0].flatten(1)

    def _finite(self, out: Tensor) -> Tensor:
        if not torch.isfinite(out).all():
            raise StageFailed(
                f"{self.spec.key}: {self.spec.weights} gave a non-finite result in {self.placement.dtype}; have it "
                "compute in float32 (label.dtype=float32 for a teacher, embed.dtype=float32 for features)"
            )
        return out.to(torch.promote_types(self.placement.dtype, torch.float32))


def unit_images(pixels: np.ndarray) -> Tensor:
    """uint8 (B, S, S, 3) -> float32 (B, 3, S, S) in [0, 1], as a classifier takes it."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32).div(255)


def class_columns(spec: Classes, class_ids: Sequence[str]) -> np.ndarray:
    """The classifier's column of each class, (len(class_ids),) int64. Raises BadInput for a class it does not know."""
    column = {c: i for i, c in enumerate(spec.class_ids)}
    for c in class_ids:
        if c not in column:
            raise BadInput(
                f"class {c!r} is not one of the {len(column)} classes of the {spec.key} classifier ({spec.path}); "
                f"leave it out with source.classes=[...] or give another {spec.key}.path"
            )
    return np.array([column[c] for c in class_ids], np.int64)
