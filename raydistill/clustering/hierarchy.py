"""Which nodes of a class's tree fill its slots: coarse and fine modes (ManifoldGD's paper), or leaves (its release)."""

from __future__ import annotations

from typing import Literal

import numpy as np

from raydistill.clustering.tree import Tree
from raydistill.errors import BadInput
from raydistill.seeding import generator

Selection = Literal["levels", "leaves", "release"]
Walk = Literal["largest", "random"]


def leaves_needed(selection: Selection, ipc: int, factor: int) -> int:
    """How many leaves the tree must have grown for a selection: `levels` also draws on nodes below the cut at IPC."""
    return factor * ipc if selection == "levels" else ipc


def select(
    tree: Tree,
    ipc: int,
    selection: Selection = "levels",
    start_level: int | None = None,
    walk: Walk = "largest",
    factor: int = 4,
    key: tuple[object, ...] = (),
) -> np.ndarray:
    """ipc distinct nodes of the tree, (ipc,) int64, in the order of the slots.

    `levels`: of the tree cut at factor x ipc leaves (or all that it has), one node of each level from start_level
    (null: floor(log2 ipc)) to the root, the largest or a random one; then random leaves of the tree cut at ipc leaves,
    first those that lie below the fewest nodes already taken.
    `leaves`: the leaves of the tree cut at ipc, largest first.
    `release`: the same set in the order of ManifoldGD's code: a random leaf of each depth from start_level (its
    LEVEL - 1; null: 0; at most the deepest) down, then the others in random order from the deepest level up.

    Only nodes that a tree of factor x ipc leaves has play a part, so that one tree serves every IPC. Raises BadInput if
    the tree has fewer than ipc leaves, or no node at start_level.
    """
    have = len(tree.leaves)
    if have < ipc:
        if tree.sse[tree.leaves].any():
            raise BadInput(f"the tree was grown to {have} leaves, too few for ipc={ipc}; raise cluster.leaves")
        raise BadInput(f"only {have} distinct latents for ipc={ipc}; lower ipc or remove duplicate images")
    rng = generator("hierarchy", selection, *key)
    small = tree.cut(ipc)
    if selection == "leaves":
        return small.leaves[np.lexsort((small.leaves, -small.size[small.leaves]))]
    if selection == "release":
        return _release(small, start_level or 0, rng)
    large = tree.cut(min(have, factor * ipc))
    taken = _walk(large, int(np.log2(ipc)) if start_level is None else start_level, walk, rng)[:ipc]
    return np.array([*taken, *_fill(small, taken, ipc - len(taken), rng)], np.int64)


def _walk(tree: Tree, start: int, walk: Walk, rng: np.random.Generator) -> list[int]:
    """A node of every level from `start` to the root; of equally large ones the eldest."""
    level = tree.level
    if start > level.max():
        raise BadInput(
            f"hierarchy.start_level={start} is deeper than the tree, whose deepest level is {level.max()}; lower it"
        )
    taken = []
    for depth in range(start, -1, -1):
        nodes = np.flatnonzero(level == depth)
        taken.append(int(nodes[tree.size[nodes].argmax()] if walk == "largest" else rng.choice(nodes)))
    return taken


def _fill(small: Tree, taken: list[int], count: int, rng: np.random.Generator) -> list[int]:
    """Random leaves of `small` that are not taken, first those that lie below the fewest taken nodes."""
    free = rng.permutation([n for n in small.leaves if n not in taken])
    covered = [sum(a in taken for a in small.ancestors(n)) for n in free]
    return free[np.argsort(covered, kind="stable")][:count].tolist()


def _release(tree: Tree, start: int, rng: np.random.Generator) -> np.ndarray:
    depth = tree.level[tree.leaves]
    deepest = int(depth.max())
    free = {d: rng.permutation(tree.leaves[depth == d]).tolist() for d in range(deepest + 1)}
    swept = [free[d].pop() for d in range(min(start, deepest), deepest + 1) if free[d]]
    return np.array(swept + [n for d in range(deepest, -1, -1) for n in free[d]], np.int64)
