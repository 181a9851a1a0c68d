"""Metrics that look at one class at a time: mode coverage and Wasserstein-2."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from raydistill.clustering.kmeans import kmeans
from raydistill.metrics.mode_coverage import ModeCoverage
from raydistill.metrics.wasserstein import Wasserstein, transport

RNG = np.random.default_rng(0)
CENTRES = np.array([[0, 0], [20, 0], [0, 20], [20, 20]], np.float32)
BLOBS = np.concatenate([c + RNG.standard_normal((30, 2)).astype(np.float32) for c in CENTRES])


def coverage(z: np.ndarray, x: np.ndarray = BLOBS) -> dict[str, float]:
    metric = ModeCoverage(1)
    metric.update_real(x, np.zeros(len(x), int))
    metric.update_synthetic(z, np.zeros(len(z), int), np.ones(len(z)))
    return metric.compute()


class TestModeCoverage:
    def test_one_image_in_each_mode_covers_all(self) -> None:
        shares = coverage(CENTRES)
        assert shares["mode_coverage_ipc"] == shares["mode_coverage_ipc_nearest"] == 1

    @pytest.mark.parametrize("modes", [1, 2, 3])
    def test_images_that_collapse_cover_what_they_are_in(self, modes: int) -> None:
        shares = coverage(CENTRES[np.arange(4) % modes] + np.linspace(0, 0.1, 4, dtype=np.float32)[:, None])
        assert shares["mode_coverage_ipc"] == shares["mode_coverage_ipc_nearest"] == modes / 4

    def test_an_image_beyond_the_radius_is_nearest_only(self) -> None:
        z = CENTRES + np.float32([-6, -6])
        shares = coverage(z)
        assert shares["mode_coverage_ipc"] == 0 and shares["mode_coverage_ipc_nearest"] == 1

    def test_the_radius_is_the_90th_percentile(self) -> None:
        """Members at distances 1 to 10 of one mode: 9.1 by linear interpolation."""
        ring = np.concatenate([np.arange(1, 11), -np.arange(1, 11)]).astype(np.float32)
        x = np.stack([ring, np.zeros(20, np.float32)], axis=1)
        for far, share in ((9.0, 1), (9.2, 0)):
            assert coverage(np.array([[0, far]], np.float32), x)["mode_coverage_ipc"] == share

    def test_fifty_modes_by_loops(self) -> None:
        x, z = (RNG.standard_normal((n, 3)).astype(np.float32) for n in (400, 30))
        metric = ModeCoverage(1, seed=7)
        metric.update_real(x, np.zeros(400, int))
        metric.update_synthetic(z, np.zeros(30, int), np.ones(30))
        rows = metric.real.get()[0]
        modes = kmeans(rows, 50, 50, 1, ("mode_coverage", 7, 0, 50)).centroids.astype(np.float64)

        def nearest(a: np.ndarray) -> tuple[int, float]:
            far = np.linalg.norm(modes - a, axis=1)
            return int(far.argmin()), float(far.min())

        members: dict[int, list[float]] = {}
        for mode, far in map(nearest, x):
            members.setdefault(mode, []).append(far**2)
        hits = [nearest(a) for a in z]
        inside = {mode for mode, far in hits if far**2 <= np.percentile(members[mode], 90)}
        shares = metric.compute()
        assert shares["mode_coverage_50"] == pytest.approx(len(inside) / len(members))
        assert shares["mode_coverage_50_nearest"] == pytest.approx(len({mode for mode, _ in hits}) / len(members))
        assert 0 < shares["mode_coverage_50"] < shares["mode_coverage_50_nearest"] < 1

    def test_classes_count_alike_and_one_without_images_counts_as_nothing(self) -> None:
        metric = ModeCoverage(3)
        for label in (0, 1, 2):
            metric.update_real(BLOBS, np.full(len(BLOBS), label))
        metric.update_synthetic(CENTRES, np.zeros(4, int), np.ones(4))
        metric.update_synthetic(CENTRES[[0, 0, 0, 1]], np.ones(4, int), np.ones(4))
        assert metric.compute()["mode_coverage_ipc"] == pytest.approx((1 + 0.5 + 0) / 3)


def w2(x: np.ndarray, z: np.ndarray, w: np.ndarray | None = None) -> dict[str, float]:
    metric = Wasserstein(1)
    metric.update_real(x, np.zeros(len(x), int))
    metric.update_synthetic(z, np.zeros(len(z), int), w)
    return metric.compute()


class TestWasserstein:
    def test_on_a_line_the_sorted_points_are_matched(self) -> None:
        x, z = (RNG.standard_normal((40, 1)).astype(np.float32) for _ in range(2))
        expected = np.square(np.sort(x[:, 0].astype(np.float64)) - np.sort(z[:, 0])).mean()
        assert w2(x, z)["w2_squared"] == pytest.approx(expected, rel=1e-5)

    def test_of_a_few_points_the_best_assignment_is_found(self) -> None:
        x, z = (RNG.standard_normal((6, 3)) for _ in range(2))
        cost = np.square(x[:, None] - z).sum(axis=2)
        best = min(cost[range(6), order].mean() for order in itertools.permutations(range(6)))
        assert transport(cost, np.ones(6)) == pytest.approx(best, rel=1e-12)

    def test_with_voronoi_masses_it_is_the_quantisation_error(self) -> None:
        """And with any other weights it is more (DDOQ, section 3)."""
        x, z = RNG.standard_normal((200, 4)).astype(np.float32), RNG.standard_normal((5, 4)).astype(np.float32)
        far = np.square(x[:, None].astype(np.float64) - z).sum(axis=2)
        mass = np.bincount(far.argmin(axis=1), minlength=5)
        distances = w2(x, z, mass)
        assert distances["w2_squared"] == pytest.approx(far.min(axis=1).mean(), rel=1e-5)
        assert distances["w2_squared_voronoi"] == pytest.approx(far.min(axis=1).mean(), rel=1e-5)
        assert w2(x, z)["w2_squared"] > distances["w2_squared"] * 1.01

    def test_to_one_atom_it_is_the_second_moment(self) -> None:
        x = RNG.standard_normal((50, 3)).astype(np.float32)
        assert w2(x, np.ones((1, 3), np.float32))["w2_squared"] == pytest.approx(
            np.square(x - 1).sum(axis=1).mean(), rel=1e-5
        )

    def test_of_a_shifted_set_it_is_the_squared_shift(self) -> None:
        x = RNG.standard_normal((30, 3)).astype(np.float32)
        assert w2(x, x + np.float32([3, 0, 4]))["w2_squared"] == pytest.approx(25, rel=1e-5)

    def test_an_atom_without_weight_is_not_there(self) -> None:
        x, z = RNG.standard_normal((30, 2)).astype(np.float32), np.array([[0, 0], [1, 1]], np.float32)
        assert w2(x, z, np.array([1.0, 0])) == w2(x, z[:1])

    def test_it_is_the_mean_over_classes(self) -> None:
        x = np.array([[0], [0], [0], [5]], np.float32)
        metric = Wasserstein(2)
        metric.update_real(x, np.array([0, 0, 0, 1]))
        metric.update_synthetic(np.array([[2], [4]], np.float32), np.array([0, 1]), np.ones(2))
        assert metric.compute()["w2_squared"] == pytest.approx((4 + 1) / 2)

    def test_a_class_on_one_side_only_has_no_distance(self) -> None:
        metric = Wasserstein(2)
        metric.update_real(BLOBS, np.arange(len(BLOBS)) % 2)
        metric.update_synthetic(CENTRES, np.zeros(4, int), np.ones(4))
        assert metric.compute() == {}
