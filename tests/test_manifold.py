"""ManifoldGD's guidance: against plain float64 transcriptions with D x D matrices, and where the answer is known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from analytic import Mixture, around, batch, noise, prediction, steps
from pydantic import ValidationError
from torch import Tensor

from raydistill.config import GuidanceConfig, ManifoldConfig
from raydistill.diffusion.loop import Batch, sample
from raydistill.diffusion.prediction import Prediction, log_variance, x0_from_eps
from raydistill.diffusion.samplers.ddim import Ddim
from raydistill.diffusion.samplers.ddpm import Ddpm
from raydistill.diffusion.schedule import Step, Window
from raydistill.guidance import ramps
from raydistill.guidance.manifold import Manifold
from raydistill.guidance.mode import Mode
from raydistill.guidance.tangent import nearest, plane
from raydistill.seeding import NoiseKey

CONFIG = GuidanceConfig(scale=0.1, start=1.0, stop=0.5)
FORMS = {"mean": Ddpm, "epsilon": Ddim}
SHAPE = (3, 4, 4)


def guide(form: str = "mean", scale: float = 0.1, stop: float = 0.5, **settings: object):
    return Manifold.make(GuidanceConfig(scale=scale, stop=stop), form, ManifoldConfig(**settings))  # type: ignore[arg-type]


def scene(seed: int, size: int = 4, points: int = 40) -> tuple[Prediction, Batch]:
    """A step in the guided window, with real latents at all distances around each prototype."""
    step = steps(50)[4 + seed]
    x_t, eps, raw = (noise(seed + n, size, SHAPE) for n in (0, 50, 90))
    pred = prediction(step, x_t, eps, 0.3 * raw)
    pred = replace(pred, x0_hat=pred.x0_hat.clamp(-3, 3))
    anchors = noise(seed + 7, size, SHAPE)
    keys = [NoiseKey(seed, "c", i) for i in range(size)]
    return pred, Batch(torch.zeros(size, dtype=torch.long), anchors, keys, {"neighbours": around(anchors, points)})


# ---- plain transcriptions: one sample, float64, the covariance as a matrix ------------------------------------------


def tangent_matrix(points: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the points (K, D) and U U^T (D, D) of the d leading eigenvectors of their covariance."""
    mean = points.mean(0)
    covariance = (points - mean).T @ (points - mean) / (len(points) - 1) + 1e-5 * np.eye(points.shape[1])
    u = np.linalg.eigh(covariance)[1][:, -d:]
    return mean, u @ u.T


def the_release_radius(base: float, growth: float, index: int) -> float:
    """Exponential over the first five of fifty steps, stop at 25."""
    cut = max(25, 49 - 5)
    if index <= cut:
        return base
    p = (index - cut) / (49 - cut)
    return base * (1 + (growth - 1) * (np.exp(p) - 1) / (np.e - 1))


