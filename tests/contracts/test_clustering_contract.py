"""What every registered clustering must keep. A new file is picked up by itself."""

from __future__ import annotations

import json
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from grouped import grouped
from tiny_run import config

from raydistill import registry
from raydistill.clustering import points
from raydistill.clustering.base import Clustering, Clusters
from raydistill.clustering.points import Whole
from raydistill.clustering.tree import Tree
from raydistill.methods.resolve import resolve
from raydistill.stages import runner
from raydistill.stages.latents import group
from raydistill.stages.prototypes import cluster
from raydistill.stages.runner import serial
from raydistill.stages.syntheses import plan
from raydistill.store import schemas

SHAPE = (1, 2, 3)
IMAGES = 40
BORDERS = pytest.mark.parametrize(
    "border", ["below", "above"]
)  # the size at which another algorithm takes over, if any

pytestmark = pytest.mark.parametrize("name", registry.names("clustering"))


def make(name: str, border: str = "below", **more: Any) -> Clustering:
    """As a small configuration wants it; `above`: every class is so large that it is clustered by chunks."""
    kind = registry.get("clustering", name)
    if border == "above" and kind.in_memory is not None:
        kind = type(kind.__name__, (kind,), {"in_memory": 0})
    return kind.of(asked(name, **more))


def asked(name: str, ipc: int = 4, **more: Any):
    section = {"algorithm": name, "restarts": 2, "split_restarts": 2, "iterations": 20, "leaves": 12} | more
    return config(ipc=ipc, cluster=section)


def latents(count: int = IMAGES, seed: int = 0) -> np.ndarray:
    """Four overlapping clouds (count, 6) float16."""
    rng = np.random.default_rng(seed)
    return (3 * rng.standard_normal((4, 6))[rng.integers(4, size=count)] + rng.standard_normal((count, 6))).astype("f2")


def run(clustering: Clustering, x: np.ndarray, class_id: str = "n01") -> Clusters | Tree:
    return clustering.cluster(Whole(x), class_id)


