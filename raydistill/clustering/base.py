"""What a clustering is: how the prototypes of a class, or a tree of them, are found among its latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, Self

import numpy as np

from raydistill.clustering.points import Points
from raydistill.clustering.tree import Tree
from raydistill.config import Config
from raydistill.errors import BadInput

OWN = ("ipc", "seed")  # keys outside section `cluster` that a clustering may read


@dataclass(frozen=True)
class Clusters:
    """centroids (K, D) float32; labels (N,) int64; size (K,) int64; sse (K,) float64; medoid (K,) int64 row indices.

    The medoid is the member nearest its centroid. K is at most the number of distinct points. `seen` (K,) int64, of an
    algorithm that sees points one after the other: how many its stream gave each; with the centroids, its state.
    """

    centroids: np.ndarray
    labels: np.ndarray
    size: np.ndarray
    sse: np.ndarray
    medoid: np.ndarray
    seen: np.ndarray | None = None


@dataclass(frozen=True)
class Clustering(ABC):
    """Subclass as a frozen dataclass, set the class variables, register.

    Its fields are what it reads of the configuration: `ipc`, `seed`, or keys of section `cluster` by their names. Their
    values, in the order of the fields, are its identity; `version` rises when others come out of the same.
    """

    summary: ClassVar[str]
    version: ClassVar[int] = 1
    makes: ClassVar[Literal["clusters", "tree"]] = "clusters"
    in_memory: ClassVar[int | None] = None  # numbers of a class above which another algorithm works by chunks

    @classmethod
    def of(cls, config: Config) -> Self:
        """The clustering with its fields from the configuration. Raises BadInput for a field that is no key of it."""
        known = [*OWN, *type(config.cluster).model_fields]
        for name in (f.name for f in fields(cls) if f.name not in known):
            raise BadInput(f"clustering {cls.__name__}: field {name!r} is no key that one reads ({', '.join(known)})")
        return cls(**{f.name: getattr(config if f.name in OWN else config.cluster, f.name) for f in fields(cls)})

    @abstractmethod
    def cluster(self, points: Points, class_id: str) -> Clusters | Tree:
        """What `makes` says of the points of one class, a pure function of self and the arguments.

        Clusters: min(ipc, distinct points), largest first. A tree: of cluster.leaves leaves, or as many as there are
        distinct points. The same whether the points lie in memory or in pieces. Raises BadInput for a class that it
        cannot do.
        """

    def by_chunks(self, count: int, dim: int) -> bool:
        """Whether `count` points of `dim` numbers are more than `in_memory`, so that the other algorithm has them."""
        return self.in_memory is not None and count * dim > self.in_memory

    def more_even(self) -> str | None:
        """KEY=VALUE that is known to bring the sizes of its cells nearer to each other; None = nothing is."""
        return None

    def values(self) -> list[object]:
        """The fields in order."""
        return [getattr(self, f.name) for f in fields(self)]


def of_labels(x: np.ndarray, labels: np.ndarray, k: int) -> Clusters:
    """The clusters that labels (N,) below k make of x (N, D) float32, largest first (ties by centroid).

    Centroids are the float64 means of their members, so that sizes, means and distances agree exactly.
    """
    size = np.bincount(labels, minlength=k)
    kept = np.flatnonzero(size)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(size)[:-1])
    sums = np.stack([x[members[j]].sum(axis=0, dtype=np.float64) for j in kept])
    centroids = (sums / size[kept, None]).astype(np.float32)
    order = np.lexsort((centroids[:, 0], -size[kept]))
    centroids, kept = centroids[order], kept[order]
    rank = np.full(k, -1, np.int64)
    rank[kept] = np.arange(len(kept))
    labels = rank[labels]
    distance = np.square(x - centroids[labels]).sum(axis=1, dtype=np.float64)
    sse = np.bincount(labels, weights=distance, minlength=len(kept))
    medoid = np.array([members[j][np.argmin(distance[members[j]])] for j in kept], np.int64)
    return Clusters(centroids, labels, np.bincount(labels, minlength=len(kept)), sse, medoid)
