"""Learnability guidance: score and gradients in closed form, where it pushes, how far, and beside other guidance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from analytic import SHAPE, Linear, Mixture, Painter, batch, flow_prediction, noise, prediction, steps
from pydantic import ValidationError
from samples import write_student
from tiny_run import config
from torch import Tensor

from raydistill.config import GuidanceConfig
from raydistill.diffusion import flow
from raydistill.diffusion.loop import Batch, measured, sample
from raydistill.diffusion.prediction import FlowPrediction, Prediction
from raydistill.diffusion.samplers.ddpm import Ddpm
from raydistill.errors import BadInput
from raydistill.guidance.combined import Combined
from raydistill.guidance.learnability import (
    CURRENT,
    MEMORY,
    REFERENCE,
    Learnability,
    LearnabilityConfig,
    learnability,
    nearest,
)
from raydistill.guidance.mode import Mode
from raydistill.guidance.networks import Networks
from raydistill.methods.resolve import GuidancePlan, resolve
from raydistill.models.classifier import Classifier, ClassifierSpec
from raydistill.models.denoiser import Denoiser, GeneratorSpec, network
from raydistill.models.device import Placement
from raydistill.models.latent_classifier import LatentClassifier, LatentClassifierSpec, LatentNet
from raydistill.models.vae import Vae, VaeSpec
from raydistill.store.artifact import Artifact
from raydistill.store.location import Location
from raydistill.store.sealed import Sealed

EXACT = Placement(torch.device("cpu"), torch.float64, "cpu/float64")
STEP = steps(50)[19]  # index 30
DATA = Mixture((-1.0, 1.0), 0.3, raw=0.2)


BOTH, LATENT = (CURRENT, REFERENCE), (4, 8, 8)


class Constant:
    """A generator whose estimate does not depend on x."""

    def __init__(self, pred: Prediction | FlowPrediction) -> None:
        self.pred = pred

    def with_grad(self, x: Tensor, step: Any, class_index: Tensor) -> Prediction:
        assert isinstance(self.pred, Prediction)
        return prediction(step, x, self.pred.eps_hat)

    def velocity_with_grad(self, x: Tensor, t: float, class_index: Tensor) -> Tensor:
        assert isinstance(self.pred, FlowPrediction)
        return self.pred.v_hat


def guide(
    space: str = "epsilon", current: float = 1.0, reference: float = -2.0, sees: str = "pixel", **settings: Any
) -> Learnability:
    """Bound to linear classifiers that disagree, and see pixels or latents."""
    settings = {"repulsion": 0.0, "clip": None, "space": sees} | settings
    guidance = Learnability(GuidanceConfig(), space, LearnabilityConfig(**settings))
    roles = {CURRENT: Linear(current), REFERENCE: Linear(reference)}
    guidance.bind(Networks(1.0, ["c"], Painter(), roles))  # type: ignore[arg-type]
    return guidance


def at(space: str, size: int = 3) -> Prediction | FlowPrediction:
    """What a network says of noisy images, far from nothing in either direction."""
    x, said = noise(0, size).double(), noise(1, size).double()
    return flow_prediction(flow.path(50)[20], x, said) if space == "velocity" else prediction(STEP, x, said)


def guess(pred: Prediction | FlowPrediction) -> Tensor:
    return pred.x1_hat if isinstance(pred, FlowPrediction) else pred.x0_hat


def moved(pred: Prediction | FlowPrediction, delta: Tensor, space: str) -> tuple[Tensor, Tensor]:
    """What the guided step comes to, before and after."""
    if isinstance(pred, FlowPrediction):
        return pred.x1_hat, replace(pred, v_hat=pred.v_hat + delta).x1_hat
    if space == "epsilon":
        return pred.x0_hat, pred.with_eps(pred.eps_hat + delta).x0_hat
    mean = Ddpm().step(pred, None, None)
    return mean, Ddpm().step(pred, delta, None)


class TestScore:
    @pytest.mark.parametrize("omega", [0.0, 0.5, 1.0])
    def test_it_and_its_gradient_are_those_of_the_closed_form(self, omega: float) -> None:
        """L = -log sigmoid(2 k a), a the mean of z / 2 over the painted channels: dL/da = -2 k (1 - p)."""
        z, k = noise(3, 2).double(), (1.0, -2.0)
        value, slope = guide(omega=omega).score(z, batch(2))
        a = z[:, :3].mean(dim=(1, 2, 3)) / 2
        p = [(2 * s * a).sigmoid() for s in k]
        torch.testing.assert_close(value, -p[0].log() + omega * p[1].log())
        by_hand = -2 * k[0] * (1 - p[0]) + omega * 2 * k[1] * (1 - p[1])
        expected = (by_hand / 2 / (3 * 16)).view(2, 1, 1, 1).expand(2, 3, *SHAPE[1:])
        torch.testing.assert_close(slope, torch.cat([expected, torch.zeros(2, 1, *SHAPE[1:], dtype=z.dtype)], 1))

    def test_its_gradient_is_finite_differences_through_the_real_networks(self, tmp_path: Path) -> None:
        students = {
            role: write_student(tmp_path / role, mean=[m] * 3) for role, m in ((CURRENT, 0.5), (REFERENCE, 0.3))
        }
        guidance = guide(micro_batch=1, checkpointing=True)
        loaded = {role: Classifier(ClassifierSpec(path), EXACT) for role, path in students.items()}
        guidance.bind(Networks(1.3, ["7", "3"], Vae(VaeSpec(None), EXACT), loaded))
        slots, z = batch(2, shape=(4, 8, 8)), noise(3, 2, (4, 8, 8)).double()
        value, slope = guidance.score(z, slots)
        way = noise(4, 2, (4, 8, 8)).double()
        up, down = (guidance.score(z + step * way, slots)[0] for step in (1e-6, -1e-6))
        torch.testing.assert_close((slope * way).sum(dim=(1, 2, 3)), (up - down) / 2e-6, rtol=1e-5, atol=1e-9)
        assert value[0] != value[1]

    def test_of_latents_its_gradient_is_finite_differences_too(self, tmp_path: Path) -> None:
        judges = {role: LatentClassifier(write_judge(tmp_path / role, i), EXACT) for i, role in enumerate(BOTH)}
        guidance = guide(sees="latent", micro_batch=1, checkpointing=True)
        guidance.bind(Networks(1.3, ["7", "3"], None, judges))  # type: ignore[arg-type]
        slots, z, way = batch(2, shape=LATENT), noise(3, 2, LATENT).double(), noise(4, 2, LATENT).double()
        value, slope = guidance.score(z, slots)
        up, down = (guidance.score(z + step * way, slots)[0] for step in (1e-6, -1e-6))
        torch.testing.assert_close((slope * way).sum(dim=(1, 2, 3)), (up - down) / 2e-6, rtol=1e-5, atol=1e-9)
        logits = [judges[role].logits(z / 1.3) for role in BOTH]
        torch.testing.assert_close(value, learnability(logits, [torch.zeros(2, dtype=torch.long)] * 2, 0.5))

    @pytest.mark.parametrize("kind", ["diffusion", "flow"])
    def test_through_the_generator_it_is_finite_differences_in_x_t(self, kind: str) -> None:
        """The packaged generator in float64 behind classifier-free guidance; sqrt(alpha_bar) times the slope."""
        spec = GeneratorSpec(None)
        judges = {CURRENT: Linear(1.0), REFERENCE: Linear(-2.0)}
        guidance = guide(sees="latent", through_denoiser=True, micro_batch=1)
        denoiser = Denoiser(spec, EXACT, 2.0, "all", network(spec, EXACT, differentiable=True).double())
        guidance.bind(Networks(1.0, ["c"], None, judges, denoiser))  # type: ignore[arg-type]
        slots, x, way = batch(2, shape=LATENT), noise(3, 2, LATENT).double(), noise(4, 2, LATENT).double()
        step, times = spec.steps("released", 50)[19], spec.times(50, 0.0, "released")[19]

        def at(x: Tensor) -> Prediction | FlowPrediction:
            if kind == "flow":
                return FlowPrediction(times, times.t, x, denoiser.velocity(x, times.t, slots.class_index))
            return denoiser(x, step, slots.class_index)

        value, slope = guidance.score_through(at(x), slots)
        torch.testing.assert_close(value, guidance.score(guess(at(x)), slots)[0], rtol=1e-5, atol=1e-6)
        up, down = (guidance.score(guess(at(x + h * way)), slots)[0].double() for h in (1e-3, -1e-3))
        scale = 1.0 if kind == "flow" else step.alpha_bar**0.5
        by_hand = scale * (up - down) / 2e-3
        torch.testing.assert_close((slope * way).sum(dim=(1, 2, 3)), by_hand, rtol=1e-2, atol=1e-4)
        assert (slope - guidance.score(guess(at(x)), slots)[1]).abs().max() > 0.05 * slope.abs().max()

    @pytest.mark.parametrize("space", ["epsilon", "velocity"])
    def test_through_a_generator_that_says_the_same_everywhere_it_is_the_cheap_one(self, space: str) -> None:
        pred, slots = at(space), batch(3)
        through = guide(space, through_denoiser=True)
        through.bind(replace(through.bound, denoiser=Constant(pred)))
        torch.testing.assert_close(through.delta(pred, slots), guide(space).delta(pred, slots))

    def test_without_a_reference_in_the_score_none_is_asked_for(self) -> None:
        ask = Learnability.networks
        assert ask(LearnabilityConfig()) == (CURRENT, REFERENCE) and ask(LearnabilityConfig(omega=0.0)) == (CURRENT,)
        assert ask(LearnabilityConfig(scale=0.0)) == ()


@pytest.mark.parametrize("space", ["epsilon", "mean", "velocity"])
class TestPush:
    def test_the_score_goes_up(self, space: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a quadratic S = -|x - a|^2 / 2, whatever the printed signs say."""
        a = noise(7).double()
        monkeypatch.setattr(Learnability, "score", lambda self, x0, _: (-(x0 - a).square().sum((1, 2, 3)) / 2, a - x0))
        pred = at(space)
        before, after = moved(pred, guide(space, scale=0.01).delta(pred, batch(3)), space)
        if space == "mean":  # which lies elsewhere than the predicted image: it moves the same way
            assert (((after - before) * (a - guess(pred))).sum((1, 2, 3)) > 0).all()
        else:
            assert ((after - a).square().sum((1, 2, 3)) < (before - a).square().sum((1, 2, 3))).all()

    def test_the_similarity_goes_down(self, space: str) -> None:
        pred = at(space)
        memory = torch.stack([guess(pred) + 0.3 * noise(8), -guess(pred)], 1)
        guidance = guide(space, scale=0.0, repulsion=0.05)
        delta, seen = guidance.measured(pred, remembering(memory))
        _, away = nearest(guess(pred), memory)
        before, after = moved(pred, delta, space)
        assert ((after - before) * away).sum((1, 2, 3)).lt(0).all() and (seen["similarity"] > 0.5).all()
        if space != "mean":
            assert (nearest(after, memory)[0] < seen["similarity"]).all()

    def test_it_is_as_long_as_its_norm_says(self, space: str) -> None:
        pred, width = at(space), 64**0.5
        flows = isinstance(pred, FlowPrediction)
        level = 1 - pred.t if flows else (1 - STEP.alpha_bar) ** 0.5
        size = length(pred.v_hat if flows else pred.eps_hat)
        part = STEP.beta / ((1 - STEP.beta) * (1 - STEP.alpha_bar)) ** 0.5 if space == "mean" else 1.0
        score = guide(space).score(guess(pred), batch(3))[1]
        for norm, expected in (
            ("relative", 0.2 * size),
            ("rms_over_l2", 0.2 * level * size / width),
            ("none", 0.2 * level * length(score)),
        ):
            torch.testing.assert_close(length(guide(space, norm=norm).delta(pred, batch(3))), part * expected)
        clipped = guide(space, scale=3.0, clip=0.5).delta(pred, batch(3))
        torch.testing.assert_close(length(clipped), part * 0.5 * size)

    def test_nobody_remembered_repels_nobody(self, space: str) -> None:
        pred, guidance = at(space), guide(space, scale=0.0, repulsion=0.05)
        none = torch.zeros(3, 0, *SHAPE)
        missing = torch.full((3, 2, *SHAPE), torch.nan)
        for slots in (batch(3), remembering(none), remembering(missing)):
            assert torch.equal(guidance.delta(pred, slots), torch.zeros_like(pred.x_t))


