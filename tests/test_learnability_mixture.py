"""Learnability guidance of a mixture of normals, by linear classifiers: its score and its gradients in closed form.

No derivative here is autograd's: how the expected image moves with x_t is its variance given x_t (Tweedie), and of a
linear classifier the loss is a softplus of the mean of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from analytic import SHAPE, Linear, Mixture, Painter, batch, noise, steps
from torch import Tensor
from torch.nn.functional import softplus

from raydistill.config import GuidanceConfig
from raydistill.diffusion import flow
from raydistill.diffusion.prediction import FlowPrediction, Prediction
from raydistill.guidance.learnability import CURRENT, REFERENCE, Learnability, LearnabilityConfig
from raydistill.guidance.networks import Networks

STD, MEANS = 0.4, (-1.0, 0.3, 1.1)
DATA = Mixture(MEANS, STD)
SLOPES = {CURRENT: 1.0, REFERENCE: -2.0}
SIZE, PAINTED = 3, 3  # samples, and channels of a latent that are seen


@dataclass(frozen=True)
class Scene:
    """x_t = a image + b noise, and what the generator says of it."""

    pred: Prediction | FlowPrediction
    a: float
    b: float

    @property
    def image(self) -> Tensor:
        return self.pred.x1_hat if isinstance(self.pred, FlowPrediction) else self.pred.x0_hat

    @property
    def estimate(self) -> Tensor:
        return self.pred.v_hat if isinstance(self.pred, FlowPrediction) else self.pred.eps_hat

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of the image given x_t, entry by entry, by Bayes' rule."""
        x, a, b = self.pred.x_t, self.a, self.b
        v = a**2 * STD**2 + b**2
        share = torch.stack([(-((x - a * m) ** 2) / (2 * v)).exp() for m in MEANS])
        share = share / share.sum(0)
        means = torch.stack([m + a * STD**2 / v * (x - a * m) for m in MEANS])
        mean = (share * means).sum(0)
        return mean, STD**2 * b**2 / v + (share * (means - mean) ** 2).sum(0)

    def jacobian(self) -> Tensor:
        """d E[image | x_t] / d x_t, which is diagonal."""
        return self.a / self.b**2 * self.moments()[1]


def scene(kind: str) -> Scene:
    x, of = noise(0, SIZE).double(), torch.zeros(SIZE, dtype=torch.long)
    if kind == "flow":
        step = flow.path(50)[19]
        return Scene(FlowPrediction(step, step.t, x, DATA.velocity(x, step.t, of)), step.t, 1 - step.t)
    s = steps(50)[19]
    return Scene(DATA(x, s, of), s.alpha_bar**0.5, (1 - s.alpha_bar) ** 0.5)


def guide(kind: str, omega: float = 0.5, **settings: Any) -> Learnability:
    settings = {"repulsion": 0.0, "clip": None, "omega": omega} | settings
    guidance = Learnability(
        GuidanceConfig(), "velocity" if kind == "flow" else "epsilon", LearnabilityConfig.model_validate(settings)
    )
    judges = {role: Linear(k) for role, k in SLOPES.items()}
    guidance.bind(Networks(1.0, ["c"], Painter(), judges, DATA))  # type: ignore[arg-type]
    return guidance


def by_hand(image: Tensor, omega: float) -> tuple[Tensor, Tensor]:
    """S (B,) of images (B, C, h, w) and its gradient in them: L = log(1 + exp(-k m)), m the mean of what is seen."""
    m = image[:, :PAINTED].mean(dim=(1, 2, 3))
    current, reference = (softplus(-k * m) for k in SLOPES.values())
    steep = [-k / (1 + (k * m).exp()) for k in SLOPES.values()]
    of_mean = (steep[0] - omega * steep[1]).view(-1, 1, 1, 1)
    slope = torch.zeros_like(image)
    slope[:, :PAINTED] = of_mean / (PAINTED * SHAPE[1] * SHAPE[2])
    return current - omega * reference, slope


kinds = pytest.mark.parametrize("kind", ["diffusion", "flow"])
omegas = pytest.mark.parametrize("omega", [0.0, 0.5, 1.0])


@kinds
def test_the_image_that_is_predicted_is_the_mean_given_x_t(kind: str) -> None:
    at = scene(kind)
    torch.testing.assert_close(at.image, at.moments()[0], rtol=1e-10, atol=1e-12)


@omegas
@kinds
def test_by_default_the_score_and_its_gradient_are_those_of_that_mean(kind: str, omega: float) -> None:
    """The noise estimate counts as constant."""
    at = scene(kind)
    value, slope = guide(kind, omega).score(at.image, batch(SIZE))
    expected, by_image = by_hand(at.moments()[0], omega)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(slope, by_image, rtol=1e-10, atol=1e-14)


@omegas
@kinds
def test_through_the_generator_the_gradient_is_the_jacobians(kind: str, omega: float) -> None:
    """In x_t, by the chain rule; of diffusion times sqrt(alpha_bar), by which the default counts it too."""
    at = scene(kind)
    value, slope = guide(kind, omega, through_denoiser=True).score_through(at.pred, batch(SIZE))
    expected, by_image = by_hand(at.moments()[0], omega)
    unit = 1.0 if kind == "flow" else at.a
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(slope, unit * at.jacobian() * by_image, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("through", [False, True])
@kinds
def test_what_is_added_is_the_closed_form_as_well(kind: str, through: bool) -> None:
    """0.2 |estimate| along the gradient, up the score: against the noise estimate, with the velocity."""
    at = scene(kind)
    delta, seen = guide(kind, scale=0.2, through_denoiser=through).measured(at.pred, batch(SIZE))
    way = by_hand(at.moments()[0], 0.5)[1] * (at.jacobian() if through else 1.0)
    way = way / length(way) * 0.2 * length(at.estimate)
    torch.testing.assert_close(delta, way if kind == "flow" else -way, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(seen["score"], by_hand(at.moments()[0], 0.5)[0], rtol=1e-10, atol=1e-12)


def length(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
