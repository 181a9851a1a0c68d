"""How long a training will take on this machine: some of its very steps, on noise, before anything is written."""

from __future__ import annotations

import numpy as np
import torch

from raydistill.config import Config
from raydistill.pretraining.data import TrainingLatents
from raydistill.pretraining.origin import Origin
from raydistill.pretraining.tasks import GeneratorTask, VaeTask
from raydistill.pretraining.trainer import Trainer

TIMED = 3  # steps, of which the fastest counts
MEASURED = 8  # images a step on a CPU, where time grows with their number; a GPU is shown the whole batch


def seconds(config: Config, classes: int, origin: Origin | None = None, latent_shape: tuple[int, ...] = ()) -> float:
    """Of all steps that section pretrain asks for, by one worker; `origin` and (C, h, w) are a generator's."""
    p, device = config.pretrain, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = p.batch if device.type == "cuda" else min(p.batch, MEASURED)
    shown = config.model_copy(update={"pretrain": p.model_copy(update={"batch": count})})
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(p.threads)
        trainer = Trainer(_task(shown, classes, origin, latent_shape, device), p.steps, p.lr, p.ema)
        times = []
        for _ in range(1 + TIMED):
            until_now = trainer.seconds
            trainer.advance()
            times.append(trainer.seconds - until_now)
        return min(times[1:]) * p.batch / count * p.steps  # the first one makes what the others use
    finally:
        torch.set_num_threads(before)


def _task(
    config: Config, classes: int, origin: Origin | None, latent_shape: tuple[int, ...], device: torch.device
) -> VaeTask | GeneratorTask:
    p, side, rng = config.pretrain, config.source.image_size, np.random.default_rng(0)
    if origin is None:
        pixels = rng.integers(0, 256, (p.batch, side, side, 3), dtype=np.uint8)
        return VaeTask(p, config.seed, torch.from_numpy(pixels), device)
    values = rng.standard_normal((p.batch, *latent_shape)).astype(np.float16)
    labels = np.arange(p.batch) % classes
    channels, height, width = latent_shape
    net = origin.network(config, (channels, height, width))
    latents = TrainingLatents(values, labels, np.arange(p.batch))
    return GeneratorTask(p, config.seed, origin, net, latents, torch.arange(classes), device)
