"""The divisive tree: where the answer is known, that a smaller tree is the beginning of a larger one, and its error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import BisectingKMeans
from threadpoolctl import threadpool_limits

from raydistill.clustering import divisive
from raydistill.clustering.divisive import grow
from raydistill.clustering.points import Whole
from raydistill.clustering.tree import Tree
from raydistill.errors import BadInput

FIELDS = ("parent", "split", "size", "sse", "medoid", "centroid", "leaf")
grids = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=1, max_size=24)
PATHS = pytest.mark.parametrize("lowest", [256, 1], ids=["inner products", "chunks"])


@pytest.fixture
def path(lowest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few points of low dimension are split by inner products, or by chunks as many points are."""
    monkeypatch.setattr(divisive, "LOWEST", lowest)


def same(a: Tree, b: Tree) -> bool:
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in FIELDS)


def line(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def clouds(count: int = 300, dim: int = 64, centres: int = 12, seed: int = 0) -> np.ndarray:
    """Like latents of a class: overlapping clouds, float16."""
    rng = np.random.default_rng(seed)
    means = 0.7 * rng.standard_normal((centres, dim))
    return (means[rng.integers(centres, size=count)] + rng.standard_normal((count, dim))).astype(np.float16)


def check(x: np.ndarray, tree: Tree) -> None:
    """What holds of every tree: children share out their parent's points, and the numbers are about these points."""
    x = x.astype(np.float64)
    assert len(tree) == 2 * len(tree.leaves) - 1 and tree.parent[0] == -1 and tree.born[0] == 0
    assert sorted(tree.split[tree.split > 0]) == list(range(1, len(tree.leaves))), "a step splits one node"
    for node in range(len(tree)):
        members = tree.members(node)
        assert len(members) == tree.size[node] > 0
        apart = ((x[members] - x[members].mean(0)) ** 2).sum(1)
        np.testing.assert_allclose(tree.centroid[node], x[members].mean(0), rtol=1e-6, atol=1e-6)
        assert tree.sse[node] == pytest.approx(apart.sum(), rel=1e-6, abs=1e-6)
        assert tree.medoid[node] in members
        assert ((x[tree.medoid[node]] - x[members].mean(0)) ** 2).sum() <= apart.min() + 1e-6 * (1 + apart.max())
        children = np.flatnonzero(tree.parent == node)
        assert len(children) == (2 if tree.split[node] else 0)
        if len(children):
            assert (tree.born[children] == tree.split[node]).all()
            assert (tree.level[children] == tree.level[node] + 1).all()
            assert np.array_equal(np.sort(np.concatenate([tree.members(c) for c in children])), members)
            assert tree.size[children[0]] >= tree.size[children[1]], "the larger half comes first"
            assert tree.sse[children].sum() <= tree.sse[node] + 1e-6 * (1 + tree.sse[node])


@PATHS
@pytest.mark.usefixtures("path")
class TestClosedForms:
    def test_two_blobs_are_the_two_halves(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((50, 8)).astype(np.float32)
        x[rng.permutation(50)[:20]] += 100
        tree = grow(x, 2)
        high = x[:, 0] > 50
        assert np.array_equal(tree.members(1), np.flatnonzero(~high))
        assert np.array_equal(tree.members(2), np.flatnonzero(high))
        check(x, tree)

    def test_points_on_a_line_make_the_known_tree(self) -> None:
        """0 1 | 10 12 | 100: first 100 is set apart, then the pairs, then the wider pair, then the other."""
        tree = grow(line(0, 1, 10, 12, 100), 5)
        assert tree.parent.tolist() == [-1, 0, 0, 1, 1, 4, 4, 3, 3]
        assert tree.split.tolist() == [1, 2, 0, 4, 3, 0, 0, 0, 0]
        assert tree.born.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]
        assert tree.level.tolist() == [0, 1, 1, 2, 2, 3, 3, 3, 3]
        assert [tree.members(n).tolist() for n in range(9)] == [
            [0, 1, 2, 3, 4], [0, 1, 2, 3], [4], [0, 1], [2, 3], [2], [3], [0], [1]
        ]  # fmt: skip
        np.testing.assert_allclose(tree.centroid[:, 0], [24.6, 5.75, 100, 0.5, 11, 10, 12, 0, 1], rtol=1e-6)
        np.testing.assert_allclose(tree.sse, [7219.2, 112.75, 0, 0.5, 2, 0, 0, 0, 0], atol=1e-9)
        assert tree.medoid.tolist() == [3, 2, 4, 0, 2, 2, 3, 0, 1]

    @pytest.mark.parametrize(("rule", "chosen"), [("size", range(8)), ("sse", range(8, 14)), ("variance", [14, 15])])
    def test_the_rule_says_which_leaf_is_next(self, rule: divisive.Split, chosen: range | list[int]) -> None:
        """Three far clusters: of most points, of most SSE (324), of most variance (100)."""
        x = np.concatenate([line(*np.arange(8) / 10), line(1000, 1009, 1018, 1000, 1009, 1018), line(3000, 3020)])
        tree = grow(x, 4, rule)
        assert [tree.cut(3).members(n).tolist()[0] for n in tree.cut(3).leaves] in ([0, 8, 14], [14, 0, 8], [14, 8, 0])
        assert tree.members(int(np.flatnonzero(tree.split == 3)[0])).tolist() == list(chosen)

    def test_one_point_is_a_root(self) -> None:
        tree = grow(line(3), 7)
        assert tree.leaves.tolist() == [0] and tree.sse.tolist() == [0.0] and tree.leaf.tolist() == [0]

    def test_two_points_are_a_root_and_two_leaves(self) -> None:
        tree = grow(line(5, 3), 7)
        assert [tree.members(n).tolist() for n in range(3)] == [[0, 1], [0], [1]]
        assert tree.sse.tolist() == [2.0, 0.0, 0.0] and tree.medoid.tolist() == [0, 0, 1]

    def test_equal_points_are_never_apart(self) -> None:
        x = line(*[1.0] * 5, *[2.0] * 3, -0.0, 0.0)
        tree = grow(x, 10)
        assert len(tree.leaves) == 3 and sorted(tree.size[tree.leaves]) == [2, 3, 5]
        check(x, tree)
        assert len(grow(np.ones((4, 3), np.float16), 4)) == 1

    def test_as_many_leaves_as_points_leave_no_error(self) -> None:
        x = clouds(40, 8)
        tree = grow(x, 100)
        assert len(tree.leaves) == 40 and not tree.sse[tree.leaves].any()
        assert sorted(tree.medoid[tree.leaves]) == list(range(40))

    @settings(max_examples=30)
    @given(points=grids, leaves=st.integers(1, 12), rule=st.sampled_from(["sse", "variance", "size"]))
    def test_any_points_are_shared_out(self, points, leaves, rule) -> None:
        x = np.array(points, np.float32)
        tree = grow(x, leaves, rule, restarts=3)
        check(x, tree)
        assert len(tree.leaves) == min(leaves, len(set(points)))

    def test_a_smaller_tree_is_the_beginning_of_a_larger_one(self) -> None:
        x = clouds(120, 24)
        large = grow(x, 40, key=(1, "a"))
        check(x, large)
        for leaves in (1, 2, 9, 39, 40):
            assert same(large.cut(leaves), grow(x, leaves, key=(1, "a")))

    def test_points_too_near_for_their_distances_are_halved(self) -> None:
        """Distinct, but their squared distance is below the rounding of their squared norm."""
        x = np.full((6, 4), 2.0**27, np.float64)
        x[:, 0] += np.arange(6) * 1e-8 * 2**27 / 64
        tree = grow(x, 6)
        assert len(tree.leaves) == 6 and sorted(tree.size[tree.leaves]) == [1] * 6


def test_both_paths_agree() -> None:
    x = clouds(400, 300)
    kernel = grow(x, 30)
    chunked = _by_chunks(x, 30)
    assert np.array_equal(kernel.leaf, chunked.leaf) and np.array_equal(kernel.parent, chunked.parent)
    np.testing.assert_allclose(kernel.sse, chunked.sse, rtol=1e-9, atol=1e-6)
    assert np.array_equal(kernel.centroid, chunked.centroid), "sums of float16 numbers are exact in float64"


def _by_chunks(x: np.ndarray, leaves: int) -> Tree:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(divisive, "LOWEST", 1)
        patch.setattr(divisive, "KERNEL", 1)
        return grow(x, leaves)


@pytest.mark.parametrize("leaves", [2, 20])
def test_sse_is_no_worse_than_scikit_learns(leaves: int) -> None:
    """Over several classes: of one, either is ahead by chance, by two or three in a hundred."""
    ratios = []
    for seed in range(6):
        x = clouds(200, 128, 20, seed)
        tree = grow(x, leaves, key=(seed,))
        with threadpool_limits(1):
            theirs = BisectingKMeans(leaves, n_init=10, init="k-means++", random_state=0).fit(x.astype(np.float32))
        ratios.append(tree.sse[tree.leaves].sum() / theirs.inertia_)
    assert np.mean(ratios) <= 1.01 and max(ratios) <= 1.05


def test_it_is_a_function_of_the_points_and_the_key() -> None:
    x = clouds(200, 16)
    first = grow(x, 20, key=(0, "a"))
    np.random.seed(1)
    assert same(first, grow(Whole(x.copy()), 20, key=(0, "a")))
    assert same(first, grow(x.astype(np.float32), 20, key=(0, "a"))), "float16 numbers are what they are"
    assert not same(first, grow(x, 20, key=(1, "a"))) and not same(first, grow(x, 20, key=(0, "b")))


def test_the_layout_in_memory_plays_no_part() -> None:
    x = clouds(200, 16)
    wide = np.zeros((200, 32), np.float16)
    wide[:, ::2] = x
    assert same(grow(x, 20), grow(wide[:, ::2], 20)) and same(grow(x, 20), grow(np.asfortranarray(x), 20))


@pytest.mark.parametrize(("points", "leaves"), [(0, 1), (5, 0)])
def test_nothing_cannot_be_grown(points: int, leaves: int) -> None:
    with pytest.raises(ValueError, match=f"cannot grow {leaves} leaves of {points} points"):
        grow(np.zeros((points, 2), np.float32), leaves)


@pytest.mark.parametrize("leaves", [0, 4])
def test_what_never_was_cannot_be_cut(leaves: int) -> None:
    with pytest.raises(BadInput, match=f"a tree of 3 leaves has no {leaves}"):
        grow(line(1, 2, 4), 3).cut(leaves)
