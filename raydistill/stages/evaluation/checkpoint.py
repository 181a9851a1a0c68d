"""What outlives a training: its state while it lasts, and if asked for the student that it made."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from raydistill import strict_json
from raydistill.evaluation.colour import STATISTICS
from raydistill.identity import canonical, digest
from raydistill.models.classifier import HEADER
from raydistill.models.device import inexact
from raydistill.store import faults, seals
from raydistill.store.artifact import Artifact
from raydistill.store.location import Location

WEIGHTS = "model"  # the key of a kept student's file


@dataclass(frozen=True)
class TrainingState:
    """States of one training: step-NUMBER~HASH.pt under `folder`. A torn file does not match its name's hash."""

    folder: Location

    def load(self) -> dict[str, Any] | None:
        """The latest whole state, on the CPU. Another attempt at the same training may remove states meanwhile."""
        for name in sorted(self.folder.list(), reverse=True):
            try:
                data = (self.folder / name).read()
            except FileNotFoundError:
                continue
            if name.partition("~")[2] == f"{digest(data)[:16]}.pt":
                return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Keeps this state, and then forgets the earlier ones."""
        before = self.folder.list()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        name = f"step-{step:09d}~{digest(data)[:16]}.pt"
        (self.folder / name).write(data)
        faults.reach("training", "after_commit", str(step))
        self.forget([n for n in before if n != name])

    def forget(self, names: Sequence[str] | None = None) -> None:
        """Removes these states, or all of them."""
        for name in self.folder.list() if names is None else names:
            (self.folder / name).delete()
        if names is None and self.folder.is_local:
            with contextlib.suppress(OSError):  # gone already, or somebody put something there
                os.rmdir(self.folder.uri)


def described(
    student: str, width: int, class_ids: Sequence[str], image_size: int, training: str, statistics: str = "imagenet"
) -> dict[str, Any]:
    """What a classifier must say of itself to be used rightly, and the fingerprint of the training that made it."""
    mean, std = STATISTICS[statistics]
    return {
        "architecture": student,
        "width": width,
        "classes": list(class_ids),
        "image_size": image_size,
        "mean": mean,
        "std": std,
        "training": training,
    }


@dataclass(frozen=True)
class Checkpoint:
    """A trained student as a classifier: an artifact of one safetensors file, whose header says what it is.

    `former`: earlier versions kept it in a folder by the name of its set, where it is still found, and made again.
    """

    artifact: Artifact
    former: Weights

    def there(self) -> bool:
        return WEIGHTS in self.artifact.records() or self.former.there()

    def sealed(self) -> bool:
        return self.artifact.manifest() is not None or self.former.there()

    def seal(self) -> None:
        if not self.sealed():
            self.artifact.seal([WEIGHTS])

    @property
    def path(self) -> str:
        """The file, or the folder of earlier versions, as `teacher.path` takes it. Raises CorruptArtifact."""
        manifest = self.artifact.manifest()
        if manifest is None:
            return str(self.former.checkpoints / self.former.name)
        self.artifact.verify(manifest.records)
        return str(self.artifact.location / manifest.records[0].file)

    def write(self, net: nn.Module, about: dict[str, Any], device: str) -> None:
        """Commits it, unless that is done; `about` as `described` gives it."""
        if self.there():
            return
        tensors = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
        if self.former.known():
            self.former.write(tensors, about)
        else:
            data = safetensors.torch.save(tensors, {HEADER: canonical(about)})
            self.artifact.commit(WEIGHTS, data, rows=1, device=device, ext="safetensors", meta=inexact(device))


@dataclass(frozen=True)
class Weights:
    """As earlier versions kept a student: a folder of model.safetensors, and config.json, which is written last.

    It is `checkpoints`/`name`; both files are sealed under `checkpoints`/seals/.
    """

    checkpoints: Location
    name: str
    training: str  # the fingerprint of the training that made it

    @property
    def files(self) -> tuple[str, str]:
        return f"{self.name}/model.safetensors", f"{self.name}/config.json"

    def there(self) -> bool:
        """Whether they are of this training, and whole as far as anybody knows."""
        try:
            about = strict_json.mapping((self.checkpoints / self.files[1]).read())
        except (OSError, ValueError):
            return False
        spoiled = (seals.State.MISSING, seals.State.CHANGED)
        return about.get("training") == self.training and all(
            seals.state(self.checkpoints, name) not in spoiled for name in self.files
        )

    def known(self) -> bool:
        """Whether it was kept here once, whatever has become of it."""
        seal = seals.find(self.checkpoints, self.files[0])
        return seal is not None and seal.made_from == self.training

    def write(self, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> None:
        for name, data in zip(
            self.files, (safetensors.torch.save(dict(tensors)), canonical(about).encode()), strict=True
        ):
            seals.write(self.checkpoints, name, data, self.training)
