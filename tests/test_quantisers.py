"""Quantisers against what is known of optimal quantisation: atoms and masses in one dimension, and fixed points."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.cluster import MiniBatchKMeans
from tiny_run import TinyRun, config

from raydistill.clustering.base import Clusters
from raydistill.clustering.clvq import Clvq, by_batches, one_by_one
from raydistill.clustering.kmeans import kmeans
from raydistill.clustering.minibatch import MiniBatch
from raydistill.clustering.points import Whole
from raydistill.clustering.streams import batches, without_empty
from raydistill.config import load
from raydistill.seeding import generator

COUNT = 20_000
# Atoms of the optimal quantisers of N(0, 1) (Max 1960, table I), and the masses of their cells.
GAUSSIAN = {2: [0.7980], 3: [0.0, 1.2240], 4: [0.4528, 1.5100], 5: [0.0, 0.7646, 1.7240]}


def shuffled(x: np.ndarray) -> np.ndarray:
    return generator("shuffled").permutation(x)[:, None].astype(np.float32)


def gaussian() -> np.ndarray:
    """As evenly spread under the density as points can be, in any order."""
    return shuffled(norm.ppf((np.arange(COUNT) + 0.5) / COUNT))


def by_value(c: Clusters) -> tuple[np.ndarray, np.ndarray]:
    """Atoms and masses from left to right."""
    order = c.centroids[:, 0].argsort()
    return c.centroids[order, 0], c.size[order] / c.size.sum()


def clvq(x: np.ndarray, k: int, batch: int = 1, passes: int = 1) -> Clusters:
    return Clvq(ipc=k, seed=0, batch=batch, passes=passes).cluster(Whole(x), "a")


def known(k: int) -> tuple[np.ndarray, np.ndarray]:
    right = np.array(GAUSSIAN[k])
    atoms = np.unique(np.concatenate([-right, right]))
    edges = np.concatenate([[-np.inf], (atoms[1:] + atoms[:-1]) / 2, [np.inf]])
    return atoms, np.diff(norm.cdf(edges))


class TestKnownQuantisers:
    @pytest.mark.parametrize("k", GAUSSIAN)
    def test_of_the_gaussian_distribution(self, k: int) -> None:
        atoms, masses = by_value(kmeans(gaussian(), k, 1000, 3, ("gauss", k)))
        assert np.allclose(atoms, known(k)[0], atol=2e-3) and np.allclose(masses, known(k)[1], atol=2e-3)

    @pytest.mark.parametrize("k", GAUSSIAN)
    @pytest.mark.parametrize("batch", [1, 50])
    def test_a_stream_comes_near_their_error(self, k: int, batch: int) -> None:
        """Steps of 1 / n forget a start slowly: atoms are still on their way, but the error is nearly the least."""
        atoms, masses = known(k)
        least = 1 - masses @ atoms**2  # of a stationary quantiser of variance one
        assert least <= clvq(gaussian(), k, batch).sse.sum() / COUNT < 1.2 * least

    @pytest.mark.parametrize("k", [1, 4, 10])
    def test_of_the_uniform_distribution(self, k: int) -> None:
        x = shuffled((np.arange(COUNT) + 0.5) / COUNT)
        atoms, masses = by_value(kmeans(x, k, 1000, 5, ("uniform", k)))
        assert np.allclose(atoms, (np.arange(k) + 0.5) / k, atol=2e-3) and np.allclose(masses, 1 / k, atol=2e-3)

    def test_a_mixture_has_its_masses(self) -> None:
        shares = np.array([0.2, 0.3, 0.5])
        x = shuffled(np.repeat([-10.0, 0.0, 10.0], (COUNT * shares).astype(int)))
        x += generator("mixture").standard_normal(x.shape).astype(np.float32)
        ways = [clvq(x, 3), MiniBatch(3, 0, 20, False).cluster(Whole(x), "a"), kmeans(x, 3, 100, 3, ("mixture",))]
        for clusters in ways:
            atoms, masses = by_value(clusters)
            assert np.array_equal(masses, shares) and np.allclose(atoms, [-10, 0, 10], atol=0.2)


class TestStreams:
    def test_many_passes_end_where_lloyd_stands_still(self) -> None:
        x = gaussian()[:2000]
        atoms, _ = by_value(clvq(x, 4, passes=200))
        cells = np.abs(x - atoms).argmin(axis=1)
        assert np.allclose(atoms, [x[cells == k].mean() for k in range(4)], atol=5e-3)

    def test_the_first_point_of_an_atom_takes_its_place_and_each_further_one_moves_it_to_the_mean(self) -> None:
        x = np.array([[0.0], [10.0], [2.0], [14.0], [1.0]])
        z, n = one_by_one(iter([x[:2], x[2:]]), np.array([[1.0], [9.0]]))
        assert z.tolist() == [[1.0], [12.0]] and n.tolist() == [3, 2]

    def test_batches_of_one_are_the_same(self) -> None:
        x, start = generator("one").standard_normal((100, 3)), generator("start").standard_normal((5, 3))
        z, n = one_by_one(iter([x]), start)
        other, counts = by_batches(batches(iter([x]), 1), start)
        assert np.allclose(z, other) and np.array_equal(n, counts)

    def test_every_point_is_counted_in_every_pass(self) -> None:
        clusters = clvq(gaussian()[:500], 7, passes=3)
        assert clusters.seen is not None and clusters.seen.sum() == 1500 and clusters.size.sum() == 500

    @pytest.mark.parametrize("size", [1, 4, 7, 100])
    def test_batches_are_the_points_in_order(self, size: int) -> None:
        x = np.arange(40.0).reshape(20, 2)
        pieces = list(batches(iter(np.split(x, [3, 11])), size))
        assert np.array_equal(np.concatenate(pieces), x) and {len(b) for b in pieces[:-1]} <= {size}

    def test_an_atom_without_a_point_goes_to_the_farthest_one(self) -> None:
        x = np.array([[0.0], [1.0], [2.0], [9.0]])
        atoms, labels = without_empty(Whole(x), np.arange(4), np.array([[1.0], [1.0], [100.0]]))
        assert sorted(atoms[:, 0]) == [0.0, 1.0, 9.0] and len(np.unique(labels)) == 3

    def test_no_more_points_than_atoms_are_the_atoms(self) -> None:
        clusters = clvq(np.array([[3.0], [1.0], [3.0]], np.float32), 5)
        assert clusters.centroids[:, 0].tolist() == [3.0, 1.0] and clusters.size.tolist() == [2, 1]


@pytest.mark.parametrize(("algorithm", "told"), [("clvq", True), ("minibatch", False), ("kmeans", False)])
def test_what_a_stream_gave_its_atoms_is_committed_by_class_in_their_order(
    algorithm: str, told: bool, tmp_path: Path
) -> None:
    """As many as there are latents a pass; sizes are those of the last exact pass. Scikit-learn keeps its counts."""
    tiny = TinyRun(tmp_path / "run")
    tiny.config = config(cluster={"algorithm": algorithm, "restarts": 1, "passes": 2})
    tiny.finish(["encode", "group", "cluster"])
    table = tiny.sealed("cluster").read(["class_index", "size"]).to_pylist()
    for bucket, clusters in zip(*(tiny.sealed(name).records for name in ("group", "cluster")), strict=True):
        assert ("seen" in clusters.meta) == told
        for index, count in zip(bucket.meta["classes"], bucket.meta["counts"], strict=True):
            sizes = [r["size"] for r in table if r["class_index"] == index]
            assert sum(sizes) == count
            if told:
                seen = clusters.meta["seen"][str(index)]
                assert len(seen) == len(sizes) and sum(seen) == 2 * count


class TestAsD4m:
    def test_it_is_scikit_learn_fed_by_the_stream(self) -> None:
        x = gaussian()[:1000]
        clusters = MiniBatch(4, 0, 5, False).cluster(Whole(x), "a")
        seed = int(generator("minibatch", 0, "a").integers(2**31))
        solver = MiniBatchKMeans(n_clusters=4, n_init=1, random_state=seed)
        for i in range(0, 1000, 20):
            solver.partial_fit(x[i : i + 20].astype(np.float64))
        assert np.allclose(np.sort(clusters.centroids[:, 0]), np.sort(solver.cluster_centers_[:, 0]))

    def test_the_release_loses_what_is_left_of_a_class(self) -> None:
        x = gaussian()[:44]  # 14 batches of three, and two points
        far = np.concatenate([x[:42], [[100.0], [101.0]]]).astype(np.float32)

        def moved(lost: bool) -> np.ndarray:
            """Where the stream left the atom that the two points are nearest to."""
            return MiniBatch(3, 0, 1, lost).cluster(Whole(far), "a").centroids.max()

        assert moved(True) < 4 < moved(False)


def test_ten_points_an_atom_are_taken_at_a_time_unless_another_number_is_asked_for() -> None:
    assert Clvq.of(load("quickstart", ["ipc=7"])) == Clvq(ipc=7, seed=0, batch=70, passes=1)
    assert Clvq.of(load("quickstart", ["ipc=7", "cluster.batch=1"])).batch == 1


class TestEvenCells:
    """In many dimensions whichever atom is a mean first has nearly every point that comes after."""

    x = generator("wide").standard_normal((400, 512)).astype(np.float32)

    def alone(self, of: Clvq | MiniBatch) -> float:
        return float((of.cluster(Whole(self.x), "a").size == 1).mean())

    @pytest.mark.parametrize(
        ("algorithm", "one"),
        [(Clvq, {"batch": 1, "passes": 1}), (Clvq, {"batch": 1, "passes": 5}), (MiniBatch, {"expand": 1})],
    )
    def test_the_setting_that_is_told_makes_them_more_even(self, algorithm: type, one: dict[str, int]) -> None:
        by_one = algorithm(ipc=10, seed=0, **one, **({"drop_last": False} if algorithm is MiniBatch else {}))
        key, value = by_one.more_even().removeprefix("cluster.").split("=")
        more = replace(by_one, **{key: int(value)})
        assert self.alone(by_one) >= 0.5 and self.alone(more) <= 0.2 and more.more_even() is None
