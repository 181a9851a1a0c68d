"""Training of students: what augmentation does to pixels, what the budget is, what a score can be trusted for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from raydistill import registry
from raydistill.config import ProtocolConfig
from raydistill.errors import StageFailed
from raydistill.evaluation.augment import crop_and_flip, cutmix, normalise
from raydistill.evaluation.train import ImageSet, Score, _batches, accuracy_per_class, train_student

SIZE = 8
CPU = torch.device("cpu")


def protocol(**more: Any) -> ProtocolConfig:
    base = {"visits": 640, "batch": 16, "lr": 0.05, "image_size": SIZE, "crop_scale": 1.0, "flip": False, "cutmix": 0.0}
    return ProtocolConfig(**(base | {"evaluations": 4} | more))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def images(count: int, classes: int = 2, seed: int = 0, contrast: float = 60.0) -> ImageSet:
    """Classes that differ in the stripe that is bright."""
    draw = rng(seed)
    labels = np.arange(count) % classes
    pixels = draw.normal(110, 25, (count, 3, SIZE, SIZE))
    for i, label in enumerate(labels):
        pixels[i, :, :, label * SIZE // classes : (label + 1) * SIZE // classes] += contrast
    return ImageSet(
        torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)), torch.from_numpy(labels), torch.ones(count)
    )


def train(data: ImageSet, test: ImageSet | None = None, seed: int = 0, classes: int = 2, **more: Any) -> Score:
    return train_student("convnet", 8, data, test or images(60, classes, 99), classes, protocol(**more), seed, CPU)


class TestAugmentation:
    def test_pixels_are_centred_and_scaled(self) -> None:
        x = normalise(torch.tensor([0, 255], dtype=torch.uint8))
        assert x.tolist() == [-2.0, 2.0] and x.dtype == torch.float32

    def test_without_crop_and_flip_nothing_happens(self) -> None:
        x = torch.randn(5, 3, 16, 16)
        assert torch.equal(crop_and_flip(x, protocol(), rng()), x)

    def test_flips_flip(self) -> None:
        """About half of the images, left to right; the others stay as they are."""
        x = torch.randn(200, 3, 16, 16)
        y = crop_and_flip(x, protocol(flip=True), rng())
        flipped = torch.tensor([torch.equal(b, a.flip(2)) for a, b in zip(x, y, strict=True)])
        kept = torch.tensor([torch.equal(b, a) for a, b in zip(x, y, strict=True)])
        assert (flipped ^ kept).all() and 0.35 < flipped.float().mean() < 0.65

    def test_crops_flip_too(self) -> None:
        ramp = torch.linspace(-1, 1, 16).expand(200, 3, 16, 16)
        rises = (y := crop_and_flip(ramp, protocol(flip=True, crop_scale=0.5), rng()))[..., -1] > y[..., 0]
        assert 0.35 < rises.float().mean() < 0.65
        assert (crop_and_flip(ramp, protocol(crop_scale=0.5), rng()).diff(dim=3) >= -1e-6).all()

    def test_a_crop_stays_inside_the_image(self) -> None:
        """Coordinates as colours: a crop shows a range of them, at least as wide as its smallest area allows."""
        ramp = torch.linspace(-1, 1, 64)
        x = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.zeros(64, 64)])
        y = crop_and_flip(x.expand(300, 3, 64, 64), protocol(crop_scale=0.25), rng())
        assert y.min() >= -1 - 1e-5 and y.max() <= 1 + 1e-5
        width, height = ((y[:, c].amax((1, 2)) - y[:, c].amin((1, 2))) / 2 for c in (0, 1))
        assert (width * height).min() > 0.2 and (width * height).mean().item() == pytest.approx(0.62, abs=0.05)
        assert (width / height).max() < 4 / 3 * 1.1 and (width / height).min() > 3 / 4 / 1.1

    def test_draws_belong_to_their_step_alone(self) -> None:
        x = torch.randn(4, 3, 16, 16)
        first, again, other = (crop_and_flip(x, protocol(flip=True, crop_scale=0.5), rng(s)) for s in (1, 1, 2))
        assert torch.equal(first, again) and not torch.equal(first, other)

    @given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 6))
    def test_the_share_of_cutmix_is_the_area_left(self, seed: int, size: int, count: int) -> None:
        x = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, 3, size, size)
        mixed, partner, own = cutmix(x, rng(seed))
        assert 0 <= own <= 1 and sorted(partner.tolist()) == list(range(count))
        for i in range(count):
            j = int(partner[i])
            if i != j:
                assert (mixed[i] == i).float().mean().item() == pytest.approx(own, abs=1e-6)
                assert (mixed[i] == j).float().mean().item() == pytest.approx(1 - own, abs=1e-6)
        assert torch.equal(x, torch.arange(count, dtype=torch.float32)[:, None, None, None].expand_as(x))

    def test_cutmix_shares_are_spread_evenly(self) -> None:
        """beta = 1: the area u of the box is uniform before the border cuts it.

        Of a side sqrt(u) at a uniform place, sqrt(u) - u / 4 is inside on average, so the image keeps
        1 - E[(sqrt(u) - u / 4)^2] = 1 - (1/2 - 1/5 + 1/48).
        """
        own = [cutmix(torch.zeros(1, 1, 64, 64), rng(s))[2] for s in range(1500)]
        assert np.mean(own) == pytest.approx(1 - (1 / 2 - 1 / 5 + 1 / 48), abs=0.03)
        assert min(own) < 0.1 and max(own) > 0.98


class TestBatches:
    @pytest.mark.parametrize(("n", "batch", "steps"), [(10, 4, 5), (10, 64, 3), (1, 8, 2), (7, 7, 4), (30, 8, 100)])
    def test_every_image_is_seen_equally_often(self, n: int, batch: int, steps: int) -> None:
        made = list(_batches(n, batch, steps, 0))
        assert [len(b) for b in made] == [batch] * steps
        seen = Counter(np.concatenate(made).tolist())
        assert set(seen) <= set(range(n))
        assert max(seen.values()) - min(seen.get(i, 0) for i in range(n)) <= 1

    def test_the_order_is_the_seeds(self) -> None:
        one, same, other = (np.concatenate(list(_batches(50, 8, 12, s))) for s in (0, 0, 1))
        assert np.array_equal(one, same) and not np.array_equal(one, other)


class TestTraining:
    def test_an_easy_problem_is_learned(self) -> None:
        score = train(images(64, 4), classes=4, visits=2560)
        assert score.last > 0.95 and min(score.per_class) > 0.8

    def test_labels_of_noise_teach_nothing(self) -> None:
        assert train(images(64, contrast=0.0), images(200, 2, 99, contrast=0.0)).last == pytest.approx(0.5, abs=0.12)

    def test_a_seed_gives_the_same_training_and_another_seed_another(self) -> None:
        full = {"crop_scale": 0.5, "flip": True, "cutmix": 0.5}
        hard = images(40, contrast=6.0), images(200, 2, 99, contrast=6.0)
        one, same, other = (train(*hard, seed=s, **full) for s in (0, 0, 1))
        assert one == same and one != other

    def test_the_global_seed_plays_no_part(self) -> None:
        torch.manual_seed(1)
        np.random.seed(1)
        one = train(images(40, contrast=6.0))
        torch.manual_seed(2)
        np.random.seed(2)
        assert train(images(40, contrast=6.0)) == one

    @pytest.mark.parametrize("evaluations", [1, 3, 7])
    def test_the_curve_covers_the_budget(self, evaluations: int) -> None:
        score = train(images(32), evaluations=evaluations, visits=160, batch=16)
        assert len(score.curve) == evaluations and score.curve[-1] == (160, score.last)
        assert [v for v, _ in score.curve] == sorted({v for v, _ in score.curve})
        assert score.best == max(a for _, a in score.curve) >= score.last
        assert len(score.per_class) == 2 and score.last == pytest.approx(np.mean(score.per_class), abs=1e-5)

    def test_a_budget_below_a_batch_is_one_step(self) -> None:
        score = train(images(4), visits=1, batch=16, evaluations=5)
        assert len(score.curve) == 1 and score.curve[0][0] == 16

    def test_a_loss_that_is_not_finite_is_told(self) -> None:
        with pytest.raises(StageFailed, match=r"the loss of convnet \(seed 3\) is not finite at step \d+; lower") as e:
            train(images(32), seed=3, lr=100.0, visits=16000)
        assert "\n" not in str(e.value)

    def test_a_sample_of_weight_0_has_no_influence(self) -> None:
        """Its pixels may be anything: the other images alone decide."""
        data = images(32)
        weights = torch.ones(32)
        weights[::5] = 0
        spoiled = data.pixels.clone()
        spoiled[::5] = torch.randint(0, 256, spoiled[::5].shape, dtype=torch.uint8)
        assert seen(ImageSet(data.pixels, data.labels, weights)) == seen(ImageSet(spoiled, data.labels, weights))
        assert seen(data) != seen(ImageSet(spoiled, data.labels, torch.ones(32)))

    def test_weights_scale_the_gradient(self) -> None:
        """Twice the weight with half the learning rate is the same plain SGD."""
        data = images(32)
        plain = {"momentum": 0.0, "weight_decay": 0.0, "visits": 160}
        heavy = ImageSet(data.pixels, data.labels, torch.full((32,), 2.0))
        assert seen(heavy, lr=0.025, **plain) == pytest.approx(seen(data, lr=0.05, **plain), rel=1e-3)
        assert seen(heavy, lr=0.05, **plain) != pytest.approx(seen(data, lr=0.05, **plain), rel=1e-3)


def seen(data: ImageSet, **more: Any) -> list[float]:
    """A fingerprint of the trained network: its logits for one grey image."""
    kept: list[nn.Module] = []

    def build(classes: int, size: int, width: int) -> nn.Module:
        kept.append(registry.get("student", "convnet")(classes, size, width))
        return kept[-1]

    registry._entries["student"]["kept"] = build
    try:
        train_student("kept", 8, data, images(8, 2, 99), 2, protocol(evaluations=1, **more), 0, CPU)
    finally:
        del registry._entries["student"]["kept"]
    with torch.no_grad():
        return [round(v, 6) for v in kept[0](torch.linspace(-1, 1, 3 * SIZE * SIZE).view(1, 3, SIZE, SIZE))[0].tolist()]


class TestAccuracy:
    class Says(nn.Module):
        """A network that answers with the brightest of three pixels."""

        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0, 0, :3]

    def test_it_is_the_share_of_each_class(self) -> None:
        answers, labels = [0, 0, 1, 2, 2, 2] * 100, [0, 1, 1, 2, 2, 0] * 100
        pixels = torch.zeros(600, 3, SIZE, SIZE, dtype=torch.uint8)
        pixels[torch.arange(600), 0, 0, answers] = 255
        data = ImageSet(pixels, torch.tensor(labels), torch.ones(600))
        assert accuracy_per_class(self.Says(), data, 4).tolist() == [0.5, 0.5, 1.0, 0.0]
