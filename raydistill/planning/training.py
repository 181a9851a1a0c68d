"""generator.path=train in a plan: what training a generator, and its VAE, takes before the run that asks it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from raydistill.config import Config
from raydistill.distributed.resources import Reservation
from raydistill.planning.facts import Facts
from raydistill.planning.load import StageLoad
from raydistill.planning.networks import bytes_of
from raydistill.planning.sizes import PROCESS

BACKWARD = 3  # a step of training over a pass forward: twice as much again for the way back
STATE = 5  # of the bytes of a network: weights and their average, gradients, Adam's two moments


def pretraining(config: Config, facts: Facts, gpus: bool) -> Iterator[StageLoad]:
    """Every worker holds all images or latents, and takes a GPU if there are any. Validation is not counted."""
    p, n = config.pretrain, facts.images.train
    visits, half = p.steps * p.batch, bytes_of(facts.shape, 2)
    for target in facts.trained:
        net, kind, once = facts.decode, "train", {"read": float(n)}
        flops = facts.encode.flops + facts.decode.flops
        if target == "generator":
            assert facts.denoise is not None
            net, once, flops = facts.denoise, {"table": float(n * half)}, facts.denoise.flops
            kind = "train" if p.dtype == "float32" else "denoise"
        yield StageLoad(
            f"pretrain {target}", p.steps, "steps", p.workers, "fit",
            costs={kind: BACKWARD * visits * flops},
            once=once,
            calls=p.steps * p.workers,
            read_once=n * (facts.images.bytes if target == "vae" else half),
            written=net.weights,
            memory=PROCESS + STATE * net.weights + -(-p.batch // p.workers) * net.kept + n * half,
            pool=Reservation("pretrain", p.workers, 1.0, float(gpus), "auto", "workers"),
            threads=p.threads,
            gang=True,
            segments=max(1, math.ceil(p.steps / p.checkpoint_every)),
        )  # fmt: skip
