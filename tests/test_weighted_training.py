"""Weights in training, by the loss or by how often an image is drawn: what equal ones change, and what others do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_evaluation import CPU, SIZE, images, recipe
from torch import Tensor

from raydistill import registry
from raydistill.config import ProtocolConfig
from raydistill.errors import StageFailed
from raydistill.evaluation import train as training
from raydistill.evaluation.cutmix import Mix, cutmix
from raydistill.evaluation.drawing import in_proportion
from raydistill.evaluation.images import ImageSet
from raydistill.evaluation.recipe import Setting, describe, resolve, title
from raydistill.evaluation.targets import loss
from raydistill.evaluation.train import Student, batches, train_student

UNEQUAL = torch.tensor([0.25, 1.75, 0.5, 1.5] * 4)
WEIGHTINGS = ("loss", "sampling")


class Soft:
    """Stands for a teacher, or for stored labels: half the label, half of all."""

    of_mixed = False

    def __init__(self, labels: Tensor) -> None:
        self.labels = 0.5 * torch.nn.functional.one_hot(labels, 2) + 0.25

    def __call__(self, x: Tensor, epoch: int, rows: np.ndarray) -> Tensor:
        return self.labels[torch.from_numpy(rows)]


def trained(protocol: str, weights: Tensor | None, weighting: str = "loss", **more: Any) -> dict[str, Any]:
    """The parameters of a network after a short training on 16 images."""
    settings = ProtocolConfig(
        name=protocol, visits=32, batch=8, image_size=SIZE, evaluations=2, weighting=weighting, **more
    )
    data = images(16)
    data = data if weights is None else ImageSet(data.pixels, data.labels, weights)
    resolved = resolve(settings, Setting(8, 2, SIZE, "convnet"))
    targets = Soft(data.labels) if resolved.soft else None
    _, net = train_student(Student("convnet", 8, 2, 0), resolved, data, images(8, seed=9), CPU, targets)
    return net.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("protocol", registry.names("protocol"))
def test_every_protocol_has_weights_and_equal_ones_are_none_to_the_bit(protocol: str, weighting: str) -> None:
    plain = trained(protocol, None)
    assert same(plain, trained(protocol, torch.ones(16), weighting))
    assert not same(plain, trained(protocol, UNEQUAL, weighting))


def test_loss_and_sampling_are_two_trainings() -> None:
    assert not same(trained("hard", UNEQUAL, "loss"), trained("hard", UNEQUAL, "sampling"))


def test_cutmix_mixes_weights_as_it_mixes_images() -> None:
    mixed = Mix(torch.tensor([1, 0]), 0.75).of(torch.tensor([2.0, 4.0]))
    assert mixed.tolist() == [0.75 * 2 + 0.25 * 4, 0.75 * 4 + 0.25 * 2]


def test_a_step_under_cutmix_has_the_loss_that_mixed_weights_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of images a and b with the share r of a: the mean of (r w_a + (1 - r) w_b) l, l being that of mixed labels."""
    mixes, losses = [], []

    def kept(*args: Any) -> Mix:
        mixes.append(cutmix(*args))
        return mixes[-1]

    def watched(*args: Any) -> Tensor:
        losses.append(loss(*args))
        return losses[-1]

    monkeypatch.setattr(training, "cutmix", kept)
    monkeypatch.setattr(training, "loss", watched)
    data = replace(images(16), weights=UNEQUAL)
    short = recipe(visits=16, batch=16, evaluations=1, cutmix=1.0)
    score, _ = train_student(Student("convnet", 8, 2, 0), short, data, images(8, seed=9), CPU)
    (mix,), (each,) = mixes, [value.detach() for value in losses]
    assert 0 < mix.share < 1 and not torch.equal(mix.partner, torch.arange(16))
    (_, rows, _) = next(batches(16, short, 0))
    w = UNEQUAL[torch.from_numpy(rows)]
    mixed = mix.share * w + (1 - mix.share) * w[mix.partner]
    assert score.loss == [(16, pytest.approx(float((mixed * each).mean()), abs=1e-5))]
    assert abs(float((w * each).mean()) - score.loss[0][1]) > 1e-4, "those of the first images alone give another"


