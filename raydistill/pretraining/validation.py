"""What is seen of a generator while it trains: its loss on images that it is not trained on, and a grid of samples.

Both are of the averaged weights and take all randomness from keys, so that they leave no trace in the training.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from raydistill.config import Pool, SamplerConfig
from raydistill.diffusion import flow
from raydistill.errors import StageFailed
from raydistill.models.device import mixed, placement
from raydistill.models.vae import Vae, VaeSpec
from raydistill.pretraining.data import TrainingLatents
from raydistill.pretraining.grids import captioned, tiled
from raydistill.pretraining.group import Group
from raydistill.pretraining.objectives import levels
from raydistill.pretraining.tasks import GeneratorTask, normal
from raydistill.seeding import generator

BATCH, STEPS, SHOWN = 64, 20, 16


class Validation:
    """`latents` are of validation images, `sampler` says the scale of classifier-free guidance for the samples.

    `names` are those of the classes, in their order, for the samples' captions.
    """

    def __init__(
        self, task: GeneratorTask, latents: TrainingLatents, vae: VaeSpec, sampler: SamplerConfig, names: Sequence[str]
    ) -> None:
        self.task, self.latents, self.vae, self.sampler, self.names = task, latents, vae, sampler, names

    @torch.no_grad()
    def loss(self, net: nn.Module, group: Group) -> float:
        """Mean loss of every validation image at one noise and level that never change, its class shown.

        Batches are dealt out to the workers; each is the same on any of them, and so is the sum.
        """
        t, count = self.task, len(self.latents)
        batches = range(0, count, BATCH)
        sums = torch.zeros(len(batches), dtype=torch.float64, device=t.device)
        for i in range(group.rank, len(batches), group.count):
            rows = np.arange(batches[i], min(batches[i] + BATCH, count))
            rng = generator("pretrain", "validation", i)
            level = levels(rng, len(rows), t.config.time)
            noise = normal(rng, (len(rows), *self.latents.values.shape[1:]), slice(None), t.device)
            sums[i] = t.of(net, self.latents, rows, level, np.zeros(len(rows), bool), noise).double().sum()
        return float(group.total(sums).sum()) / count

    @torch.no_grad()
    def grid(self, net: nn.Module) -> np.ndarray:
        """One sample a class and its name, of 16 classes at most, as one picture: uint8 (H, W, 3).

        The noise never changes.
        """
        t = self.task
        labels = t.labels[:SHOWN].to(t.device)
        rng = generator(t.seed, "pretrain", "samples")
        noise = normal(rng, (len(labels), *self.latents.values.shape[1:]), slice(None), t.device)
        pool = Pool(threads=t.config.threads, device="cuda" if t.device.type == "cuda" else "cpu", dtype="float32")
        vae = Vae(self.vae, placement(pool))
        images = vae.decode(self.sampled(net, noise, labels) / t.scale).numpy()
        return tiled(captioned(images, self.names[:SHOWN]))

    def sampled(self, net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        """Noise (B, C, h, w) -> samples in generator space, by Euler's method as a flow (of diffusion models: DDIM)."""
        predicts = self.task.origin.predicts
        for step in flow.path(STEPS, 0.0, predicts.own_times):
            out = self.guided(net, *predicts.on_path(x, step.t), labels)
            x = x + (step.t_next - step.t) * predicts.velocity(x, step.t, out)
        if not torch.isfinite(x).all():
            raise StageFailed("pretrain: the samples are not finite; lower pretrain.lr")
        return x

    def guided(self, net: nn.Module, x: Tensor, timestep: int | float, labels: Tensor) -> Tensor:
        """The network's answer with classifier-free guidance, without its variance."""
        channels, scale = x.shape[1], self.sampler.cfg_scale
        act = 3 if self.sampler.cfg_channels == "first3" else channels
        null = torch.full_like(labels, self.task.origin.null)
        kind = torch.long if isinstance(timestep, int) else torch.float32
        times = torch.full((2 * len(x),), timestep, dtype=kind, device=x.device)
        with mixed(self.task.config.dtype, self.task.device):
            both = net(torch.cat([x, x]), timestep=times, class_labels=torch.cat([labels, null])).sample
        out, free = both.float()[:, :channels].chunk(2)
        return torch.cat([(free + scale * (out - free))[:, :act], out[:, act:]], dim=1)
