"""Where the training of a generator starts: from scratch, or from a checkpoint whose conventions it keeps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydistill.config import Config
from raydistill.errors import BadInput
from raydistill.models import hub
from raydistill.models.denoiser import GeneratorSpec
from raydistill.models.parametrisation import DIT_BETAS, Parametrisation, parametrisation
from raydistill.models.text_generator import is_pipeline
from raydistill.models.vae import VaeSpec
from raydistill.pretraining import class_rows
from raydistill.pretraining.networks import build_generator
from raydistill.sources.base import ClassInfo

TRAIN_STEPS = DIT_BETAS["num_train_timesteps"]
SCHEDULERS: dict[str, dict[str, Any]] = {
    "epsilon": {
        "_class_name": "DDPMScheduler",
        **DIT_BETAS,
        "prediction_type": "epsilon",
        "variance_type": "learned_range",
        "clip_sample": False,
    },
    "v": {
        "_class_name": "DDPMScheduler",
        **DIT_BETAS,
        "prediction_type": "v_prediction",
        "variance_type": "fixed_small",
        "clip_sample": False,
    },
    "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": TRAIN_STEPS, "shift": 1.0},
}
_LINEAR = {
    "betas": {
        "schedule": "linear",
        "start": DIT_BETAS["beta_start"],
        "end": DIT_BETAS["beta_end"],
        "steps": TRAIN_STEPS,
    }
}
RECORDS: dict[str, dict[str, Any]] = {
    "epsilon": {
        "prediction": "epsilon",
        "learned_variance": True,
        "loss": "L_simple + 0.001 L_vlb",
        **_LINEAR,
    },
    "v": {"prediction": "v", "learned_variance": False, "loss": "mean |v_hat - v|^2", **_LINEAR},
    "flow": {
        "prediction": "flow",
        "learned_variance": False,
        "velocity": "noise - data",
        "timestep": f"{TRAIN_STEPS} * sigma",
        "sigma": "1 = noise, x = (1 - sigma) data + sigma noise",
        "loss": "mean |v_hat - v|^2",
    },
}
KEPT = (  # of a checkpoint's training.json
    "prediction",
    "learned_variance",
    "velocity",
    "timestep",
    "sigma",
    "timestep_freq_shift",
    "vae_scaling_factor",
    "class_names",
    "latent_scale_note",
    "licence",
    "license",
)


@dataclass(frozen=True)
class Origin:
    """`record` goes to training.json as it stands, `scheduler` is the text of scheduler_config.json as a tree.

    `class_ids` are in the order of the network's labels, the null label follows. `spec` None = from scratch. `rows`:
    for classes that a checkpoint does not know, its label whose row each begins as (its null label: a new row).
    """

    predicts: Parametrisation
    learned_variance: bool
    class_ids: tuple[str, ...]
    scheduler: dict[str, Any]
    record: dict[str, Any]
    spec: GeneratorSpec | None = None
    rows: tuple[int, ...] | None = None

    @property
    def objective(self) -> str:
        return self.predicts.predicts

    @property
    def null(self) -> int:
        return len(self.class_ids)

    @property
    def latent_scale(self) -> float | None:
        """What the network wants latents to be multiplied by; None if that is still to be measured."""
        return self.spec.latent_scale if self.spec else None

    @property
    def dtype(self) -> torch.dtype | None:
        """Of the checkpoint's weights, in which the trained ones are written as well; None from scratch."""
        return self.spec.dtype if self.spec else None

    def trains_with_vectors(self, name: str, parameter: torch.Tensor) -> bool:
        """Whether a weight is trained where vectors alone are: one of them, or the class table of other classes."""
        return parameter.ndim <= 1 or (self.rows is not None and class_rows.is_table(name))

    def labels(self, classes: Sequence[ClassInfo]) -> torch.Tensor:
        """The network's label of each class, (classes,) int64, found by class id."""
        index = {c: i for i, c in enumerate(self.class_ids)}
        return torch.tensor([index[c.class_id] for c in classes], dtype=torch.int64)

    def check_network(self) -> None:
        """Raises BadInput for a checkpoint whose weights do not fit its config.json."""
        if self.spec is not None:
            with _of_init():
                self.spec.check_network()

    def network(self, config: Config, latent_shape: tuple[int, int, int]) -> nn.Module:
        """The network before the first step, float32. Raises BadInput for sizes that cannot work."""
        if self.spec is not None:
            net: nn.Module = self.spec.network()
            if self.rows is not None:
                class_rows.rewrite(net, self.rows, self.spec.null_class)
            return net
        channels = latent_shape[0] * (2 if self.learned_variance else 1)
        return build_generator(config.pretrain, latent_shape, channels, len(self.class_ids), config.seed)


def from_scratch(objective: str, classes: Sequence[ClassInfo]) -> Origin:
    """A network of which nothing is known yet: labels in the order of the classes."""
    record, scheduler = RECORDS[objective], SCHEDULERS[objective]
    predicts = parametrisation(record, scheduler, Path("."))
    named = record | {"class_names": [c.class_name for c in classes]}
    return Origin(predicts, record["learned_variance"], tuple(c.class_id for c in classes), scheduler, named)


def from_checkpoint(
    path: str,
    objective: str | None,
    vae: VaeSpec,
    latent_shape: tuple[int, int, int],
    classes: Sequence[ClassInfo],
    class_map: Mapping[str, str] | None = None,
) -> Origin:
    """The checkpoint `pretrain.init`, a directory or an id on the hub. Raises BadInput for one that does not fit.

    Where it does not know a class, or a row is asked for, its class table becomes one of `classes` alone.
    """
    with _of_init():
        model = hub.find("generator", path, None)
        if is_pipeline(model.folder):
            raise BadInput(
                f"generator.path: {path} is told text, and what is trained here is told labels; give another"
            )
        spec = GeneratorSpec(model.folder, model.name)
        spec.check_objective(objective)
        spec.check_fits(latent_shape, [])
        spec.check_vae(vae)
    record, ids = {key: spec.training[key] for key in KEPT if key in spec.training}, tuple(spec.class_ids)
    rows = class_rows.rows_of(spec, classes, class_map)
    if rows is not None:
        begun = {c.class_id: None if row == spec.null_class else ids[row] for c, row in zip(classes, rows, strict=True)}
        record |= {"class_names": [c.class_name for c in classes], "class_rows_from": begun}
        ids = tuple(begun)
    return Origin(spec.predicts, spec.learned_variance, ids, spec.scheduler, record, spec, rows)


@contextlib.contextmanager
def _of_init() -> Iterator[None]:
    """What is said of a generator for sampling is said of pretrain.init."""
    try:
        yield
    except BadInput as e:
        raise BadInput(str(e).replace("generator.path", "pretrain.init")) from None