class TestSampling:
    def drawn(self, weights: np.ndarray, seeds: int) -> np.ndarray:
        """How often each row was drawn, (seeds, n)."""
        short = recipe(visits=len(weights))
        rows = [np.concatenate([r for _, r, _ in batches(len(weights), short, s, 0, weights)]) for s in range(seeds)]
        return np.stack([np.bincount(r, minlength=len(weights)) for r in rows])

    def test_rows_come_in_proportion_to_their_weights(self) -> None:
        weights = np.array([0.0, 0.3, 0.7, 1.0, 3.0, 0.0])
        counts = self.drawn(weights, 400)
        expected = 6 * weights / weights.sum()
        assert (counts.sum(1) == 6).all() and (abs(counts - expected) < 1).all()
        assert counts.mean(0) == pytest.approx(expected, abs=0.08)

    @pytest.mark.parametrize("value", [1.0, 0.1, 1 / 3])
    def test_equal_weights_give_the_permutation_of_none(self, value: float) -> None:
        short = recipe(visits=70)
        pairs = zip(batches(33, short, 4), batches(33, short, 4, 0, np.full(33, value, np.float32)), strict=True)
        assert all(np.array_equal(a[1], b[1]) for a, b in pairs)

    def test_it_can_be_continued_anywhere(self) -> None:
        short, weights = recipe(visits=200), np.arange(50.0)
        whole = list(batches(50, short, 3, 0, weights))
        for one, other in zip(whole[7:], batches(50, short, 3, 7, weights), strict=True):
            assert one[0] == other[0] and np.array_equal(one[1], other[1]) and one[2] == other[2]

    def test_of_nothing_nothing_is_drawn(self) -> None:
        with pytest.raises(StageFailed, match="all weights of a set are 0"):
            in_proportion(np.zeros(4), np.random.default_rng(0))

    def test_the_gradient_is_that_of_the_loss_on_average(self) -> None:
        """A step of all images by plain SGD moves weights by the mean gradient: of many draws the mean is the same."""
        off = {"cutmix": 0.0, "jitter": 0.0, "lighting": 0.0, "crop_scale": 1.0, "flip": False, "weight_decay": 0.0}
        data = replace(images(16), weights=2 * UNEQUAL)

        def moved(seed: int, weighting: str) -> Tensor:
            short = replace(recipe(visits=16, evaluations=1, weighting=weighting, **off), momentum=0.0, lr=1e-3)
            # the initial network of seed 0, the draws of `seed`
            with pytest.MonkeyPatch.context() as patch:
                build = Student.build
                patch.setattr(Student, "build", lambda s, size: build(replace(s, seed=0), size))
                _, net = train_student(Student("convnet", 8, 2, seed), short, data, images(8, seed=9), CPU)
            return torch.cat([v.flatten() for v in net.parameters()])

        before = torch.cat([v.flatten() for v in Student("convnet", 8, 2, 0).build(SIZE).parameters()])
        loss = moved(0, "loss") - before
        sampled = torch.stack([moved(s, "sampling") - before for s in range(60)])
        assert torch.allclose(moved(1, "loss") - before, loss, atol=1e-6), "whose step does not depend on the order"
        error, noise = (sampled.mean(0) - loss).norm(), sampled.std(0).norm() / 60**0.5
        assert 0 < error < 3 * noise and noise < 0.3 * loss.norm()


def test_it_belongs_to_the_name_and_the_identity_of_a_training_only_where_it_is_asked_for() -> None:
    plain, drawn = (recipe(weighting=w) for w in (None, "sampling"))
    assert "weighting" not in plain.tree() and drawn.tree()["weighting"] == "sampling"
    assert "weighting=sampling" in title(ProtocolConfig(weighting="sampling"))
    assert "drawn in proportion to weights" in describe(drawn) and "drawn" not in describe(plain)
