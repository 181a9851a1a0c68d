"""What generators learn: closed forms of each loss, levels of noise, and latents put in order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from latents import CLASSES, generator_task, random_latents, training_latents
from scipy import stats

from raydistill.config import SourceConfig
from raydistill.errors import StageFailed
from raydistill.models.parametrisation import OfFlow
from raydistill.pretraining.data import TrainingLatents, held_for_validation
from raydistill.pretraining.objectives import levels, objective
from raydistill.pretraining.origin import from_scratch
from raydistill.sources.digits import Digits

COUNT = 20_000


def learned(name: str):
    origin = from_scratch(name, CLASSES)
    return objective(origin.predicts, origin.learned_variance)


def drawn(count: int, deviation: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian data and noise, (count, 1, 2, 2)."""
    draw = torch.Generator().manual_seed(1)
    z, noise = torch.randn(2, count, 1, 2, 2, generator=draw)
    return deviation * z, noise


@pytest.mark.parametrize("name", ["epsilon", "v", "flow"])
def test_a_perfect_prediction_has_no_loss(name):
    z, noise = drawn(5)
    level = torch.tensor([0.0, 0.1, 0.5, 0.9, 0.9999], dtype=torch.float64)
    it = learned(name)
    if name == "flow":
        out = noise - z
    else:
        t = (level * 1000).long()
        a = torch.from_numpy(np.sqrt(it.predicts.alphas_bar)).float()[t].reshape(-1, 1, 1, 1)
        s = (1 - a.square()).sqrt()
        out = noise if name == "epsilon" else a * noise - s * z
        if name == "epsilon":
            out = torch.cat([out, -torch.ones_like(out)], dim=1)  # the posterior's own variance
            level, z, noise, out = level[1:], z[1:], noise[1:], out[1:]  # at t = 0 a likelihood is left
    assert torch.allclose(it.loss(out, z, noise, level), torch.zeros(len(z)), atol=1e-5)


