"""What metrics remember of a set, and the distances that they share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydistill.metrics.memory import BLOCK, Moments, Rows
from raydistill.metrics.sets import by_class, class_mean, directions, pair_distances, squared_distances

RNG = np.random.default_rng(0)
X, Y, W = RNG.standard_normal((300, 4)).astype(np.float32) + 5, np.arange(300) % 3, RNG.uniform(0, 2, 300)


class TestMoments:
    def seen(self, *cuts: int, scatter: bool = True) -> Moments:
        moments = Moments(scatter)
        for a, b in zip((0, *cuts), (*cuts, 300), strict=True):
            moments.add(X[a:b], Y[a:b], W[a:b])
        return moments

    def test_mean_and_covariance_are_numpys(self) -> None:
        moments = self.seen(1, 100)
        np.testing.assert_allclose(moments.mean, np.average(X.astype(np.float64), axis=0, weights=W), rtol=1e-12)
        np.testing.assert_allclose(moments.covariance, np.cov(X.T.astype(np.float64), aweights=W), rtol=1e-12)

    def test_equal_weights_are_numpys_unbiased_covariance(self) -> None:
        moments = Moments(scatter=True)
        moments.add(X, Y, np.full(300, 0.25))
        np.testing.assert_allclose(moments.covariance, np.cov(X.T.astype(np.float64)), rtol=1e-12)

    @given(st.lists(st.integers(0, 300), max_size=5).map(sorted))
    def test_batches_agree(self, cuts: list[int]) -> None:
        np.testing.assert_allclose(self.seen(*cuts).covariance, self.seen().covariance, rtol=1e-11)

    def test_more_rows_than_a_block(self) -> None:
        x = RNG.standard_normal((BLOCK + 10, 2)).astype(np.float32)
        moments = Moments(scatter=True)
        moments.add(x, np.zeros(len(x), int), np.ones(len(x)))
        np.testing.assert_allclose(moments.covariance, np.cov(x.T.astype(np.float64)), rtol=1e-12)

    def test_rows_without_weight_do_not_count(self) -> None:
        moments = self.seen()
        moments.add(X[:5] + 100, Y[:5], np.zeros(5))
        np.testing.assert_array_equal(moments.mean, self.seen().mean)
        assert moments.count == 305

    def test_one_row_has_no_covariance(self) -> None:
        moments = Moments(scatter=True)
        moments.add(X[:1], Y[:1], W[:1])
        assert not moments.covariance.any()


def kept(rows: Rows) -> set[bytes]:
    return {row.tobytes() for row in rows.get()[0]}


class TestRows:
    def rows(self, order: np.ndarray, limit: int | None = None, by_class: bool = False, step: int = 50) -> Rows:
        memory = Rows(0, limit, by_class)
        for i in range(0, len(order), step):
            at = order[i : i + step]
            memory.add(X[at], Y[at], W[at])
        return memory

    @pytest.mark.parametrize(("limit", "by_class"), [(None, False), (40, False), (40, True), (1000, True)])
    def test_what_is_kept_depends_on_the_rows_alone(self, limit: int | None, by_class: bool) -> None:
        whole = self.rows(np.arange(300), limit, by_class, step=300).get()
        turned = RNG.permutation(300)
        parts = [self.rows(at, limit, by_class, step=7) for at in np.array_split(turned, 3)]
        for part in parts[1:]:
            parts[0].merge(part)
        for rows in (self.rows(turned, limit, by_class).get(), parts[0].get()):
            assert all(np.array_equal(a, b) for a, b in zip(rows, whole, strict=True))

    def test_rows_keep_their_labels_and_weights(self) -> None:
        x, y, w = self.rows(RNG.permutation(300), 40).get()
        index = {row.tobytes(): i for i, row in enumerate(X)}
        at = [index[row.tobytes()] for row in x]
        assert len(x) == 40 and np.array_equal(y, Y[at]) and np.array_equal(w, W[at])

    def test_the_limit_is_of_each_class(self) -> None:
        memory = self.rows(np.arange(300), 40, by_class=True)
        assert np.bincount(memory.get()[1]).tolist() == [40, 40, 40] and memory.count == 300

    def test_another_seed_keeps_others_and_a_smaller_limit_keeps_some_of_the_same(self) -> None:
        def of(seed: int, limit: int) -> set[bytes]:
            rows = Rows(seed, limit)
            rows.add(X, Y, W)
            return kept(rows)

        assert of(0, 40) != of(1, 40) and of(0, 20) < of(0, 40)

    def test_the_choice_is_fair(self) -> None:
        """Each row is kept 40 of 300 times, up to four standard deviations, over 200 seeds."""
        times = np.zeros(300)
        index = {row.tobytes(): i for i, row in enumerate(X)}
        for seed in range(200):
            rows = Rows(seed, 40)
            rows.add(X, Y, W)
            times[[index[row] for row in kept(rows)]] += 1
        expected, share = 200 * 40 / 300, 40 / 300
        assert np.abs(times - expected).max() < 4.5 * np.sqrt(200 * share * (1 - share))

    def test_memory_is_bounded_on_the_way(self) -> None:
        rows = Rows(0, 100)
        for i in range(40):
            x = RNG.standard_normal((1000, 1)).astype(np.float32)
            rows.add(x, np.zeros(1000, int), np.ones(1000))
            assert rows._held <= 2 * 100 + BLOCK + 1000, i
        assert len(rows.get()[0]) == 100 and rows.count == 40_000


class TestSets:
    def test_distances_are_those_of_loops(self) -> None:
        a, b = X[:20], X[20:27]
        expected = [[np.square(u.astype(np.float64) - v).sum() for v in b] for u in a]
        np.testing.assert_allclose(squared_distances(a, b), expected, rtol=1e-5)
        np.testing.assert_allclose(pair_distances(a[:7], b), np.diagonal(expected), rtol=1e-12)

    @pytest.mark.parametrize("far", [0, 1e4])
    def test_equal_rows_are_at_no_distance(self, far: float) -> None:
        x = X + np.float32(far)
        d = squared_distances(x, x.copy())
        assert not d.diagonal().any() and (d >= 0).all()
        assert not squared_distances(x, x).diagonal().any()

    def test_a_far_mean_does_not_drown_distances(self) -> None:
        a, b = (np.round(v * 64) / 64 for v in (X[:20], X[20:30]))
        np.testing.assert_allclose(squared_distances(a + 4096, b + 4096), squared_distances(a, b), rtol=1e-5)

    def test_directions_have_length_one_or_zero(self) -> None:
        x = np.array([[3, 4], [0, 0], [1e-20, 0]], np.float32)
        np.testing.assert_allclose(directions(x), [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)

    def test_by_class_names_every_class(self) -> None:
        by_label = by_class(np.array([2, 0, 2, 4]), 5)
        assert [rows.tolist() for rows in by_label] == [[1], [], [0, 2], [], [3]]
        assert [rows.tolist() for rows in by_class(np.array([0, 0]), 1)] == [[0, 1]]

    def test_a_mean_over_classes_is_over_all_of_them(self) -> None:
        assert class_mean([1.0, 2.0]) == 1.5 and class_mean([1.0, None]) is None and class_mean([]) is None
