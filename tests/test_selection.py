"""Herding and k-centre: what brute force finds on tiny sets, what is proved of them on any, and what the plan shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import TinyRun, config

from raydistill import registry
from raydistill.clustering.selection import ROWS, herding, kcenter, squared
from raydistill.errors import BadInput
from raydistill.methods.base import ClassView
from raydistill.store import schemas
from raydistill.store.artifact import Artifact

Select = Callable[[np.ndarray, int], np.ndarray]
NAMES = {"herding": herding, "kcenter": kcenter}
BOTH = pytest.mark.parametrize("select", NAMES.values(), ids=NAMES)

grids = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=9).map(
    lambda points: np.array(points, np.float32)
)


def normal(count: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)


def mean_error(x: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """Distance of the mean of the first 1, 2, .. picks from the mean of all, (k,)."""
    x = x.astype(np.float64)
    running = np.cumsum(x[picks], axis=0) / np.arange(1, len(picks) + 1)[:, None]
    return np.linalg.norm(running - x.mean(0), axis=1)


def radius(x: np.ndarray, picks: np.ndarray) -> float:
    """Distance of the point that is farthest from all picks."""
    x = x.astype(np.float64)
    return float(np.linalg.norm(x[:, None] - x[None, list(picks)], axis=2).min(1).max())


class TestBoth:
    @BOTH
    def test_one_pick_is_the_point_nearest_the_mean(self, select: Select) -> None:
        x = normal(50, 3)
        assert select(x, 1).tolist() == [np.linalg.norm(x - x.mean(0), axis=1).argmin()]

    @BOTH
    @pytest.mark.parametrize("count", [1, 2, 7, ROWS, ROWS + 1, 3 * ROWS - 1])
    def test_as_many_picks_as_points_are_all_of_them(self, select: Select, count: int) -> None:
        assert sorted(select(normal(count, 2), count)) == list(range(count))

    @BOTH
    @given(x=grids)
    def test_picks_are_distinct_rows_and_fewer_are_the_beginning_of_more(self, select: Select, x: np.ndarray) -> None:
        every = select(x, len(x))
        assert every.dtype == np.int64 and sorted(every) == list(range(len(x)))
        for k in range(1, len(x)):
            assert np.array_equal(select(x, k), every[:k])

    @BOTH
    def test_equal_points_are_taken_from_the_first_row_on(self, select: Select) -> None:
        assert select(np.ones((5, 3), np.float32), 4).tolist() == [0, 1, 2, 3]

    @BOTH
    def test_origin_and_layout_of_the_numbers_play_no_part(self, select: Select) -> None:
        half = normal(300, 10).astype(np.float16)
        x = half.astype(np.float32)
        wide = np.zeros((300, 20), np.float32)
        wide[:, ::2] = x
        for other in (half, x.astype(np.float64), np.asfortranarray(x), wide[:, ::2]):
            assert np.array_equal(select(other, 20), select(x, 20))
        assert np.array_equal(half.astype(np.float32), x), "the input is left as it was"

    @BOTH
    def test_the_order_of_the_points_plays_no_part(self, select: Select) -> None:
        x, order = normal(200, 5), np.random.default_rng(1).permutation(200)
        assert np.array_equal(order[select(x[order], 15)], select(x, 15))

    @BOTH
    def test_nothing_and_too_many_are_refused(self, select: Select) -> None:
        for count, k in ((0, 1), (5, 0), (5, 6)):
            with pytest.raises(ValueError, match=f"cannot pick {k} of {count} points"):
                select(np.zeros((count, 2), np.float32), k)

    def test_distances_are_exact_and_those_of_equal_rows_equal(self) -> None:
        x = np.tile(normal(1, 4097), (2 * ROWS + 3, 1))
        x[7] += 1
        far = squared(x, x[7])
        assert far[7] == 0 and len(set(np.delete(far, 7))) == 1
        np.testing.assert_allclose(far, np.square(x.astype(np.float64) - x[7]).sum(1), rtol=1e-12)


class TestHerding:
    @given(x=grids)
    def test_every_pick_is_the_best_one_next(self, x: np.ndarray) -> None:
        picks = herding(x, len(x))
        for k in range(1, len(x) + 1):
            others = set(range(len(x))) - set(picks[: k - 1])
            best = min(mean_error(x, np.array([*picks[: k - 1], i]))[-1] for i in others)
            assert mean_error(x, picks[:k])[-1] == pytest.approx(best, abs=1e-9)

    @given(x=grids)
    def test_the_error_is_at_most_the_farthest_distance_over_root_k(self, x: np.ndarray) -> None:
        """|k error|^2 grows by no more than the mean squared distance of the points that are left."""
        errors = mean_error(x, herding(x, len(x)))
        farthest = np.linalg.norm(x - x.mean(0), axis=1).max()
        assert (errors <= farthest / np.sqrt(np.arange(1, len(x) + 1)) + 1e-6).all()
        assert errors[-1] == pytest.approx(0, abs=1e-9), "the mean of all is the mean"

    def test_two_sides_are_taken_in_turn(self) -> None:
        x = np.array([[-1.0], [1.0]] * 20, np.float32)
        errors = mean_error(x, herding(x, 40))
        np.testing.assert_allclose(errors, [1 / k if k % 2 else 0 for k in range(1, 41)], atol=1e-12)

    @pytest.mark.parametrize("size", [2, 8, 32])
    def test_the_error_falls_as_1_over_k(self, size: int) -> None:
        """k error stays below the typical distance from the mean; for random picks it grows as the root of k."""
        x = normal(2000, size)
        errors, k = mean_error(x, herding(x, 400)), np.arange(1, 401)
        typical = np.sqrt(np.square(x - x.mean(0)).sum(1).mean())
        assert (k * errors <= typical).all()
        at_random = [mean_error(x, np.random.default_rng(s).permutation(2000)[:400])[-1] for s in range(20)]
        assert errors[-1] < 0.1 * np.mean(at_random)

    def test_it_is_no_better_than_the_best_subset(self) -> None:
        """Greedy picks are not the best k, but on a dozen points they are not far from them."""
        for seed in range(20):
            x = normal(12, 2, seed)
            mine = mean_error(x, herding(x, 4))[-1]
            best = min(np.linalg.norm(x[list(c)].mean(0) - x.mean(0)) for c in combinations(range(12), 4))
            assert best - 1e-6 <= mine <= best + 0.25 * np.linalg.norm(x - x.mean(0), axis=1).max()


class TestKCenter:
    def test_a_line_is_halved_again_and_again(self) -> None:
        x = np.arange(9, dtype=np.float32)[:, None]
        assert kcenter(x, 5).tolist() == [4, 0, 8, 2, 6]

    @given(x=grids)
    def test_every_pick_is_the_farthest_from_those_before(self, x: np.ndarray) -> None:
        picks = kcenter(x, len(x))
        for k in range(1, len(x)):
            far = np.linalg.norm(x[:, None] - x[None, picks[:k]], axis=2).min(1)
            assert far[picks[k]] == far.max()

    @given(x=grids, k=st.integers(1, 5))
    def test_its_radius_is_at_most_twice_the_best(self, x: np.ndarray, k: int) -> None:
        k = min(k, len(x))
        best = min(radius(x, np.array(c)) for c in combinations(range(len(x)), k))
        assert best - 1e-9 <= radius(x, kcenter(x, k)) <= 2 * best + 1e-9

    @given(x=grids)
    def test_every_distinct_point_is_picked_before_a_duplicate(self, x: np.ndarray) -> None:
        distinct = len(np.unique(x, axis=0))
        picks = kcenter(x, distinct)
        assert len(np.unique(x[picks], axis=0)) == distinct and radius(x, picks) == 0


class TestMethods:
    @pytest.mark.parametrize("name", NAMES)
    def test_slots_are_the_picks_of_the_classs_latents(self, name: str) -> None:
        latents = normal(30, 16).reshape(30, 4, 2, 2).astype(np.float16)
        ids = [f"{i:02d}.png" for i in range(30)]
        view = ClassView("n01", ids, np.zeros((0, 4, 2, 2), np.float32), np.zeros(0, np.int64), [], latents)
        slots = registry.get("method", name)().slots(view, 6, 0)
        assert [s.image_id for s in slots] == [ids[i] for i in NAMES[name](latents.reshape(30, 16), 6)]
        assert {(s.prototype_id, s.weight) for s in slots} == {(-1, 1.0)}

    @pytest.mark.parametrize("name", NAMES)
    def test_a_class_with_too_few_images_is_refused(self, name: str) -> None:
        view = ClassView("n01", ["a", "b"], np.zeros(0), np.zeros(0), [], np.zeros((2, 4, 2, 2), np.float16))
        with pytest.raises(BadInput, match="ipc=3 is more than the 2 usable images of class 'n01'"):
            registry.get("method", name)().slots(view, 3, 0)

    def test_latents_that_were_not_asked_for_have_no_points(self) -> None:
        assert ClassView("n01", [], np.zeros(0), np.zeros(0), []).points.shape == (0, 0)


class TestPlan:
    @pytest.fixture(scope="class")
    def tiny(self, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
        run = TinyRun(tmp_path_factory.mktemp("tiny") / "run")
        run.config = config()
        run.finish(["encode", "group"])
        return run

    @pytest.mark.parametrize("name", NAMES)
    def test_shows_every_class_its_own_latents(self, tiny: TinyRun, name: str) -> None:
        classes = tiny.sealed("group")
        rows = classes.read().to_pylist()
        plan = tiny.finish([f"plan {name}"])[f"plan {name}"]
        picked = tiny.stage(f"plan {name}").artifact.read_table(plan.records[0])
        for index in range(2):
            ids = [r["image_id"] for r in rows if r["class_index"] == index]
            mine = schemas.tensor_numpy(classes.of(index)["latent"])
            expected = [ids[i] for i in NAMES[name](mine.reshape(len(mine), -1), 3)]
            mask = picked["class_index"].to_numpy() == index
            assert picked.filter(mask)["image_id"].to_pylist() == expected

    def test_reads_latents_only_for_a_method_that_asks(self, tiny: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
        read, seen = Artifact.read_table, set()

        def spy(self: Artifact, record, row_group=None, columns=None):  # type: ignore[no-untyped-def]
            seen.update(columns or ())
            return read(self, record, row_group, columns)

        monkeypatch.setattr(Artifact, "read_table", spy)
        work = tiny.stage("plan random").work
        views = [view for record in work.classes.records for view, *_ in work._views(record)]
        assert seen == {"class_index", "image_id"}
        assert {v.latents.shape for v in views} == {(0, *tiny.shape)}

    @pytest.mark.parametrize("name", NAMES)
    def test_its_images_are_the_real_ones(self, tiny: TinyRun, name: str) -> None:
        picked = tiny.finish([f"plan {name}", f"sample {name}"])[f"sample {name}"]
        table = tiny.stage(f"sample {name}").artifact.read_table(picked.records[0])
        assert set(table["image_id"].to_pylist()) <= set(tiny.train.ids.to_pylist())


def test_the_command_line_lists_them() -> None:
    from raydistill.manual import methods

    assert "herding      real images whose mean" in methods() and "kcenter      real images that cover" in methods()


def test_an_image_that_is_nearest_two_nodes_of_a_tree_is_not_taken_twice() -> None:
    """Of a class of two images the root and its larger child have the first as medoid, both."""
    centroids = np.zeros((2, 4, 2, 2), np.float32)
    view = ClassView("n01", ["a", "b"], centroids, np.array([2, 1]), ["a", "a"], np.zeros((2, 4, 2, 2), np.float32))
    with pytest.raises(BadInput, match=r"choose hierarchy\.selection=leaves"):
        registry.get("method", "kmeans")().slots(view, 2, 0)
    apart = replace(view, medoids=["a", "b"])
    assert [slot.image_id for slot in registry.get("method", "kmeans")().slots(apart, 2, 0)] == ["a", "b"]
