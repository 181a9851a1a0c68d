"""A binary tree of clusters in the order in which it grew, so that any smaller tree is cut from it exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raydistill.errors import BadInput


@dataclass(frozen=True)
class Tree:
    """M = 2 L - 1 nodes over N points, numbered as they were made: step s = 1, 2, .. made nodes 2 s - 1 and 2 s.

    parent (M,) int32, -1 for the root; split (M,) int32 the step that split the node, 0 for a leaf; size (M,) int64;
    sse (M,) float64; medoid (M,) int64 rows; centroid (M, D) float32; leaf (N,) int32 the leaf of every row.
    """

    parent: np.ndarray
    split: np.ndarray
    size: np.ndarray
    sse: np.ndarray
    medoid: np.ndarray
    centroid: np.ndarray
    leaf: np.ndarray

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def born(self) -> np.ndarray:
        """The step that made each node, (M,) int32; 0 for the root."""
        return ((np.arange(len(self)) + 1) // 2).astype(np.int32)

    @property
    def level(self) -> np.ndarray:
        """Steps from the root, (M,) int32."""
        level = np.zeros(len(self), np.int32)
        for node in range(1, len(self)):
            level[node] = level[self.parent[node]] + 1
        return level

    @property
    def leaves(self) -> np.ndarray:
        """The nodes that are not split, in order of creation, (L,)."""
        return np.flatnonzero(self.split == 0)

    def ancestors(self, node: int) -> list[int]:
        """From the parent to the root; empty for the root."""
        ancestors = []
        while (node := int(self.parent[node])) >= 0:
            ancestors.append(node)
        return ancestors

    def members(self, node: int) -> np.ndarray:
        """The rows below a node, sorted, (size,)."""
        below = np.zeros(len(self), bool)
        below[node] = True
        for other in range(node + 1, len(self)):
            below[other] = below[self.parent[other]]
        return np.flatnonzero(below[self.leaf])

    def cut(self, leaves: int) -> Tree:
        """The tree as it was when it had so many leaves. Raises BadInput if it never had."""
        have = (len(self) + 1) // 2
        if not 1 <= leaves <= have:
            raise BadInput(f"a tree of {have} leaves has no {leaves}")
        nodes = 2 * leaves - 1
        up = np.arange(len(self))
        for node in range(nodes, len(self)):
            up[node] = up[self.parent[node]]
        return Tree(
            self.parent[:nodes],
            np.where(self.split[:nodes] < leaves, self.split[:nodes], 0).astype(np.int32),
            self.size[:nodes],
            self.sse[:nodes],
            self.medoid[:nodes],
            self.centroid[:nodes],
            up[self.leaf].astype(np.int32),
        )
