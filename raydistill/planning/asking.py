"""What a sampling plan asks of networks for an image: the generator, and the classifiers by which guidance leads it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from raydistill.diffusion.flow import Field
from raydistill.diffusion.flow import path as flow_path
from raydistill.diffusion.loop import Batch
from raydistill.diffusion.schedule import alphas_bar
from raydistill.diffusion.schedule import path as diffusion_path
from raydistill.methods.resolve import GuidancePlan, SamplingPlan, Variant
from raydistill.models.checkpoint import read_config
from raydistill.models.generator import Generator
from raydistill.models.parametrisation import DIT_BETAS
from raydistill.planning import networks
from raydistill.planning.facts import Facts
from raydistill.planning.networks import NetworkCost
from raydistill.seeding import NoiseKey

GRADIENT = 2  # passes of a network that is asked for a gradient in its input: forwards and backwards


def passes(plan: SamplingPlan) -> int:
    """Images that the network sees of one: classifier-free guidance doubles the batch."""
    return 1 if plan.sampler.cfg_scale == 1 else 2


def evaluations(plan: SamplingPlan, generator: Generator | None) -> int:
    """How often the generator is asked for an image, guidance included, not counting both halves of classifier-free
    guidance. Of an adaptive sampler the fewest."""
    steps, guide = timesteps(plan, generator), plan.make_guidance()
    if not plan.flows:
        return len(steps) + (0 if guide is None else sum(guide.calls_at(step) for step in steps))
    batch = Batch(torch.zeros(1, dtype=torch.long), torch.zeros(1, 1, 1, 1), [NoiseKey(0, "", 0)])
    field, sampler = Field(lambda x, t, c: torch.zeros_like(x), None, batch), plan.make_sampler()
    x = torch.zeros(1, 1, 1, 1)
    for step in steps:
        x = sampler.step(field, x, step)
    of_guidance = 0 if guide is None else sum(guide.calls_at(s) for s in steps if guide.window.active(s))
    return int(field.calls[0]) + of_guidance


def timesteps(plan: SamplingPlan, generator: Generator | None) -> Sequence[Any]:
    """The steps of a sampler; without a generator, whose schedule decides, those of DiT's."""
    if plan.flows:
        if generator is None:
            return flow_path(plan.steps, plan.start.time)
        return generator.times(plan.steps, plan.start.time, plan.sampler.grid)
    if generator is None:
        return diffusion_path(alphas_bar(DIT_BETAS), plan.sampler.grid, plan.steps, plan.start)
    return generator.steps(plan.sampler.grid, plan.steps, plan.start)


def led(
    v: Variant, facts: Facts, judges: Mapping[str, NetworkCost], of_latents: Collection[str] = ()
) -> tuple[dict[str, float], float]:
    """FLOPs by kind that guidance adds to an image, and bytes of a worker that it asks for: the classifiers by which it
    leads, what decodes for them, and what one of them holds for its gradients.

    `judges` are those of a curriculum, by role; the roles `of_latents` see no images. How many images a guidance has in
    memory at once, whether it goes forwards once more to hold less, and how much smaller what it decodes is, its
    section says by the keys `micro_batch`, `checkpointing` and `shrink` where it has them; otherwise it is a batch, it
    does not, and it is the whole image.
    """
    plan, nets = v.sampling, {**facts.guiding, **judges}
    assert plan is not None
    costs, held = {"decode": 0.0, "teach": 0.0, "denoise": 0.0}, 0.0
    for g in plan.acting:
        steps = sum(g.window.active(step) for step in timesteps(plan, facts.generator))
        if g.roles:
            there_and_back = GRADIENT + bool(getattr(g.settings, "checkpointing", False))
            costs["teach"] += there_and_back * steps * sum(nets[role].flops for role in g.roles)
            if not set(g.roles) <= set(of_latents):
                decode = _decoder(g, v.config.source.image_size) if g.decoder is not None else facts.decode
                share = 1 / (getattr(g.settings, "shrink", None) or 1) ** 2
                costs["decode"] += there_and_back * steps * share * decode.flops
                at_once = getattr(g.settings, "micro_batch", None) or v.config.sample.batch
                held = max(held, at_once * share * decode.kept)
        if g.differentiates and facts.denoise is not None:  # the way there is among the sampler's calls
            costs["denoise"] += (GRADIENT - 1) * steps * passes(plan) * facts.denoise.flops
    return costs, held + sum(nets[role].weights for role in plan.roles)


def _decoder(g: GuidancePlan, image_size: int) -> NetworkCost:
    assert g.decoder is not None
    config = read_config(Path(g.decoder).expanduser() / "config.json", f"{g.name}.decoder")
    return networks.of_vae(config, image_size)[1]
