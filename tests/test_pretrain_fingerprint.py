"""Nothing that decides what a pretraining gives is missing from its fingerprint."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
from changes import Log, others, recording
from latents import random_latents, tiny

from raydistill.config import Config
from raydistill.errors import BadInput
from raydistill.pretraining.plan import make_plan
from raydistill.pretraining.trainer import Trainer

ELSEWHERE = {"source.path", "source.kind", "source.max_broken"}  # where things lie, and what is refused


@pytest.mark.parametrize("target", ["vae", "generator"])
@pytest.mark.parametrize("more", [(), ("pretrain.workers=2",)])
def test_every_key_that_a_training_reads_is_in_its_fingerprint(
    target: str, more: tuple[str, ...], tmp_path: Path
) -> None:
    """A step of the very network: some other value of each key that was read gives another fingerprint."""
    config = tiny(f"pretrain.out={tmp_path / 'out'}", f"pretrain.target={target}", "source.classes=[0,1,2]", *more)
    plan, log = make_plan(config), Log()
    recorded = replace(plan, config=recording(plan.config, log))
    assert recorded.fingerprint == plan.fingerprint
    log.keys = set()
    latents = random_latents(shape=plan.latent_shape) if plan.vae else None
    task = recorded.vae_task("cpu", print) if latents is None else recorded.generator_task(latents, "cpu")
    p = recorded.config.pretrain
    Trainer(task, p.steps, p.lr, p.ema).advance()
    read = {k for k in log.keys if "." in k or k == "seed"} - ELSEWHERE
    assert {"seed", "pretrain.batch", "pretrain.lr"} <= read
    unseen = [key for key in sorted(read) if not told_apart(config, key, plan.fingerprint)]
    assert not unseen, f"pretrain reads {unseen}, of which its fingerprint knows nothing"


def told_apart(config: Config, key: str, fingerprint: str) -> bool:
    """Whether some other value of the key gives another fingerprint, or all are refused."""
    prints = set()
    for other in others(config, key):
        with contextlib.suppress(BadInput):  # sizes that cannot work, or a key that goes with others
            prints.add(make_plan(other).fingerprint)
    return prints != {fingerprint}