def test_the_nearest_and_its_gradient_are_autograds() -> None:
    """Among members of which some are missing."""
    x = noise(0).double().requires_grad_()
    memory = noise(1, 3, (4, *SHAPE)).double()
    memory[0, 3] = torch.nan
    most, slope = nearest(x.detach(), memory)
    cosines = torch.nn.functional.cosine_similarity(x.unsqueeze(1).flatten(2), memory.nan_to_num().flatten(2), dim=2)
    cosines[0, 3:] -= 2
    torch.testing.assert_close(most, cosines.max(1).values.detach())
    torch.testing.assert_close(slope, torch.autograd.grad(cosines.max(1).values.sum(), x)[0])


def test_samples_of_a_mixture_are_led_to_what_is_learnable() -> None:
    """From end to end: S of the results is higher than without; in the mean it is the shift of the estimate."""
    slots, path = batch(8), steps(20)
    plain = sample(DATA, path, Ddpm(), None, slots)
    led = {space: sample(DATA, path, Ddpm(), guide(space, scale=0.3), slots) for space in ("epsilon", "mean")}
    torch.testing.assert_close(led["epsilon"], led["mean"], rtol=1e-4, atol=1e-4)
    score = guide().score
    assert (score(led["mean"], slots)[0] > score(plain, slots)[0]).all()


