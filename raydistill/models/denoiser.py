"""The generator: a class-conditional network behind one protocol, as a denoiser and as a flow.

Inside, everything is eps_hat and x0_hat, or v_hat = data - noise; whatever a network predicts is converted at the edge
(parametrisation.py). Generator space is VAE-scaled space times `latent_scale`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from raydistill.diffusion.prediction import Prediction, log_variance
from raydistill.diffusion.schedule import Step
from raydistill.errors import BadInput, StageFailed
from raydistill.models import fits, published
from raydistill.models.checkpoint import (
    WEIGHTS,
    check_finished,
    check_weights,
    integer,
    load_network,
    number,
    packaged,
    read_config,
    refuse_changes,
    tensors,
    weights_digest,
    weights_name,
)
from raydistill.models.device import Placement, quiet_libraries
from raydistill.models.generator import CPU, Generator
from raydistill.models.onednn import linear_by_onednn
from raydistill.models.parametrisation import parametrisation, time_shift

NETWORK = "DiTTransformer2DModel"
OLDER = ("Transformer2DModel", "ada_norm_zero")  # class and norm_type by which diffusers 0.12 wrote the same network
HALF = {"F16": torch.float16, "BF16": torch.bfloat16}
FILES = ["transformer/config.json", f"transformer/{WEIGHTS}", "scheduler/scheduler_config.json", "training.json"]


class GeneratorSpec(Generator):
    """A class-conditional generator in diffusers layout. Raises BadInput rather than guess.

    training.json must give: prediction, latent_scale, class_ids (in the order of the network's labels),
    null_class_index, learned_variance. It may give timestep_freq_shift: the frequencies of the time embedding are
    10000^(-i / (128 - shift)), with shift 0 in DiT's release and 1 in diffusers, whose own it is unless given; and of
    the VAE that it was trained with, `vae`, its digest, or vae_scaling_factor. `name` is the id on the hub by which the
    directory was found, if it was.
    """

    def __init__(self, path: str | None, name: str | None = None) -> None:
        self.path = Path(path) if path else Path(packaged("generator"))
        if not self.path.is_dir():
            raise BadInput(
                f"generator.path: {self.path} is not a folder; give a directory with transformer/, scheduler/ "
                "and training.json"
            )
        check_finished(self.path, "generator.path")
        refuse_changes(self.path, "generator.path")
        if not (self.path / "transformer").is_dir() and (self.path.parent / "transformer").exists():
            self.path = self._whole()
        net = read_config(self.path / "transformer" / "config.json", "generator.path")
        check_weights(self.path / "transformer", "generator.path")
        if not (self.path / "scheduler" / "scheduler_config.json").exists():
            raise BadInput(
                f"generator.path: {self.path / 'scheduler' / 'scheduler_config.json'} is missing; it gives the times "
                "and noise that the network was trained with, which are never guessed: copy the scheduler/ of the "
                "pipeline that it comes from"
            )
        scheduler = read_config(self.path / "scheduler" / "scheduler_config.json", "generator.path")
        training = self._training(name)
        self.training, self.scheduler = training, scheduler
        if net.get("_class_name") != NETWORK and (net.get("_class_name"), net.get("norm_type")) != OLDER:
            raise BadInput(f"generator.path: {self.path} is a {net.get('_class_name')!r}; supported: {NETWORK}")
        self.predicts = parametrisation(training, scheduler, self.path)
        self.time_shift = time_shift(scheduler, self.path)
        file, shape = self.path / "training.json", self.path / "transformer" / "config.json"
        ids = training["class_ids"]
        if not isinstance(ids, list) or len({str(c) for c in ids}) != len(ids) or not ids:
            raise BadInput(f"generator.path: class_ids in {file} must be a list that names each class once")
        self.class_ids = [str(c) for c in ids]
        self.null_class = integer(training, "null_class_index", file, "generator.path")
        self.learned_variance = bool(training["learned_variance"])
        self.latent_scale = number(training, "latent_scale", file, "generator.path")
        self.timestep_freq_shift = training.get("timestep_freq_shift")
        self.vae = training.get("vae")
        self.vae_scaling_factor = (
            number(training, "vae_scaling_factor", file, "generator.path") if "vae_scaling_factor" in training else None
        )
        side = integer(net, "sample_size", shape, "generator.path")
        self.latent_shape = (integer(net, "in_channels", shape, "generator.path"), side, side)
        if self.latent_scale <= 0:
            raise BadInput(f"generator.path: {file} gives latent_scale={self.latent_scale:g}; it must be positive")
        if self.timestep_freq_shift not in (None, 0, 1):
            raise BadInput(
                f"generator.path: {file} gives timestep_freq_shift={self.timestep_freq_shift!r}; it is 0 for weights "
                "of DiT's release, and 1 or not there for weights trained with diffusers"
            )
        if net.get("out_channels") != self.latent_shape[0] * (2 if self.learned_variance else 1):
            raise BadInput(
                f"generator.path: {self.path} has {net.get('out_channels')} output channels, which does not go with "
                f"learned_variance={self.learned_variance} and {self.latent_shape[0]} latent channels"
            )
        if self.null_class != len(self.class_ids) or net.get("num_embeds_ada_norm") != len(self.class_ids):
            raise BadInput(
                f"generator.path: {len(self.class_ids)} class_ids, null_class_index={self.null_class} and "
                f"{net.get('num_embeds_ada_norm')} embeddings in {self.path} do not go together"
            )

    def _whole(self) -> Path:
        """The pipeline of which `path` is the network's folder, or the path itself."""
        parent = self.path.parent
        return parent if self.path.samefile(parent / "transformer") else self.path

    def _training(self, name: str | None) -> dict[str, Any]:
        """What training.json says, or what is known of published weights of this name. Raises BadInput."""
        written = (self.path / "training.json").is_file()
        text = None if written else published.training(name)
        self.texts = {} if text is None else {"training.json": text}
        if text is None and not written:
            raise BadInput(
                f"generator.path: {self.path / 'training.json'} is missing; it says what the network does not "
                "(docs/bring-your-own.md shows one)" + (f": copy {name} to a folder and add it there" if name else "")
            )
        training = json.loads(text) if text else read_config(self.path / "training.json", "generator.path")
        for key in ("prediction", "latent_scale", "class_ids", "null_class_index", "learned_variance"):
            if key not in training:
                raise BadInput(
                    f"generator.path: {self.path / 'training.json'} does not give {key}, and it is never guessed"
                )
        return training

    def check_network(self) -> None:
        """Raises BadInput for weights that do not fit config.json. Imports diffusers, which takes seconds."""
        quiet_libraries()
        from diffusers import DiTTransformer2DModel

        folder = self.path / "transformer"
        config = read_config(folder / "config.json", "generator.path")
        fits.check_diffusers(DiTTransformer2DModel, config, folder / weights_name(folder), "generator.path")

    def network(self, device: torch.device = CPU) -> Any:
        """diffusers' network with the checkpoint's weights in float32, told times as in training. Raises BadInput."""
        quiet_libraries()
        from diffusers import DiTTransformer2DModel

        net = load_network(DiTTransformer2DModel, self.path / "transformer", "generator.path")
        if self.timestep_freq_shift is not None:
            for block in net.transformer_blocks:
                block.norm1.emb.time_proj.downscale_freq_shift = self.timestep_freq_shift
        return net

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored weights; float32 where they are of several."""
        file = check_weights(self.path / "transformer", "generator.path")
        kinds = {t.dtype for t in tensors(file, "generator.path").values()}
        return HALF.get(kinds.pop(), torch.float32) if len(kinds) == 1 else torch.float32

    def identity(self) -> dict[str, Any]:
        return {"weights": weights_digest(self.path, FILES, self.texts, "generator.path")}


def network(spec: Generator, placement: Placement, differentiable: bool = False) -> Any:
    """The network that a denoiser asks, loaded and placed. oneDNN's linear layers have no gradients."""
    net = spec.network(placement.device).eval().requires_grad_(False).to(placement.device, placement.dtype)
    if not differentiable and placement.device.type == "cpu" and placement.dtype == torch.float32:
        linear_by_onednn(net)
    return net


class Denoiser:
    """A loaded generator; `net` is given if it is loaded already.

    Call it as diffusion.loop.Denoise; ask its `velocity` as diffusion.flow.Velocity. `..._with_grad` says the same,
    differentiable in x where gradients are recorded, of a `net` that was loaded for that.
    """

    def __init__(
        self,
        spec: Generator,
        placement: Placement,
        cfg_scale: float,
        cfg_channels: Literal["all", "first3"],
        net: Any = None,
    ) -> None:
        self.spec, self.placement, self.cfg_scale = spec, placement, cfg_scale
        self.guided = 3 if cfg_channels == "first3" else spec.latent_shape[0]
        self.net = network(spec, placement) if net is None else net

    @property
    def calls_per_step(self) -> int:
        """Network calls per sample and step: two with classifier-free guidance."""
        return 1 if self.cfg_scale == 1 else 2

    @torch.inference_mode()
    def __call__(self, x_t: Tensor, step: Step, class_index: Tensor) -> Prediction:
        """x_t (B, C, h, w) float32, class_index (B,) int64; what DDPM and DDIM see of the network."""
        return self.with_grad(x_t, step, class_index)

    def with_grad(self, x_t: Tensor, step: Step, class_index: Tensor) -> Prediction:
        out, raw = self._asked(*self.spec.predicts.noised(x_t, step), class_index)
        eps, x0 = self.spec.predicts.estimates(x_t, step, out)
        return Prediction(step, x_t, eps, x0, log_variance(step, raw, eps))

    @torch.inference_mode()
    def velocity(self, x: Tensor, t: float, class_index: Tensor) -> Tensor:
        """v_hat = data - noise, (B, C, h, w), at x = t data + (1 - t) noise: what flows see, diffusion.flow.Velocity.

        Raises ValueError for a t that is not among `spec.predicts.own_times`.
        """
        return self.velocity_with_grad(x, t, class_index)

    def velocity_with_grad(self, x: Tensor, t: float, class_index: Tensor) -> Tensor:
        out, _ = self._asked(*self.spec.predicts.on_path(x, t), class_index)
        return self.spec.predicts.velocity(x, t, out)

    def _asked(self, x: Tensor, timestep: int | float, class_index: Tensor) -> tuple[Tensor, Tensor | None]:
        """The network's answer (B, C, h, w) and its variance channels. CFG: out = null + s (cond - null).

        All that networks predict is affine in eps_hat at a given x, so CFG may come before any conversion.
        """
        channels = x.shape[1]
        if self.calls_per_step == 1:
            answer = self._network(x, timestep, class_index)
            out = answer[:, :channels]
        else:
            null = torch.full_like(class_index, self.spec.null_class)
            both = self._network(torch.cat([x, x]), timestep, torch.cat([class_index, null]))
            answer, other = both.chunk(2)
            out, out_null = answer[:, :channels], other[:, :channels]
            out = torch.cat(
                [
                    out_null[:, : self.guided] + self.cfg_scale * (out[:, : self.guided] - out_null[:, : self.guided]),
                    out[:, self.guided :],
                ],
                dim=1,
            )
        if not torch.isfinite(out).all():
            raise StageFailed(
                f"generator: {self.spec.path} gave a non-finite prediction at t={timestep:g} in "
                f"{self.placement.dtype}; try sample.dtype=float32"
            )
        return out, answer[:, channels:] if self.spec.learned_variance else None

    def _network(self, x: Tensor, t: int | float, labels: Tensor) -> Tensor:
        kind = torch.long if isinstance(t, int) else torch.float32
        times = torch.full((len(x),), t, dtype=kind, device=x.device)
        return self.net(x.to(self.placement.dtype), timestep=times, class_labels=labels).sample.float()
