"""Soft labels as numbers: how a logit is stored, and the loss of a softened answer against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from raydistill.errors import StageFailed
from raydistill.evaluation.stored import quantise
from raydistill.evaluation.targets import Hard, loss


class TestQuantised:
    @given(st.integers(0, 2**31), st.floats(1e-3, 1e4))
    def test_a_logit_is_off_by_half_a_step(self, seed: int, spread: float) -> None:
        logits = np.random.default_rng(seed).normal(0, spread, (7, 12)).astype(np.float32)
        codes, low, step = quantise(logits)
        decoded = low[:, None] + step[:, None] * codes
        assert codes.dtype == np.uint8
        assert (np.abs(decoded - logits) <= np.ptp(logits, axis=1)[:, None] / 510 * (1 + 1e-3)).all()

    def test_softened_labels_are_almost_the_teachers(self) -> None:
        """At T = 20 a thousand classes with a ResNet's logits: less than a third of a percent of total variation."""
        logits = np.random.default_rng(0).normal(0, 3, (200, 1000)).astype(np.float32)
        logits[:, 0] += 15
        codes, low, step = quantise(logits)
        stored = torch.from_numpy(low[:, None] + step[:, None] * codes)
        apart = ((stored / 20).softmax(1) - (torch.from_numpy(logits) / 20).softmax(1)).abs().sum(1) / 2
        assert apart.max() < 0.003

    def test_equal_logits_stay_equal(self) -> None:
        codes, low, step = quantise(np.full((2, 3), 1.5, np.float32))
        assert not codes.any() and (low == 1.5).all() and not step.any()

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_what_is_not_finite_is_refused(self, bad: float) -> None:
        with pytest.raises(StageFailed, match="not finite"):
            quantise(np.array([[0, bad]], np.float32))


class TestLoss:
    def test_hard_targets_give_cross_entropy_mixed_by_area(self) -> None:
        logits, y, other = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([3, 3, 1, 0, 0, 2])
        target = 0.3 * F.one_hot(y, 4) + 0.7 * F.one_hot(other, 4)
        each = [F.cross_entropy(logits, labels, reduction="none") for labels in (y, other)]
        torch.testing.assert_close(loss(logits, target, False, 1.0), 0.3 * each[0] + 0.7 * each[1])

    def test_hard_targets_are_those_of_the_batch(self) -> None:
        """Of the million images of a data set a whole table would be gigabytes."""
        y = torch.tensor([2, 0, 1, 2])
        hard = Hard(y, 1000)
        assert all(v.numel() <= len(y) for v in vars(hard).values() if isinstance(v, torch.Tensor))
        assert torch.equal(hard(torch.zeros(2, 3, 1, 1), 0, np.array([3, 1])), F.one_hot(y[[3, 1]], 1000).float())

    def test_soft_targets_give_the_divergence_at_the_temperature(self) -> None:
        """KL = sum q (log q - log p); its mean is torch's batchmean; no factor T^2; 0 where the two agree."""
        logits, teacher = torch.randn(5, 7), torch.randn(5, 7)
        q, p = (teacher / 20).softmax(1), (logits / 20).softmax(1)
        divergence = loss(logits, q, True, 20.0)
        torch.testing.assert_close(divergence, (q * (q.log() - p.log())).sum(1))
        torch.testing.assert_close(divergence.mean(), F.kl_div(p.log(), q, reduction="batchmean"))
        torch.testing.assert_close(loss(teacher, q, True, 20.0), torch.zeros(5), atol=1e-6, rtol=0)