class TestBesideOthers:
    def terms(self) -> dict[str, Any]:
        mode = Mode(GuidanceConfig(scale=0.1, start=1.0, stop=0.5), "epsilon")
        return {"mode": mode, "learnability": guide(start=0.8, stop=0.3)}

    def test_each_acts_in_its_own_window_and_tells_its_own_push(self) -> None:
        terms, slots = self.terms(), batch(3, 0.7)
        both = Combined(terms)
        told = {}
        for step in steps(10):
            pred = prediction(step, noise(0), noise(1))
            active = [name for name, term in terms.items() if term.window.active(step)]
            assert both.window.active(step) == bool(active)
            if active:
                delta, seen = measured(both, pred, slots)
                torch.testing.assert_close(delta, sum(terms[name].delta(pred, slots) for name in active))
                assert {k for k in seen if k.startswith("push ")} == {f"push {name}" for name in active}
                told[step.index] = active
        assert told[9] == ["mode"] and told[7] == ["mode", "learnability"] and told[4] == ["learnability"]
        assert 3 not in told

    def test_terms_of_two_spaces_are_none(self) -> None:
        with pytest.raises(ValueError, match="act in one space"):
            Combined(self.terms() | {"other": guide("mean")})

    @pytest.mark.parametrize("base", ["dit", "mgd3", "mgd3_ddim", "manifoldgd", "pgfm", "ddoq"])
    def test_it_adds_to_whatever_leads_the_base(self, base: str) -> None:
        sampling = resolve(config(method="lgd", lgd={"base": base}, sampler={})).sampling
        assert sampling is not None
        leading = [] if sampling.guidance is None else [sampling.guidance.name]
        assert [g.name for g in sampling.acting] == [*leading, "learnability"]
        assert len({g.space for g in sampling.acting}) == 1 and sampling.roles == (CURRENT, REFERENCE)
        guidance = sampling.make_guidance()
        assert isinstance(guidance, Combined if leading else Learnability)

    def test_a_window_without_a_step_is_refused(self) -> None:
        with pytest.raises(BadInput, match="holds none of the 10 steps"):
            resolve(config(method="lgd", learnability={"start": 0.59, "stop": 0.51}, sampler={"steps": 10}))
        with pytest.raises(ValidationError, match="must be above"):
            LearnabilityConfig(start=0.2, stop=0.3)


