"""A training of weights as people follow it: with news, costs, a log and metrics, as a run has them."""

from __future__ import annotations

from pathlib import Path

from raydistill.config import Config
from raydistill.distributed.pretrain import job
from raydistill.models.checkpoint import WORK
from raydistill.pipeline.heard import heard
from raydistill.pretraining.leftovers import forget_news
from raydistill.store.location import Location


def pretrain(config: Config) -> str:
    """Trains what `config.pretrain` asks for and returns its directory. Raises as `distributed.pretrain.job` does.

    What is told of it lies beside its checkpoints, and goes with them when it is finished.
    """
    p = config.pretrain
    if p.out is None or "://" in p.out:
        return job.pretrain(config)  # which refuses it
    work = Location.of(p.out) / WORK
    with heard(work, title=f"training of a {'VAE' if p.target == 'vae' else p.target}"):
        out = job.pretrain(config)
    forget_news(Path(out))  # what was told last
    return out