def paper(pred: Prediction, slots: Batch, i: int, config: ManifoldConfig, scale: float, form: str) -> np.ndarray:
    s = pred.step
    c, p = slots.prototype[i].double().numpy().ravel(), slots.context["neighbours"][i].double().flatten(1).numpy()
    x0, x = (t[i].double().numpy().ravel() for t in (pred.x0_hat, pred.x_t))
    a, b = s.alpha_bar**0.5, (1 - s.alpha_bar) ** 0.5
    g = (c - x0) / config.kernel_width**2
    r = np.linalg.norm(c - x0)
    if config.kernel == "laplace":
        g = (c - x0) / (config.kernel_width * r)
    if config.kernel == "imq":
        g = (c - x0) / (r**2 + config.kernel_width**2)
    far = np.linalg.norm(p - c, axis=1)
    limit = the_release_radius(config.radius or 1.0, config.radius_growth, s.index) * np.sort(far)[(len(far) - 1) // 2]
    patch = np.array([row for n, row in enumerate(p) if far[n] <= limit or n < config.nearest])
    key = slots.keys[i]
    if config.noise == "estimate":
        y, at = a * patch, a * x0  # x_t - Y = a (x0_hat - P): the network's noise is on both sides
    elif config.noise == "shared":
        y, at = a * patch + b * draw(key, "manifold", s, ()), x
    else:
        full = draw(key, "manifold", s, (len(p),)).reshape(len(p), -1)
        kept = [n for n in range(len(p)) if far[n] <= limit or n < config.nearest]
        y, at = a * patch + b * full[kept], x
    order = np.argsort(np.linalg.norm(y - at, axis=1))[: config.nearest]
    _, projector = tangent_matrix(y[order], config.tangent_dim)
    w = config.normal_weight
    if config.normal_ramp != "constant":
        w *= ramps.ramp(config.normal_ramp, (0.98 - s.fraction) / (0.98 - 0.5))
    kept = g - w * (g - projector @ g)
    if config.renorm:
        kept = kept * np.linalg.norm(g) / np.linalg.norm(kept)
    if form == "epsilon":
        return -scale * b * kept
    return scale * pred.sigma_t[i].double().numpy().ravel() * kept


def release(pred: Prediction, slots: Batch, i: int, config: ManifoldConfig, scale: float, form: str) -> np.ndarray:
    s, key = pred.step, slots.keys[i]
    c, x0, x = (t[i].double().numpy().ravel() for t in (slots.prototype, pred.x0_hat, pred.x_t))
    a, b = s.alpha_bar**0.5, (1 - s.alpha_bar) ** 0.5
    r = the_release_radius(config.radius or 0.05, config.radius_growth, s.index)
    half = config.cloud // 2
    u = draw(key, "cloud.direction", s, (config.cloud,)).reshape(config.cloud, -1)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    z = draw(key, "cloud.radius", s, (config.cloud - half,)).reshape(config.cloud - half, -1)[:, 0]
    uniform = torch.special.ndtr(torch.from_numpy(z)).numpy()
    rho = np.concatenate([np.linspace(0.1, r, half), r * uniform])
    y = a * (c + rho[:, None] * u) + b * draw(key, "cloud.noise", s, (config.cloud,)).reshape(config.cloud, -1)
    far = np.linalg.norm(y - x, axis=1)
    mean, projector = tangent_matrix(y[np.argsort(far)[: config.nearest]], config.tangent_dim)
    away = (x - mean) - projector @ (x - mean)
    correction = config.correction_scale * np.tanh(far.min() / config.bandwidth) * -away / np.linalg.norm(away)
    if form == "epsilon":  # x0_hat is moved, eps_hat follows
        moved = x0 + scale * (c - x0) + correction
        return (x - a * moved) / b - (x - a * x0) / b
    return scale * pred.sigma_t[i].double().numpy().ravel() * (c - x0) + correction


def draw(key: NoiseKey, purpose: str, s: Step, copies: tuple[int, ...]) -> np.ndarray:
    from raydistill import seeding

    drawn = seeding.normal([key.at(purpose, s.index)], (*copies, *SHAPE))[0].astype(np.float64)
    return drawn if copies else drawn.ravel()


def same(result: Tensor, expected: np.ndarray) -> None:
    size = np.abs(expected).max()
    np.testing.assert_allclose(result.double().numpy().ravel() / size, expected / size, atol=1e-5)


class TestAgainstPlainTranscriptions:
    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"noise": "shared"},
            {"noise": "independent"},
            {"kernel": "laplace"},
            {"kernel": "imq", "kernel_width": 2.0},
            {"normal_ramp": "linear", "renorm": True},
            {"normal_ramp": "cosine", "normal_weight": 0.7, "tangent_dim": 8},
            {"radius": 0.9, "radius_growth": 3.0, "nearest": 20},
        ],
        ids=str,
    )
    def test_the_paper(self, settings: dict, form: str, seed: int) -> None:
        pred, slots = scene(seed)
        config = ManifoldConfig(**settings)
        delta = Manifold.make(CONFIG, form, config).delta(pred, slots)  # type: ignore[arg-type]
        for i in range(4):
            same(delta[i], paper(pred, slots, i, config, 0.1, form))

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("settings", [{}, {"radius": 0.1, "bandwidth": 50.0}, {"correction_scale": 2.0}], ids=str)
    def test_the_release(self, settings: dict, form: str, seed: int) -> None:
        pred, slots = scene(seed)
        config = ManifoldConfig(variant="normal_correction", cloud=40, **settings)
        delta = Manifold.make(CONFIG, form, config).delta(pred.__class__(**vars(pred)), slots)  # type: ignore[arg-type]
        for i in range(4):
            same(delta[i], release(pred, slots, i, config, 0.1, form))