class TestEverySoManyth:
    def test_it_acts_at_the_steps_whose_index_it_divides(self) -> None:
        """And pushes as far there as at all of those for which it does: nothing is remembered from step to step."""
        some, every = guide(every=6), guide()
        at = [s for s in steps(50) if some.window.active(s)]
        assert [s.index for s in at] == [42, 36, 30, 24, 18, 12] and every.window.count(50) == 36
        assert some.window.count(50) == 6
        pred, slots = prediction(at[0], noise(0), noise(1)), batch(3)
        for own in ({}, {"clip": 0.1}):
            some, every = guide(every=6, **own), guide(**own)
            torch.testing.assert_close(some.delta(pred, slots), 6 * every.delta(pred, slots))

    def test_at_the_others_the_path_is_unguided(self) -> None:
        free = sample(DATA, steps(10), Ddpm(), None, batch(3))
        once = sample(DATA, steps(10), Ddpm(), guide("mean", every=8), batch(3))
        inside = sample(DATA, steps(10), Ddpm(), guide("mean", start=0.85, stop=0.75, scale=1.6), batch(3))
        torch.testing.assert_close(once, inside)
        assert not torch.equal(once, free), "index 8 alone"

    @pytest.mark.parametrize(("count", "every"), [(10, 1), (25, 3), (50, 6), (250, 30)])
    def test_by_itself_a_path_is_led_six_times_or_a_few_more(self, count: int, every: int) -> None:
        (plan,) = planned(steps=count)
        assert plan.window.every == every and plan.window.count(count) in range(6, 12)
        assert planned(steps=count, name="euler")[0].window.every == 1, "but of a flow at each step"

    def test_acting_at_each_step_is_found_where_it_was_before_there_was_a_choice(self) -> None:
        at_each, at_some = (planned(every=every)[0].own_read() for every in (1, 6))
        assert "every" not in at_each and at_some == {**at_each, "every": 6, "summed": True}
        assert planned()[0].own_read() == at_some, "whether it was said or not"

    def test_where_it_leaves_no_step_it_is_refused(self) -> None:
        with pytest.raises(BadInput, match=r"each index that 10 divides\) holds none of the 10 steps"):
            resolve(config(method="lgd", learnability={"every": 10}, sampler={"steps": 10}))
        assert resolve(config(method="lgd", learnability={"every": 10}, sampler={"steps": 20})), "more steps"

    def test_of_a_flow_it_is_refused(self) -> None:
        with pytest.raises(BadInput, match=r"learnability\.every=2 counts steps of diffusion"):
            guide("velocity", every=2)


def planned(every: int | None = None, **sampler: Any) -> tuple[GuidancePlan, ...]:
    """What leads an increment of `lgd`."""
    growth = resolve(config(method="lgd", learnability={"every": every}, sampler={"steps": 50} | sampler)).growth
    assert growth is not None and growth.next.sampling is not None
    return growth.next.sampling.acting


def write_judge(folder: Path, seed: int) -> LatentClassifierSpec:
    """An untrained classifier of latents."""
    torch.manual_seed(seed)
    artifact = Artifact(Location.of(str(folder)), "classifiers", "untrained")
    body = safetensors.torch.save(LatentNet(2, LATENT, 8).state_dict())
    artifact.commit("judge", body, rows=1, device="cpu", ext="safetensors")
    return LatentClassifierSpec(Sealed(artifact, artifact.seal(["judge"])), ("7", "3"), LATENT, 8, "current")


def remembering(memory: Tensor) -> Batch:
    plain = batch(len(memory))
    return Batch(plain.class_index, plain.prototype, plain.keys, {MEMORY: memory})


def length(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1)
