"""Distances between two sets: closed forms, plain float64 loops, and torchmetrics."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from raydistill import registry
from raydistill.metrics.base import Metric

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def drawn_anew() -> None:
    """A test draws the same whatever ran before it."""
    RNG.bit_generator.state = START


def filled(name: str, x: np.ndarray, z: np.ndarray, w: np.ndarray | None = None, **labels: np.ndarray) -> Metric:
    """The metric after one update a side; labels `y` and `yz`, or one class."""
    y, yz = labels.get("y", np.zeros(len(x), int)), labels.get("yz", np.zeros(len(z), int))
    metric = registry.get("metric", name)(int(max(y.max(), yz.max())) + 1)
    metric.update_real(x, y)
    metric.update_synthetic(z, yz, np.ones(len(z)) if w is None else w)
    return metric


def value(name: str, x: np.ndarray, z: np.ndarray, w: np.ndarray | None = None) -> float:
    return filled(name, x, z, w).compute()[name]


def f32(*shape: int, scale: float = 1.0, mean: float = 0.0) -> np.ndarray:
    return (RNG.standard_normal(shape) * scale + mean).astype(np.float32)


def with_moments(n: int, mean: np.ndarray, root: np.ndarray) -> np.ndarray:
    """n points whose mean is exactly `mean` and whose unbiased covariance is exactly root^T root, up to float32."""
    raw = RNG.standard_normal((n, len(mean)))
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T
    return (white @ root + mean).astype(np.float32)


class TestFid:
    def test_of_gaussians_that_commute(self) -> None:
        """sum (mu_1 - mu_2)^2 + (s_1 - s_2)^2 over the axes."""
        m1, m2, s1, s2 = np.array([0, 1, 2.0]), np.array([1, 1, -1.0]), np.array([1, 2, 3.0]), np.array([2, 2, 0.5])
        fid = value("fid", with_moments(50, m1, np.diag(s1)), with_moments(40, m2, np.diag(s2)))
        assert fid == pytest.approx(np.square(m1 - m2).sum() + np.square(s1 - s2).sum(), rel=1e-5)

    def test_of_gaussians_that_do_not_commute(self) -> None:
        """The two-dimensional closed form: tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)) for M = S_1 S_2."""
        a, b = np.array([[2, 0.7], [0, 1]]), np.array([[0.5, 0], [1.5, 1]])
        product = (a.T @ a) @ (b.T @ b)
        root = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
        expected = np.trace(a.T @ a + b.T @ b) - 2 * root
        zero = np.zeros(2)
        assert value("fid", with_moments(40, zero, a), with_moments(30, zero, b)) == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize(("n", "m"), [(300, 200), (300, 8)], ids=["more images than features", "fewer"])
    def test_is_the_root_by_its_definition(self, n: int, m: int) -> None:
        x, z = f32(n, 20, mean=3) @ f32(20, 20), f32(m, 20, mean=3)
        s1, s2 = np.cov(x.T.astype(np.float64)), np.cov(z.T.astype(np.float64))
        values, vectors = np.linalg.eigh(s1)
        half = vectors * np.sqrt(values.clip(0)) @ vectors.T
        root = np.sqrt(np.linalg.eigvalsh(half @ s2 @ half).clip(0)).sum()
        apart = np.square(x.mean(axis=0, dtype=np.float64) - z.mean(axis=0, dtype=np.float64)).sum()
        assert value("fid", x, z) == pytest.approx(apart + np.trace(s1 + s2) - 2 * root, rel=1e-6)

    @pytest.mark.parametrize("m", [150, 12])
    def test_agrees_with_torchmetrics(self, m: int) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        identity = torch.nn.Identity()
        identity.num_features = 16
        reference = FrechetInceptionDistance(feature=identity).set_dtype(torch.float64)
        x, z = f32(200, 16), f32(m, 16, scale=0.7, mean=0.2)
        reference.update(torch.from_numpy(x).double(), real=True)
        reference.update(torch.from_numpy(z).double(), real=False)
        assert value("fid", x, z) == pytest.approx(float(reference.compute()), rel=1e-5)

    def test_a_mean_far_from_zero_costs_no_digits(self) -> None:
        x, z = (np.round(f32(n, 5) * 64) / 64 for n in (200, 60))  # so that adding 4096 is exact
        assert value("fid", x + 4096, z + 4096) == pytest.approx(value("fid", x, z), rel=1e-9)

    def test_a_single_image_is_a_point(self) -> None:
        x = with_moments(50, np.array([1.0, 0]), np.diag([2.0, 1]))
        assert value("fid", x, np.array([[4, 4]], np.float32)) == pytest.approx(9 + 16 + 4 + 1, rel=1e-5)

    def test_weighted_moments_are_unbiased(self) -> None:
        x, z = f32(60, 3), f32(4, 3)
        w = np.array([1, 2, 1, 3.0])
        p = w / w.sum()
        mean = p @ z
        cov = (z - mean).T * p @ (z - mean) / (1 - p @ p)
        root = np.sqrt(np.linalg.eigvals(np.cov(x.T) @ cov).real.clip(0)).sum()
        expected = np.square(x.mean(axis=0) - mean).sum() + np.trace(np.cov(x.T) + cov) - 2 * root
        assert value("fid", x, z, w) == pytest.approx(expected, rel=1e-4)


def u_statistic(kernel, x: np.ndarray, z: np.ndarray) -> float:
    """Unbiased MMD^2 by loops over pairs."""
    xx = np.mean([kernel(a, b) for a, b in itertools.permutations(x.astype(np.float64), 2)])
    zz = np.mean([kernel(a, b) for a, b in itertools.permutations(z.astype(np.float64), 2)])
    return xx + zz - 2 * np.mean([kernel(a, b) for a in x.astype(np.float64) for b in z.astype(np.float64)])


class TestKid:
    def test_is_the_u_statistic_when_a_subset_is_everything(self) -> None:
        x, z = f32(12, 5), f32(12, 5, mean=0.5)
        values = filled("kid", x, z).compute()
        assert values["kid"] == pytest.approx(u_statistic(lambda a, b: (a @ b / 5 + 1) ** 3, x, z), rel=1e-5)
        assert values["kid_std"] == 0

    @pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
    def test_agrees_with_torchmetrics(self) -> None:
        from torchmetrics.image.kid import KernelInceptionDistance

        x, z = f32(30, 8), f32(30, 8, mean=0.3)
        reference = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=2, subset_size=30)
        reference.update(torch.from_numpy(x), real=True)
        reference.update(torch.from_numpy(z), real=False)
        assert value("kid", x, z) == pytest.approx(float(reference.compute()[0]), rel=1e-4)

    def test_subsets_estimate_the_whole(self) -> None:
        x, z = f32(200, 4), f32(150, 4, mean=0.7)
        metric = filled("kid", x, z)
        metric.subset_size = 60
        values = metric.compute()
        whole = u_statistic(lambda a, b: (a @ b / 4 + 1) ** 3, x, z)
        assert values["kid_std"] > 0
        assert abs(values["kid"] - whole) < 4 * values["kid_std"] / math.sqrt(metric.subsets)

    def test_is_unbiased_for_a_handful_of_images(self) -> None:
        """Of one distribution the mean over draws is zero, though each set has five images."""
        x = f32(100, 3)
        metrics = [filled("kid", x, f32(5, 3)) for _ in range(60)]
        for metric in metrics:
            metric.subsets = 5
        estimates = [metric.compute()["kid"] for metric in metrics]
        assert abs(np.mean(estimates)) < 4 * np.std(estimates) / math.sqrt(60)

    @pytest.mark.parametrize("name", ["kid", "mmd"])
    def test_one_image_has_no_pair(self, name: str) -> None:
        assert filled(name, f32(9, 3), f32(1, 3)).compute() == {}


class TestMmd:
    def test_is_the_u_statistic_at_the_median(self) -> None:
        x, z = f32(11, 4), f32(7, 4, mean=1)
        pooled = np.concatenate([x, z]).astype(np.float64)
        median = np.median([np.square(a - b).sum() for a, b in itertools.combinations(pooled, 2)])
        expected = u_statistic(lambda a, b: np.exp(-np.square(a - b).sum() / median), x, z)
        assert value("mmd", x, z) == pytest.approx(math.sqrt(expected), rel=1e-5)

    def test_of_two_points_that_repeat(self) -> None:
        """Sets at distance d with no spread: 2 (1 - exp(-d^2 / d^2)) squared, as half of the pairs are d apart."""
        x, z = np.zeros((6, 2), np.float32), np.full((6, 2), 3, np.float32)
        assert value("mmd", x, z) == pytest.approx(math.sqrt(2 * (1 - math.exp(-1))), rel=1e-6)

    def test_a_pair_weighs_the_product_of_its_weights(self) -> None:
        x, z, w = f32(9, 3), f32(5, 3, mean=1), np.array([1, 2, 1, 3, 1.0])
        p = w / w.sum()
        pooled = np.concatenate([x, z]).astype(np.float64)
        d = np.square(pooled[:, None] - pooled).sum(axis=2)
        k = np.exp(-d / np.median(d[np.triu_indices(14, 1)]))
        within = sum(p[i] * p[j] * k[9 + i, 9 + j] for i, j in itertools.permutations(range(5), 2)) / (1 - p @ p)
        real = (k[:9, :9].sum() - 9) / 72
        assert value("mmd", x, z, w) == pytest.approx(
            math.sqrt(real + within - 2 * k[:9, 9:].mean(axis=0) @ p), rel=1e-5
        )

    def test_large_sets_are_sampled_and_their_median_is_too(self) -> None:
        x, z = f32(300, 4), f32(40, 4, mean=0.8)
        whole = value("mmd", x, z)
        metric = filled("mmd", x, z)
        metric.pool = 120
        assert metric.compute()["mmd"] == pytest.approx(whole, rel=0.1)
        assert metric.compute()["mmd"] != whole


class TestMeans:
    def test_l2(self) -> None:
        x, z = np.array([[0, 0], [2, 0]], np.float32), np.array([[4, 4], [4, 8]], np.float32)
        assert value("l2", x, z) == pytest.approx(math.hypot(3, 6))
        assert value("l2", x, z, np.array([3, 1.0])) == pytest.approx(math.hypot(3, 5))

    def test_cosine(self) -> None:
        x, z = np.array([[1, 0], [3, 0]], np.float32), np.array([[1, 1], [1, -1]], np.float32)
        assert value("cosine", x, z) == 1
        assert value("cosine", x, z, np.array([1, 0.0])) == pytest.approx(math.sqrt(0.5))
        assert value("cosine", x, -z) == -1

    def test_a_zero_mean_has_no_direction(self) -> None:
        assert filled("cosine", np.array([[1], [-1]], np.float32), np.ones((2, 1), np.float32)).compute() == {}


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.array([[u @ v / (np.linalg.norm(u) * np.linalg.norm(v)) for v in b] for u in a])


class TestRepresentativenessAndDiversity:
    X, Y = f32(40, 5), np.arange(40) % 2
    Z, YZ = f32(9, 5), np.arange(9) % 2

    def test_representativeness_by_loops(self) -> None:
        values = filled("representativeness", self.X, self.Z, y=self.Y, yz=self.YZ).compute()
        c = cosines(self.Z, self.X)
        within = [c[np.ix_(k == self.YZ, k == self.Y)].max(axis=1).min() for k in (0, 1)]
        assert values["representativeness"] == pytest.approx(c.max(axis=1).min(), rel=1e-5)
        assert values["representativeness_class"] == pytest.approx(np.mean(within), rel=1e-5)

    def test_diversity_by_loops(self) -> None:
        values = filled("diversity", self.X, self.Z, y=self.Y, yz=self.YZ).compute()
        c = cosines(self.Z, self.Z)
        np.fill_diagonal(c, -np.inf)
        within = [c[np.ix_(k == self.YZ, k == self.YZ)].max() for k in (0, 1)]
        assert values["diversity"] == pytest.approx(1 - c.max(), rel=1e-5)
        assert values["diversity_class"] == pytest.approx(1 - np.mean(within), rel=1e-5)

    def test_a_copy_ends_diversity_and_length_does_not_matter(self) -> None:
        z = np.array([[1, 0], [0, 2], [5, 0]], np.float32)
        assert value("diversity", self.X[:, :2], z) == 0
        assert value("diversity", self.X[:, :2], z[:2]) == 1
        assert value("diversity", self.X[:, :2], np.array([[1, 0], [-3, 0]], np.float32)) == 2
        assert value("representativeness", np.array([[0, 9]], np.float32), z) == 0

    def test_an_image_of_a_large_set_is_not_compared_with_itself(self) -> None:
        assert value("diversity", f32(1, 64), f32(4100, 64)) > 0.1

    def test_a_class_with_one_image_leaves_the_mean_over_classes_out(self) -> None:
        values = filled("diversity", self.X, self.Z[:3], y=self.Y, yz=self.YZ[:3]).compute()
        assert set(values) == {"diversity"}

    def test_a_class_without_images_leaves_the_mean_over_classes_out(self) -> None:
        values = filled("representativeness", self.X, self.Z, y=self.Y, yz=np.zeros(9, int)).compute()
        assert set(values) == {"representativeness"}


class TestPrdc:
    def reference(self, x: np.ndarray, z: np.ndarray, k: int) -> dict[str, float]:
        """By the definitions, one ball at a time."""

        def reach(s: np.ndarray) -> list[float]:
            return [sorted(np.linalg.norm(s - a, axis=1))[k] for a in s]

        x, z = x.astype(np.float64), z.astype(np.float64)
        rx, rz = reach(x), reach(z)
        inside = np.array([[np.linalg.norm(a - b) <= r for b in z] for a, r in zip(x, rx, strict=True)])
        recalled = [any(np.linalg.norm(a - b) <= r for b, r in zip(z, rz, strict=True)) for a in x]
        return {
            "precision": inside.any(axis=0).mean(),
            "recall": float(np.mean(recalled)),
            "density": inside.sum(axis=0).mean() / k,
            "coverage": inside.any(axis=1).mean(),
        }

    @pytest.mark.parametrize("mean", [0, 1])
    def test_by_the_definitions(self, mean: float) -> None:
        x, z = f32(70, 3), f32(25, 3, mean=mean)
        assert filled("prdc", x, z).compute() == pytest.approx(self.reference(x, z, 5), rel=1e-6)

    def test_on_a_line(self) -> None:
        """Reals at 0 to 9 reach 5 to either side at the ends, so 14.5 is in no ball and 13.5 in that of 9 alone."""
        x = np.arange(10, dtype=np.float32)[:, None]
        assert filled("prdc", x, np.array([[14.5]], np.float32)).compute()["precision"] == 0
        values = filled("prdc", x, np.array([[13.5]], np.float32)).compute()
        assert values == pytest.approx({"precision": 1, "density": 1 / 5, "coverage": 1 / 10})

    def test_sets_far_apart_share_nothing(self) -> None:
        values = filled("prdc", f32(40, 3), f32(20, 3, mean=50)).compute()
        assert values == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}

    def test_one_mode_of_two_is_precise_and_covers_half(self) -> None:
        x = np.concatenate([f32(50, 3), f32(50, 3, mean=50)])
        values = filled("prdc", x, x[:50]).compute()
        assert values["precision"] == 1 and values["coverage"] == values["recall"] == 0.5


class TestWeights:
    """In every metric: equal ones are none, and what weighs nothing is not there."""

    NAMES = registry.names("metric")

    def both(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        x, z = f32(60, 5, mean=1.0), f32(12, 5, scale=1.5, mean=1.0)
        return x, np.arange(60) % 2, z, np.arange(12) % 2

    @pytest.mark.parametrize("name", NAMES)
    def test_equal_ones_are_the_bits_of_none(self, name: str) -> None:
        x, y, z, yz = self.both(name)
        metric = registry.get("metric", name)(2)
        metric.update_real(x, y)
        metric.update_synthetic(z, yz)
        assert filled(name, x, z, np.ones(12), y=y, yz=yz).compute() == metric.compute()

    @pytest.mark.parametrize("name", NAMES)
    def test_an_image_that_weighs_nothing_is_not_there(self, name: str) -> None:
        x, y, z, yz = self.both(name)
        far = np.concatenate([z, f32(2, 5, mean=-9.0)])
        w = np.r_[np.ones(12), 0.0, 0.0]
        without = filled(name, x, z, y=y, yz=yz).compute()
        assert filled(name, x, far, w, y=y, yz=np.r_[yz, 0, 1]).compute() == pytest.approx(without, rel=1e-6, abs=1e-7)
        assert filled(name, x, far, y=y, yz=np.r_[yz, 0, 1]).compute() != pytest.approx(without, rel=1e-6, abs=1e-7)

    def test_precision_and_density_are_means_by_weight(self) -> None:
        """Two of four images lie on real ones, and weigh three times as much as the two that lie nowhere."""
        x = f32(30, 3)
        z = np.concatenate([x[:2], f32(2, 3, mean=50.0)])
        plain, weighted = filled("prdc", x, z).compute(), filled("prdc", x, z, np.array([3.0, 3, 1, 1])).compute()
        assert (plain["precision"], weighted["precision"]) == (0.5, 0.75)
        assert weighted["density"] == pytest.approx(1.5 * plain["density"])
        assert weighted["coverage"] == plain["coverage"] and weighted["recall"] == plain["recall"]
