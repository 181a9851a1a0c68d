"""Selecting nodes of a tree: each rule on trees that are known node by node, and what holds of any tree."""

from __future__ import annotations

import numpy as np
import pytest

from raydistill.clustering.divisive import grow
from raydistill.clustering.hierarchy import leaves_needed, select
from raydistill.clustering.tree import Tree
from raydistill.errors import BadInput


def tree_of(*parents: int) -> Tree:
    """A tree by the node that each step splits; leaves hold as many points as their number says: leaf n has n + 1."""
    parent, split = [-1], [0]
    for step, node in enumerate(parents, 1):
        split[node] = step
        parent += [node, node]
        split += [0, 0]
    m = len(parent)
    leaf = np.concatenate([np.full(n + 1, n) for n in range(m) if not split[n]])
    size = np.bincount(leaf, minlength=m)
    for node in range(m - 1, 0, -1):
        size[parent[node]] += size[node]
    return Tree(np.array(parent, np.int32), np.array(split, np.int32), size, np.ones(m), np.zeros(m, np.int64),
                np.zeros((m, 1), np.float32), leaf.astype(np.int32))  # fmt: skip


#        0            levels 0
#     1     2         1          sizes: 3: 4  5: 6  6: 7  7: 8  8: 9  ->  4: 17  1: 21  2: 13
#   3  4   5  6       2
#     7 8             3
KNOWN = tree_of(0, 1, 2, 4)


def cloud_tree(count: int = 200, leaves: int = 60, seed: int = 0) -> Tree:
    return grow(np.random.default_rng(seed).standard_normal((count, 12)).astype(np.float16), leaves, restarts=3)


TREES = [cloud_tree(seed=s) for s in range(2)]


class TestLevels:
    def test_the_largest_node_of_each_level_up_to_the_root(self) -> None:
        assert select(KNOWN, 3, start_level=2).tolist() == [4, 1, 0]
        assert select(KNOWN, 4, start_level=3).tolist() == [8, 4, 1, 0]
        assert select(KNOWN, 2, start_level=3).tolist() == [8, 4], "it ends when the slots are full"
        assert select(KNOWN, 1, start_level=0).tolist() == [0]

    def test_leaves_of_the_cut_at_ipc_fill_the_rest(self) -> None:
        """After 4 and 1 and the root: of the leaves 3, 4, 5, 6 of the cut at four the ones below none of 4 and 1."""
        chosen = {tuple(select(KNOWN, 4, start_level=2, key=(s,))) for s in range(40)}
        assert chosen == {(4, 1, 0, 5), (4, 1, 0, 6)}
        wide = {tuple(select(KNOWN, 4, start_level=1, key=(s,))) for s in range(40)}
        assert wide == {(1, 0, 5, 6), (1, 0, 6, 5)}

    def test_covered_leaves_come_last(self) -> None:
        """The cut at five has 3, 5, 6, 7, 8; 5 and 6 are free, 3 lies below 1, 7 and 8 below 1 and 4."""
        selected = select(KNOWN, 5, start_level=1).tolist()
        assert selected[:2] == [1, 0] and sorted(selected[2:4]) == [5, 6] and selected[4] in (3, 7, 8)

    def test_a_random_walk_takes_any_node_of_each_level(self) -> None:
        walks = [select(KNOWN, 3, start_level=2, walk="random", key=(s,)) for s in range(60)]
        assert [set(level) for level in zip(*walks, strict=True)] == [{3, 4, 5, 6}, {1, 2}, {0}]

    @pytest.mark.parametrize(("ipc", "level"), [(1, 0), (2, 1), (10, 3), (15, 3)])
    def test_left_open_it_starts_at_the_level_that_could_hold_ipc_nodes(self, ipc: int, level: int) -> None:
        tree = TREES[0]
        assert np.array_equal(select(tree, ipc), select(tree, ipc, start_level=level))
        assert tree.level[select(tree, ipc)[0]] == level

    def test_nodes_below_factor_times_ipc_leaves_play_no_part(self) -> None:
        for tree in TREES:
            for ipc in (1, 3, 10):
                for walk in ("largest", "random"):
                    small = tree.cut(leaves_needed("levels", ipc, 4))
                    assert np.array_equal(select(tree, ipc, walk=walk), select(small, ipc, walk=walk))

    def test_below_the_tree_there_is_no_start(self) -> None:
        with pytest.raises(BadInput, match=r"start_level=4 is deeper than the tree, whose deepest level is 3"):
            select(KNOWN, 3, start_level=4)
        with pytest.raises(BadInput, match=r"start_level=3 is deeper than the tree, whose deepest level is 2"):
            select(KNOWN, 1, start_level=3, factor=4)


class TestLeaves:
    def test_they_are_those_of_the_cut_largest_first(self) -> None:
        assert select(KNOWN, 5, "leaves").tolist() == [8, 7, 6, 5, 3]
        assert select(KNOWN, 3, "leaves").tolist() == [4, 2, 3]
        for tree in TREES:
            assert sorted(select(tree, 17, "leaves")) == tree.cut(17).leaves.tolist()


class TestRelease:
    def test_it_is_a_sweep_down_then_the_deepest_levels_first(self) -> None:
        """Leaves of the cut at five by depth: 2: 3 5 6, 3: 7 8."""
        for seed in range(20):
            selected = select(KNOWN, 5, "release", start_level=1, key=(seed,)).tolist()
            assert selected[0] in (3, 5, 6) and selected[1] in (7, 8), "one of each depth"
            assert selected[2] in (7, 8) and set(selected[3:]) < {3, 5, 6}, "then the deepest first"
        late = select(KNOWN, 5, "release", start_level=9).tolist()
        assert set(late[:2]) == {7, 8} and set(late[2:]) == {3, 5, 6}, "a level too deep is the deepest, as released"

    def test_it_is_all_leaves_in_another_order(self) -> None:
        for tree in TREES:
            for level in (None, 0, 3, 5):
                assert sorted(select(tree, 20, "release", level)) == tree.cut(20).leaves.tolist()


@pytest.mark.parametrize("selection", ["levels", "leaves", "release"])
class TestAny:
    @pytest.mark.parametrize("ipc", [1, 2, 7, 15, 60])
    def test_ipc_distinct_nodes(self, selection: str, ipc: int) -> None:
        for tree in TREES:
            selected = select(tree, ipc, selection)
            assert selected.dtype == np.int64 and len(set(selected)) == len(selected) == ipc
            assert (selected >= 0).all() and (selected < len(tree)).all()

    def test_the_key_draws(self, selection: str) -> None:
        drawn = {tuple(select(TREES[0], 12, selection, key=(seed, c))) for seed in range(3) for c in "ab"}
        assert len(drawn) == (1 if selection == "leaves" else 6)
        again = tuple(select(TREES[0], 12, selection, key=(2, "b")))
        assert again in drawn

    def test_too_few_leaves_are_refused_with_the_reason(self, selection: str) -> None:
        same = grow(np.repeat([[1.0], [2.0]], 5, axis=0), 200)
        with pytest.raises(BadInput, match=r"^only 2 distinct latents for ipc=3; lower ipc or remove"):
            select(same, 3, selection)
        with pytest.raises(BadInput, match=r"grown to 60 leaves, too few for ipc=61; raise cluster.leaves"):
            select(TREES[0], 61, selection)