@pytest.mark.parametrize("deviation", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("level", [0.05, 0.4, 0.8])
def test_the_best_predictor_on_gaussian_data_has_the_loss_of_the_closed_form(deviation, level):
    """E[target | x] of jointly Gaussian target and x leaves Var(target) - Cov(target, x)^2 / Var(x)."""
    z, noise = drawn(COUNT, deviation)
    at = torch.full((COUNT,), level, dtype=torch.float64)
    for name in ("flow", "v"):
        it = learned(name)
        x, _ = it.shown(z, noise, at)
        if name == "flow":
            a, s, target = 1 - level, level, (-1.0, 1.0)
        else:
            a = float(np.sqrt(it.predicts.alphas_bar[int(1000 * level)]))
            s = math.sqrt(1 - a * a)
            target = (-s, a)
        var_x = a * a * deviation**2 + s * s
        cov = target[0] * a * deviation**2 + target[1] * s
        best = cov / var_x * x
        left = target[0] ** 2 * deviation**2 + target[1] ** 2 - cov**2 / var_x
        assert it.loss(best, z, noise, at).mean().item() == pytest.approx(left, rel=0.02)


def test_a_flow_is_told_its_time_and_shown_the_straight_path():
    it = learned("flow")
    z, noise = drawn(3)
    x, told = it.shown(z, noise, torch.tensor([0.0, 0.25, 0.75], dtype=torch.float64))
    assert told.tolist() == [0.0, 250.0, 750.0] and told.dtype == torch.float32
    assert torch.equal(x[0], z[0]) and torch.allclose(x[1], 0.75 * z[1] + 0.25 * noise[1])
    sit = objective(OfFlow(1, 0, np.ones(1)), False)
    assert sit.shown(z, noise, torch.tensor([0.0, 0.25, 0.75], dtype=torch.float64))[1].tolist() == [1.0, 0.75, 0.25]
    assert sit.loss(z - noise, z, noise, torch.zeros(3)).abs().max() == 0


@pytest.mark.parametrize("name", ["epsilon", "v", "flow"])
def test_what_is_learned_is_what_samplers_read(name):
    """The true answer, read by the parametrisation, is the velocity from the noise to the data."""
    it = learned(name)
    z, noise = drawn(1)
    level = 0.3
    x, _ = it.shown(z, noise, torch.tensor([level], dtype=torch.float64))
    if name == "flow":
        answer, t, path = noise - z, 1 - level, x
    else:
        a = math.sqrt(it.predicts.alphas_bar[300])
        s = math.sqrt(1 - a * a)
        answer, t, path = (noise if name == "epsilon" else a * noise - s * z), it.predicts.own_times[300], x / (a + s)
    assert torch.allclose(it.predicts.velocity(path, float(t), answer), z - noise, atol=1e-5)


def test_levels_take_one_from_each_part_of_their_distribution():
    rng = np.random.default_rng(0)
    even = levels(rng, 1000, "uniform")
    assert (np.floor(even * 1000) == np.arange(1000)).all()
    middle = levels(rng, 1000, "logit_normal")
    u = stats.norm.cdf(np.log(middle / (1 - middle)))
    assert (np.abs(u - (np.arange(1000) + 0.5) / 1000) < 0.001).all()
    assert min(levels(rng, 7, "logit_normal")) >= 0 and max(levels(rng, 7, "uniform")) < 1


def test_bfloat16_changes_the_arithmetic_and_not_the_weights():
    full, half = generator_task(), generator_task("pretrain.dtype=bfloat16")
    for task in (full, half):
        with torch.no_grad():
            task.net.proj_out_2.weight.normal_(generator=torch.Generator().manual_seed(0))
    a, b = full.loss(0), half.loss(0)
    assert a.item() != b.item() and a.item() == pytest.approx(b.item(), rel=0.05)
    assert b.dtype == torch.float32 and all(p.dtype == torch.float32 for p in half.net.parameters())


# ---- latents -------------------------------------------------------------------------------------------------------


def batches(latents: TrainingLatents, cuts: list[int]) -> list[dict[str, np.ndarray]]:
    rows = np.split(np.arange(len(latents)), cuts)
    names = np.array([f"image-{i:03d}" for i in range(len(latents))], dtype=object)
    return [{"image_id": names[r], "class_index": latents.classes[r], "latent": latents.values[r]} for r in rows]


def test_latents_come_in_any_order_and_any_pieces():
    whole = random_latents()
    there = TrainingLatents.collect(batches(whole, [3, 11]), 20)
    back = TrainingLatents.collect(reversed(batches(whole, [7, 8, 15])), 20)
    rows = np.array([19, 0, 7, 7])
    for a, b, c in zip(whole.take(rows), there.take(rows), back.take(rows), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert there.deviation() == back.deviation() == pytest.approx(whole.values.astype(np.float64).std(), rel=1e-12)
    with pytest.raises(StageFailed, match="16 of 20 latents"):
        TrainingLatents.collect(batches(whole, [16])[:1], 20)


def test_the_network_sees_latents_of_unit_deviation():
    latents = training_latents(3.0 * np.random.default_rng(0).standard_normal((50, 2, 4, 4)), np.arange(50) % 3)
    task = generator_task(latents=latents)
    assert task.facts["latent_scale"] == task.scale == pytest.approx(1 / 3, rel=0.05)
    assert (latents.values.astype(np.float64) * task.scale).std() == pytest.approx(1.0)


def test_validation_takes_all_of_a_small_split_and_the_same_sample_of_a_large_one(monkeypatch):
    listing = Digits(SourceConfig()).list("val")
    assert held_for_validation(listing).digest == listing.digest
    monkeypatch.setattr("raydistill.pretraining.data.VALIDATION", 100)
    few = held_for_validation(listing)
    assert len(few) == 100 and few.digest == held_for_validation(listing).digest
    assert len(set(few.labels.tolist())) == 10