# ---- answers known beforehand ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnAPlane:
    """The denoiser of data N(0, I) within a plane (basis rows, orthonormal) and exactly `height` along the rest."""

    basis: Tensor  # (d, D)
    height: float = 0.0

    def __call__(self, x_t: Tensor, step: Step, class_index: Tensor) -> Prediction:
        x, a, b = x_t.double().flatten(1), step.alpha_bar**0.5, (1 - step.alpha_bar) ** 0.5
        within = x @ self.basis.T @ self.basis
        rest = self.height * (torch.ones_like(x) - torch.ones_like(x) @ self.basis.T @ self.basis)
        x0 = a * within + rest  # the data's variance is 1, so x_t's is too
        eps = ((x - a * x0) / b).view_as(x_t).to(x_t.dtype)
        return Prediction(step, x_t, eps, x0_from_eps(x_t, eps, step), log_variance(step, None, eps))


def flat_world(size: int = 6, d: int = 3, points: int = 40) -> tuple[OnAPlane, Batch, Tensor]:
    """Real latents on a plane, and prototypes off it."""
    dims = int(np.prod(SHAPE))
    basis = torch.linalg.qr(noise(1, dims, (d,)).double())[0].T
    world = OnAPlane(basis)
    real = (noise(2, points, (d,)).double() @ basis).float().view(points, *SHAPE)
    anchors = real[:size] + 0.8 * (noise(3, size, SHAPE))
    order = (real.flatten(1).unsqueeze(0) - anchors.flatten(1).unsqueeze(1)).norm(dim=2).argsort(1)
    keys = [NoiseKey(5, "c", i) for i in range(size)]
    return world, Batch(torch.zeros(size, dtype=torch.long), anchors, keys, {"neighbours": real[order]}), basis


