"""Weights of the images of a set: closed forms of their modes and norms, and how many equal ones they are worth."""

from __future__ import annotations

import typing

import numpy as np
import pytest

from raydistill.config import WeightsConfig
from raydistill.methods.weighting import (
    MODES,
    NORMS,
    effective_sample_size,
    in_norm,
    sample_size_a_class,
    shared,
    weigh,
)


class TestFormulas:
    def test_they_are_those_of_the_configuration(self) -> None:
        mode, norm = (WeightsConfig.model_fields[name].annotation for name in ("mode", "norm"))
        assert typing.get_args(typing.get_args(mode)[0]) == tuple(MODES) and typing.get_args(norm) == tuple(NORMS)

    def test_density_is_the_mass(self) -> None:
        assert weigh(np.array([1, 2, 3]), "density", "mean").tolist() == [0.5, 1.0, 1.5]
        assert weigh(np.array([1, 2, 5]), "density", "sum").tolist() == [0.125, 0.25, 0.625]

    def test_sqrt_is_its_root_and_power_is_between_uniform_and_beyond(self) -> None:
        masses = np.array([1, 4, 9, 2])
        assert weigh(masses[:3], "sqrt", "mean") == pytest.approx([0.5, 1.0, 1.5])
        for gamma, mode in ((0.0, "uniform"), (0.5, "sqrt"), (1.0, "density")):
            assert weigh(masses, "power", "mean", gamma) == pytest.approx(weigh(masses, mode, "mean"))
        assert weigh(masses, "power", "sum", 2.0) == pytest.approx(masses**2 / 102)

    def test_norms_differ_by_a_factor(self) -> None:
        masses = np.array([3.0, 5.0, 11.0, 2.0])
        mean, total, root = (weigh(masses, "sqrt", norm) for norm in ("mean", "sum", "inv_sqrt_k"))
        assert (mean.mean(), total.sum(), root.mean()) == pytest.approx((1.0, 1.0, 0.5))
        assert root == pytest.approx(2 * np.sqrt(masses) / np.sqrt(masses).sum()), "sqrt(K) sqrt(n) / sum of sqrt(n)"
        assert mean / total == pytest.approx(4.0)

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("masses", [[49] * 10, [7] * 3, [0.1] * 7])
    def test_equal_ones_are_one_to_the_bit(self, masses: list[float], mode: str) -> None:
        if mode != "density" or masses[0] >= 1:  # masses are counts
            assert set(weigh(np.array(masses), mode, "mean", 0.3)) == {1.0}
        assert set(weigh(np.array([1, 2, 3]), "uniform", "mean")) == {1.0}

    def test_equal_masses_are_one_to_the_bit_where_losses_are_multiplied(self) -> None:
        """Masses that slots share are fractions, whose mean may be off by a rounding of float64."""
        for share in (1, 3, 7, 9, 11, 49):
            for count in (1, 3, 10, 49, 50):
                equal = weigh(np.full(count, 17 / share), "density", "mean").astype(np.float32)
                assert set(equal.tolist()) == {1.0}

    @pytest.mark.parametrize("norm", NORMS)
    def test_weights_that_somebody_gave_are_brought_to_the_norm_class_by_class(self, norm: str) -> None:
        given, labels = np.array([4.0, 0.2, 12.0, 0.3, 0.0]), np.array([0, 1, 0, 1, 1])
        scaled = in_norm(given, labels, norm)
        for index in (0, 1):
            mine = scaled[labels == index]
            total = {"mean": len(mine), "sum": 1, "inv_sqrt_k": len(mine) ** 0.5}[norm]
            assert mine.sum() == pytest.approx(total) and mine[1] * given[labels == index][0] == pytest.approx(
                mine[0] * given[labels == index][1]
            )
        assert np.array_equal(in_norm(scaled, labels, norm), scaled), "what has the norm keeps its bits"

    @pytest.mark.parametrize("value", [0.1, 2.0, 1 / 3, 1e30, 1e-30])
    @pytest.mark.parametrize("count", [3, 7, 10, 49])
    def test_equal_ones_of_somebody_are_one_to_the_bit_whatever_they_are(self, value: float, count: int) -> None:
        labels = np.arange(2 * count) % 2
        assert set(in_norm(np.where(labels == 1, value, 5.0), labels, "mean")) == {1.0}

    @pytest.mark.parametrize("mass", [0.0, -1.0, np.nan, np.inf])
    @pytest.mark.parametrize("mode", MODES)
    def test_no_weight_comes_of_an_empty_cell(self, mode: str, mass: float) -> None:
        with pytest.raises(ValueError, match="the mass of slot 1 is"):
            weigh(np.array([2.0, mass]), mode, "mean", 0.5)

    def test_slots_that_share_a_prototype_share_its_mass(self) -> None:
        assert shared(np.array([6, 2, 9]), np.array([0, 1, 0])).tolist() == [3.0, 2.0, 3.0]

    def test_the_effective_sample_size_of_a_set_is_the_mean_over_its_classes(self) -> None:
        assert sample_size_a_class(np.array([1.0, 1.0, 1.0, 3.0]), np.array([0, 1, 0, 1])) == (2 + 1.6) / 2

    def test_effective_sample_size(self) -> None:
        assert effective_sample_size(np.full(7, 0.3)) == pytest.approx(7)
        assert effective_sample_size(np.array([0.0, 5.0])) == 1 and effective_sample_size(np.array([1.0, 3.0])) == 1.6
