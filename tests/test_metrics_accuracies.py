"""What is computed from accuracies: redundancy and the scores of DD-Ranking."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raydistill.metrics.ddranking import ars, lrs
from raydistill.metrics.redundancy import redundancy, redundancy_parts


class TestRedundancy:
    def test_is_the_mean_of_the_off_diagonal(self) -> None:
        a = np.array([[1, 0.2, 0.4], [0.1, 1, 0.3], [0.5, 0.6, 0.9]])
        assert redundancy(a) == pytest.approx((0.2 + 0.4 + 0.1 + 0.3 + 0.5 + 0.6) / 6)

    def test_parts_that_say_the_same_are_redundant_and_strangers_are_not(self) -> None:
        assert redundancy(np.ones((5, 5))) == 1 and redundancy(np.eye(5)) == 0

    @pytest.mark.parametrize(
        "a", [np.ones((2, 3)), np.ones(4), np.ones((1, 1)), 90 * np.ones((2, 2)), [[1, math.nan]] * 2]
    )
    def test_what_is_no_matrix_of_shares_is_refused(self, a: np.ndarray) -> None:
        with pytest.raises(ValueError, match="redundancy: accuracies must"):
            redundancy(a)

    def test_redundancy_parts_take_as_many_of_each_class(self) -> None:
        y = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 50))
        part_of = redundancy_parts(y, 5, seed=0)
        assert [[np.sum((part_of == i) & (y == c)) for c in range(4)] for i in range(5)] == [[10] * 4] * 5

    def test_what_is_left_over_is_spread(self) -> None:
        sizes = np.bincount(redundancy_parts(np.zeros(13, int), 5, seed=0), minlength=5)
        assert sorted(sizes) == [2, 2, 3, 3, 3]

    def test_redundancy_parts_are_drawn_by_the_seed_class_by_class(self) -> None:
        y = np.repeat([0, 1], 20)
        one = redundancy_parts(y, 4, seed=1)
        assert np.array_equal(one, redundancy_parts(y, 4, seed=1)) and not np.array_equal(
            one, redundancy_parts(y, 4, seed=2)
        )
        assert np.array_equal(one[:20], redundancy_parts(y[:20], 4, seed=1)), "another class changes nothing"
        assert not np.array_equal(one[:20], one[20:])

    def test_too_few_images_or_parts_are_refused(self) -> None:
        with pytest.raises(ValueError, match="class 1 has 2 images, too few for 3 parts"):
            redundancy_parts(np.array([0, 0, 0, 1, 1]), 3, seed=0)
        with pytest.raises(ValueError, match="parts=1"):
            redundancy_parts(np.zeros(5, int), 1, seed=0)


def squashed(x: float) -> float:
    return (math.e**x - 1 / math.e) / (math.e - 1 / math.e)


class TestDdRanking:
    def test_lrs(self) -> None:
        ratios = lrs(real_hard=0.9, synthetic_hard=0.6, synthetic=0.7, random=0.5)
        assert ratios == pytest.approx({"hlr": 0.3, "ior": 0.2, "lrs": squashed(0.5 * 0.2 - 0.5 * 0.3)})
        assert lrs(0.9, 0.6, 0.7, 0.5, w=1)["lrs"] == pytest.approx(squashed(0.2))

    def test_ars(self) -> None:
        assert ars(0.7, 0.4, 0.5, 0.6, gamma=0.25)["ars"] == pytest.approx(squashed(0.25 * 0.3 - 0.75 * 0.1))

    def test_the_best_is_one_and_the_worst_is_zero(self) -> None:
        assert ars(1, 0, 1, 0)["ars"] == 1 and ars(0, 1, 0, 1)["ars"] == 0
        assert lrs(0, 1, 1, 0)["lrs"] == 1 and lrs(1, 0, 0, 1)["lrs"] == 0

    def test_a_set_that_is_worth_its_random_images_and_loses_nothing_is_neutral(self) -> None:
        neutral = (1 - 1 / math.e) / (math.e - 1 / math.e)
        assert lrs(0.8, 0.8, 0.5, 0.5)["lrs"] == ars(0.5, 0.5, 0.4, 0.4)["ars"] == pytest.approx(neutral)

    @pytest.mark.parametrize("bad", [-0.1, 59.1, math.nan])
    def test_what_is_no_share_is_refused(self, bad: float) -> None:
        with pytest.raises(ValueError, match=r"random=.* must lie between 0 and 1"):
            lrs(0.5, 0.5, 0.5, bad)
        with pytest.raises(ValueError, match=r"gamma=.* must lie between 0 and 1"):
            ars(0.5, 0.5, 0.5, 0.5, gamma=bad)
