"""Validation losses and sample grids: of fixed noise, the same on any number of workers, without a trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from latents import generator_task, random_latents, tiny, training_latents

from raydistill.models.vae import VaeSpec
from raydistill.pretraining.grids import GAP, LEGIBLE, STRIP, captioned, tiled
from raydistill.pretraining.group import Group
from raydistill.pretraining.tasks import GeneratorTask
from raydistill.pretraining.trainer import NonFiniteLoss, Trainer
from raydistill.pretraining.validation import Validation

SHAPE = (4, 8, 8)  # of the packaged VAE
NAMES = ("tench", "an English springer of many words", "\x1b[2J")


def validation(*overrides: str, count: int = 150) -> tuple[GeneratorTask, Validation]:
    task = generator_task(*overrides, latents=random_latents(12, SHAPE))
    return task, Validation(task, random_latents(count, SHAPE, seed=9), VaeSpec(None), tiny().sampler, NAMES)


class Share(Group):
    """A worker that sums with nobody: its own part of the sums."""

    def total(self, values: torch.Tensor) -> torch.Tensor:
        return values


def test_a_network_that_answers_zero_has_the_mean_square_of_the_noise():
    """Untrained networks answer zero (their last layer is); v of unit data and noise has mean square 2 for a flow."""
    task, it = validation("generator.objective=flow", count=640)
    assert it.loss(task.net, Group()) == pytest.approx(2.0, rel=0.02)


def test_workers_share_the_batches_and_agree():
    task, it = validation()
    parts = [it.loss(task.net, Share(rank, 2)) for rank in range(2)]
    assert min(parts) > 0 and sum(parts) == pytest.approx(it.loss(task.net, Group()), rel=1e-12)


def test_the_last_batch_counts_as_much_as_its_images():
    task, _ = validation()
    one, two = random_latents(64, SHAPE, seed=1), random_latents(3, SHAPE, seed=2)
    both = training_latents(np.concatenate([one.values, two.values]), np.concatenate([one.classes, two.classes]))
    whole, first = (
        Validation(task, x, VaeSpec(None), tiny().sampler, NAMES).loss(task.net, Group()) for x in (both, one)
    )
    assert abs(whole * 67 - first * 64) < 3 * 10, "what is left is the loss of three images"


@pytest.mark.parametrize("objective", ["epsilon", "v", "flow"])
def test_looking_leaves_no_trace_in_the_training(objective):
    def run(look: bool) -> list[float]:
        task, it = validation(f"generator.objective={objective}", count=10)
        trainer = Trainer(task, 3, 1e-2, 0.5)
        while trainer.step < 3:
            trainer.advance()
            if look:
                trainer.validated(it.loss(trainer.ema.net, Group()))
                assert it.grid(trainer.ema.net).shape == (226, 194, 3)
        return [*trainer.losses, float(sum(p.double().sum() for p in trainer.ema.net.parameters()))]

    state = torch.get_rng_state()
    assert run(True) == run(False)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_grid_is_the_same_whenever_it_is_drawn():
    task, it = validation("generator.objective=flow", count=4)
    assert np.array_equal(it.grid(task.net), it.grid(task.net))


@pytest.mark.parametrize("objective", ["epsilon", "v", "flow"])
def test_samples_of_the_best_predictor_of_one_point_are_that_point(objective):
    """Data that are one point x_0 leave nothing to guess: noise and velocity follow from what is shown."""
    task, it = validation(f"generator.objective={objective}", count=4)
    x0 = torch.linspace(-1, 1, 256).reshape(1, *SHAPE)

    class Net(torch.nn.Module):
        def forward(self, x, timestep, class_labels):
            if objective == "flow":
                sigma = timestep.reshape(-1, 1, 1, 1) / 1000
                answer = (x - (1 - sigma) * x0) / sigma - x0
            else:
                a = torch.from_numpy(np.sqrt(task.origin.predicts.alphas_bar)).float()[timestep].reshape(-1, 1, 1, 1)
                s = (1 - a * a).sqrt()
                eps = (x - a * x0) / s
                answer = eps if objective == "epsilon" else a * eps - s * x0
            return type("Out", (), {"sample": answer})

    noise = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(it.sampled(Net(), noise, task.labels), x0.expand(3, -1, -1, -1), atol=1e-3)


def test_a_caption_is_legible_and_no_wider_than_its_image():
    small, large = (
        captioned(np.zeros((3, 32, 32, 3), np.uint8), NAMES),
        captioned(np.zeros((1, 200, 200, 3)), NAMES[:1]),
    )
    assert small.shape == (3, LEGIBLE + STRIP, LEGIBLE, 3) and large.shape == (1, 200 + STRIP, 200, 3)
    written = [np.flatnonzero((strip < 128).any(axis=(0, 2))) for strip in small[:, LEGIBLE:]]
    assert all(len(columns) > 10 and columns[0] > 0 and columns[-1] < LEGIBLE - 1 for columns in written)
    assert len(written[0]) < len(written[1]), "a longer name takes more room"
    assert (small[:, :LEGIBLE] == 0).all(), "no image is written on"


def test_a_grid_is_nearly_square_and_in_order():
    images = np.stack([np.full((4, 4, 3), i, np.uint8) for i in range(5)])
    page = tiled(images)
    assert page.shape == (2 * 4 + GAP, 3 * 4 + 2 * GAP, 3)
    assert page[0, 0, 0] == 0 and page[0, -1, 0] == 2 and page[-1, 0, 0] == 3 and page[-1, -1, 0] == 255


def test_a_validation_loss_that_is_none_stops_the_training():
    trainer = Trainer(generator_task(), 6, 1e-3, 0.9)
    with pytest.raises(NonFiniteLoss, match="validation loss nan after step 0 of 6"):
        trainer.validated(float("nan"))