def leaves(clusters: Clusters | Tree) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centroids, sizes and medoids of the clusters, or of the leaves of the tree, and the place of every row there."""
    if isinstance(clusters, Clusters):
        return clusters.centroids, clusters.size, clusters.medoid, clusters.labels
    last = clusters.leaves
    return clusters.centroid[last], clusters.size[last], clusters.medoid[last], np.searchsorted(last, clusters.leaf)


def same(a: Clusters | Tree, b: Clusters | Tree) -> bool:
    return type(a) is type(b) and all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def check(x: np.ndarray, clusters: Clusters | Tree) -> None:
    """What holds of every clustering: it is about these points, and its numbers agree with each other."""
    centroids, size, medoid, of = leaves(clusters)
    assert of.shape == (len(x),) and np.array_equal(np.bincount(of, minlength=len(size)), size)
    assert (size > 0).all() and size.sum() == len(x)
    assert centroids.shape == (len(size), x.shape[1]) and centroids.dtype == np.float32
    assert np.isfinite(centroids).all()
    assert (of[medoid] == np.arange(len(size))).all(), "medoids are members"
    if isinstance(clusters, Clusters):
        assert size.tolist() == sorted(size, reverse=True), "largest first"
        assert clusters.sse.shape == size.shape and (clusters.sse >= 0).all()
    else:
        assert clusters.parent[0] == -1 and clusters.size[0] == len(x)
        for node in np.flatnonzero(clusters.split):
            assert clusters.size[clusters.parent == node].sum() == clusters.size[node], (
                "children share out their parent"
            )


def test_it_says_what_it_is(name: str) -> None:
    kind = registry.get("clustering", name)
    assert kind.summary == kind.summary.strip() and "\n" not in kind.summary and len(kind.summary) < 100
    assert kind.version >= 1 and kind.makes in ("clusters", "tree")
    assert isinstance(run(make(name), latents()), Tree if kind.makes == "tree" else Clusters)


def test_its_fields_are_what_it_reads_of_the_configuration(name: str) -> None:
    chosen = {"restarts": 5, "split_restarts": 6, "iterations": 9, "leaves": 31, "batch": 4}
    algorithm, configuration = make(name, ipc=7, **chosen), asked(name, ipc=7, **chosen)
    for field in fields(algorithm):
        assert getattr(algorithm, field.name) == getattr(
            configuration if field.name in ("ipc", "seed") else configuration.cluster, field.name
        )
    assert json.loads(json.dumps(algorithm.values())) == algorithm.values(), "they can be part of a fingerprint"


@BORDERS
@pytest.mark.parametrize("ipc", [1, 3, IMAGES, 3 * IMAGES])
def test_as_many_clusters_as_asked_for_or_distinct_points(name: str, ipc: int, border: str) -> None:
    x = latents()
    clusters = run(make(name, border, ipc=ipc, leaves=ipc), x)
    check(x, clusters)
    count = len(leaves(clusters)[1])
    assert count >= min(ipc, IMAGES) if isinstance(clusters, Tree) else count == min(ipc, IMAGES)


@BORDERS
@pytest.mark.parametrize("ipc", [2, 3, 8])
def test_equal_points_are_never_more_clusters_than_there_are_distinct_ones(name: str, ipc: int, border: str) -> None:
    x = latents(3)[np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [9, 5, 2]))]
    clusters = run(make(name, border, ipc=ipc, leaves=ipc), x)
    check(x, clusters)
    centroids, size, _, _ = leaves(clusters)
    assert len(size) <= 3
    if ipc >= 3:
        assert sorted(size) == [2, 5, 9] and {c.tobytes() for c in centroids} == {r.tobytes() for r in x.astype("f4")}


@BORDERS
def test_a_single_image_is_its_own_prototype(name: str, border: str) -> None:
    x = latents(1)
    centroids, size, medoid, _ = leaves(run(make(name, border), x))
    assert np.array_equal(centroids, x.astype(np.float32)) and size.tolist() == [1] and medoid.tolist() == [0]


@BORDERS
def test_it_is_a_function_of_its_arguments(name: str, border: str) -> None:
    x = latents()
    kept = x.copy()
    first = run(make(name, border), x)
    np.random.seed(1)
    assert same(run(make(name, border), kept.copy()), first) and np.array_equal(x, kept)


@BORDERS
def test_the_order_in_which_images_arrive_plays_no_part(name: str, border: str) -> None:
    """Rows are sorted by image id before they are clustered, so an order of arrival leaves nothing behind."""
    x, rng = latents(), np.random.default_rng(2)
    ids = np.array([f"{i:03d}.png" for i in rng.permutation(IMAGES)])
    runs = []
    for order in (np.arange(IMAGES), rng.permutation(IMAGES)):
        by_id = order[np.argsort(ids[order])]
        runs.append(run(make(name, border), x[by_id]))
    assert same(*runs)


@BORDERS
def test_a_class_in_pieces_gives_the_same_bytes(name: str, border: str, tmp_path: Path) -> None:
    """All in memory, or two chunks at a time: `cluster.memory_mb` changes who computes, not what."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(points, "CHUNK", 8)
        patch.setattr(group, "PART", 16)
        patch.setattr(cluster, "PART", 16)
        root = Path(tempfile.mkdtemp(dir=tmp_path))
        run_dir, upstream, infos = grouped(
            root, [latents().reshape(-1, *SHAPE), latents(3, seed=1).reshape(-1, *SHAPE)]
        )
        work = cluster.stage(asked(name), run_dir, upstream, infos, SHAPE).work
        work = replace(work, clustering=make(name, border))
        whole, parted = (replace(work, budget=b).finish(upstream.records[0]).sha256 for b in (2**20, 2 * 6 * 16))
    assert whole == parted


def test_it_fills_the_slots_of_a_method(name: str, tmp_path: Path) -> None:
    """Through the stage into the plan: prototypes are centroids of their class, medoids its images."""
    root = Path(tempfile.mkdtemp(dir=tmp_path))
    run_dir, upstream, infos = grouped(root, [latents(seed=c).reshape(-1, *SHAPE) for c in range(2)])
    v = resolve(asked(name, ipc=3).model_copy(update={"method": "mgd3"}))
    stage = cluster.stage(v.config, run_dir, upstream, infos, SHAPE)
    anchors = runner.run(stage, serial).sealed
    planned = plan.stage(v, run_dir, upstream, anchors, infos, SHAPE)
    slots = runner.run(planned, serial).sealed.read()
    rows = anchors.read()
    for c in range(2):
        mine, held = (t.filter(pc.equal(t["class_index"], c)) for t in (slots, rows))
        prototypes = {p.tobytes() for p in schemas.tensor_numpy(mine["prototype"])}
        assert len(prototypes) == 3 and prototypes <= {p.tobytes() for p in schemas.tensor_numpy(held["centroid"])}
        assert set(held["medoid"].to_pylist()) <= {f"{i:05d}" for i in range(c * IMAGES, (c + 1) * IMAGES)}
    assert isinstance(rows, pa.Table) and ("node" in rows.column_names) == (stage.work.clustering.makes == "tree")