class TestOnAKnownPlane:
    def normal(self, x: Tensor, basis: Tensor) -> Tensor:
        flat = x.double().flatten(1)
        return flat - flat @ basis.T @ basis

    @pytest.mark.parametrize("noise_kind", ["estimate", "shared"])
    @pytest.mark.parametrize("form", FORMS)
    def test_the_shift_has_no_part_normal_to_it(self, form: str, noise_kind: str) -> None:
        world, slots, basis = flat_world()
        step = steps(50)[20]
        pred = replace(world(noise(9, 6, SHAPE), step, slots.class_index), log_variance=torch.zeros(6, *SHAPE))
        delta = guide(form, noise=noise_kind).delta(pred, slots)
        assert self.normal(delta, basis).norm() < 1e-5 * delta.norm()
        plain = Mode(CONFIG, form).delta(pred, slots)  # type: ignore[arg-type]
        assert self.normal(plain, basis).norm() > 0.5 * plain.norm(), "without it there is one"
        along = plain.double().flatten(1) @ basis.T @ basis
        torch.testing.assert_close(delta.double().flatten(1), along, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize(("form", "sampler"), FORMS.items())
    def test_the_normal_part_is_left_to_the_network_and_the_rest_is_pulled(self, form: str, sampler: type) -> None:
        world, slots, basis = flat_world()
        scale = {"mean": 1.0, "epsilon": 0.1}[form]
        guides = (guide(form, scale, stop=0.0), None, Mode(GuidanceConfig(scale=scale, stop=0.0), form))  # type: ignore[arg-type]
        kept, free, torn = (self.normal(sample(world, steps(50)[:35], sampler(), g, slots), basis) for g in guides)
        torch.testing.assert_close(kept, free, rtol=1e-3, atol=1e-3)
        assert (torn - free).norm() > 0.05 * free.norm(), "mode guidance pushes along the normal, on the way"
        kept, free = (sample(world, steps(50), sampler(), g, slots) for g in guides[:2])
        assert self.normal(kept, basis).norm() < 1e-4 * kept.norm(), "it lands on the plane"
        target = slots.prototype.double().flatten(1) @ basis.T @ basis
        near = [(x.double().flatten(1) @ basis.T @ basis - target).norm(dim=1).mean() for x in (kept, free)]
        assert near[0] < 0.7 * near[1], "and along the plane it is nearer to its prototype"

    def test_independent_noise_drowns_the_plane(self) -> None:
        """With a draw of its own for every latent, what spans the tangent is noise while noise is high."""
        world, slots, basis = flat_world()
        pred = replace(world(noise(9, 6, SHAPE), steps(50)[5], slots.class_index), log_variance=torch.zeros(6, *SHAPE))
        delta = guide(noise="independent").delta(pred, slots)
        assert self.normal(delta, basis).norm() > 0.5 * delta.norm()


class TestLimits:
    @pytest.mark.parametrize(("form", "sampler"), FORMS.items())
    @pytest.mark.parametrize("noise_kind", ["estimate", "shared", "independent"])
    def test_unprojected_it_is_mode_guidance_bit_for_bit(self, form: str, sampler: type, noise_kind: str) -> None:
        slots = batch(3, noise(4, 3))
        runs = [
            sample(Mixture((-1.0, 1.0), 0.3, raw=0.2), steps(20), sampler(), g, slots)
            for g in (guide(form, normal_weight=0.0, noise=noise_kind), Mode(CONFIG, form))  # type: ignore[arg-type]
        ]
        assert torch.equal(*runs)

    def test_the_release_without_its_correction_is_mode_guidance(self) -> None:
        pred, slots = scene(1)
        delta = guide(variant="normal_correction", correction_scale=0.0).delta(pred, slots)
        torch.testing.assert_close(delta, Mode(CONFIG, "mean").delta(pred, slots), rtol=0, atol=0)

    @pytest.mark.parametrize("variant", ["tangent_projection", "normal_correction"])
    def test_scale_0_is_no_guidance_bit_for_bit(self, variant: str) -> None:
        for form, sampler in FORMS.items():
            runs = [
                sample(Mixture((-1.0, 1.0), 0.3, raw=0.2), steps(20), sampler(), g, batch(3, 0.7))
                for g in (guide(form, 0.0, variant=variant, cloud=16), None)
            ]
            assert torch.equal(*runs)

    def test_renormalised_the_pull_is_as_long_as_before(self) -> None:
        pred, slots = scene(2)
        pred = replace(pred, log_variance=torch.zeros_like(pred.x_t))
        sizes = [g.delta(pred, slots).flatten(1).norm(dim=1) for g in (guide(renorm=True), Mode(CONFIG, "mean"))]
        torch.testing.assert_close(*sizes)

    def test_identical_latents_leave_no_tangent_and_no_pull(self) -> None:
        pred, slots = scene(3)
        slots = replace(slots, context={"neighbours": slots.see("neighbours")[:, :1].expand(-1, 20, -1, -1, -1)})
        delta, seen = guide().measured(pred, slots)
        assert delta.abs().max() == 0 and torch.isfinite(torch.stack(list(seen.values()))).all()

    def test_the_correction_is_never_longer_than_its_scale(self) -> None:
        pred, slots = scene(4)
        _, seen = guide(variant="normal_correction", correction_scale=0.1).measured(pred, slots)
        assert (seen["correction"] * pred.x_t.flatten(1).norm(dim=1) <= 0.1 + 1e-6).all()


class TestRamps:
    @pytest.mark.parametrize("kind", ["linear", "cosine", "exponential"])
    def test_every_ramp_goes_from_0_to_1(self, kind: str) -> None:
        values = [ramps.ramp(kind, p / 10) for p in range(11)]
        assert values[0] == 0 and values[-1] == pytest.approx(1) and values == sorted(values)
        assert ramps.ramp(kind, -1) == 0 and ramps.ramp(kind, 2) == pytest.approx(1)

    def test_the_radius_is_the_releases_at_every_step(self) -> None:
        for s in steps(50)[:24]:
            radius = ramps.radius("exponential", 0.05, 2.0, 0.1, Window(1.0, 0.5), s)
            assert radius == pytest.approx(the_release_radius(0.05, 2.0, s.index))

    def test_a_weight_grows_from_0_to_its_end_through_the_window(self) -> None:
        window = Window(1.0, 0.5)
        values = [ramps.weight("linear", 0.8, window, s) for s in steps(50) if window.active(s)]
        assert values[0] == 0 and values == sorted(values) and values[-1] == pytest.approx(0.8, abs=0.04)
        assert ramps.weight("constant", 0.8, window, steps(50)[0]) == 0.8


class TestPlane:
    def test_projections_are_those_of_the_covariance_matrix(self) -> None:
        points, v = noise(1, 2, (12, 48)).double(), noise(2, 2, (48,)).double()
        fitted = plane(points, 3)
        for i in range(2):
            mean, projector = tangent_matrix(points[i].numpy(), 3)
            np.testing.assert_allclose(fitted.mean[i], mean, atol=1e-12)
            np.testing.assert_allclose(fitted.tangent(v)[i], projector @ v[i].numpy(), atol=1e-9)
            np.testing.assert_allclose(fitted.normal(v)[i] + fitted.tangent(v)[i], v[i], atol=1e-12)
        torch.testing.assert_close(fitted.tangent(fitted.tangent(v)), fitted.tangent(v))

    def test_points_of_rank_two_explain_all_with_two_directions(self) -> None:
        points = noise(1, 3, (12, 2)).double() @ noise(2, 3, (2, 48)).double()
        torch.testing.assert_close(plane(points, 2).explained, torch.ones(3, dtype=torch.float64))
        torch.testing.assert_close(plane(points, 5).tangent(points[:, 0]), plane(points, 2).tangent(points[:, 0]))

    def test_the_nearest_are_found_among_those_allowed(self) -> None:
        points = torch.arange(6.0).view(1, 6, 1)
        allowed = torch.tensor([[True, True, False, True, True, True]])
        near, far = nearest(points, torch.tensor([[2.1]]), 3, allowed)
        assert near.flatten().tolist() == [3.0, 1.0, 4.0] and far[0, 0].item() == pytest.approx(0.9)


class TestRefused:
    def test_a_tangent_as_large_as_its_points(self) -> None:
        with pytest.raises(ValidationError, match=r"tangent_dim=12 must be below manifold.nearest=12"):
            ManifoldConfig(tangent_dim=12)

    def test_more_points_than_there_are_neighbours(self) -> None:
        with pytest.raises(ValidationError, match=r"nearest=65 is more than manifold.neighbours=64"):
            ManifoldConfig(nearest=65)
        with pytest.raises(ValidationError, match=r"nearest=12 is more than manifold.cloud=8"):
            ManifoldConfig(variant="normal_correction", cloud=8)

    def test_guidance_without_its_neighbours(self) -> None:
        pred, slots = scene(0)
        with pytest.raises(ValueError, match="without 'neighbours' of their classes"):
            guide().delta(pred, replace(slots, context={}))
