"""The cluster stage and what the plan takes from it: every algorithm, trees that serve any IPC, split classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from grouped import grouped
from tiny_run import TinyRun
from tiny_run import config as tiny_config

from raydistill.clustering import divisive, points
from raydistill.clustering.divisive import grow
from raydistill.clustering.hierarchy import select
from raydistill.clustering.kmeans import KMeans, kmeans
from raydistill.config import Config
from raydistill.errors import BadInput, StageFailed
from raydistill.identity import fingerprint
from raydistill.methods.resolve import resolve
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.sources.base import ClassInfo
from raydistill.stages import runner
from raydistill.stages.latents import group
from raydistill.stages.prototypes import cluster
from raydistill.stages.prototypes.selection import read_tree
from raydistill.stages.runner import serial
from raydistill.stages.syntheses import plan
from raydistill.store import schemas
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed

SHAPE = (1, 2, 3)


def config(cluster: dict[str, Any] | None = None, **more: Any) -> Config:
    return tiny_config(cluster={"restarts": 1, "iterations": 10, **(cluster or {})}, **more)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = TinyRun(tmp_path_factory.mktemp("cluster"))
    run.finish(("encode", "group"))
    return run


def clustered(run: RunDir, asked: Config, upstream: Sealed, infos, shape) -> Sealed:
    stage = cluster.stage(asked, run, upstream, infos, shape)
    return runner.run(stage, serial).sealed


def planned(tiny: TinyRun, **more: Any) -> tuple[pa.Table, Sealed]:
    """The plan of a method, and the clustering that it asked for."""
    v = resolve(config(**more))
    upstream = tiny.sealed("group")
    clusters = clustered(tiny.run, v.config, upstream, tiny.train.classes, tiny.shape)
    stage = plan.stage(v, tiny.run, upstream, clusters, tiny.train.classes, tiny.shape)
    return stage.artifact.read_table(runner.run(stage, serial).manifest.records[0]), clusters


def latents(tiny: TinyRun, index: int) -> tuple[np.ndarray, list[str]]:
    """Latents (N, D) float16 of a class, and its image ids."""
    table = tiny.sealed("group").of(index)
    z = schemas.tensor_numpy(table["latent"])
    return z.reshape(len(z), -1), table["image_id"].to_pylist()


def slots_of(table: pa.Table, index: int) -> pa.Table:
    return table.filter(pa.compute.equal(table["class_index"], index)).sort_by("slot")


class TestIdentity:
    def test_k_means_is_known_by_what_it_always_was(self, tiny: TinyRun) -> None:
        c = tiny.config.cluster
        old = fingerprint("cluster", 1, tiny.sealed("group").digest, "kmeans", 3, 0, c.iterations, c.restarts)
        assert tiny.stage("cluster").artifact.fingerprint == old

    def test_a_tree_serves_every_ipc_and_selection(self, tiny: TinyRun) -> None:
        first, clusters = planned(tiny, method="manifoldgd", ipc=2)
        second, again = planned(tiny, method="manifoldgd", ipc=4, hierarchy={"selection": "leaves"})
        assert clusters.artifact.fingerprint == again.artifact.fingerprint and len(first) == 4 and len(second) == 8

    def test_what_changes_a_clustering_is_another(self, tiny: TinyRun) -> None:
        def folder(**cluster_section: Any) -> str:
            asked = resolve(config(cluster_section, method="manifoldgd")).config
            stage = cluster.stage(asked, tiny.run, tiny.sealed("group"), tiny.train.classes, tiny.shape)
            return stage.artifact.fingerprint

        others = [{"leaves": 20}, {"split": "size"}, {"split_restarts": 2}, {"iterations": 9}, {"algorithm": "kmeans"},
                  {"algorithm": "agglomerative"}, {"algorithm": "agglomerative", "linkage": "single"}]  # fmt: skip
        assert len({folder(), *(folder(**o) for o in others)}) == 8
        assert folder() == folder(memory_mb=512, num_cpus=0.5, deadline_s=9.0)

    def test_another_selection_is_another_plan_of_the_same_tree(self, tiny: TinyRun) -> None:
        def folder(**hierarchy: Any) -> str:
            v = resolve(config(method="manifoldgd", hierarchy=hierarchy))
            clusters = clustered(tiny.run, v.config, tiny.sealed("group"), tiny.train.classes, tiny.shape)
            at = plan.stage(v, tiny.run, tiny.sealed("group"), clusters, tiny.train.classes, tiny.shape)
            return at.artifact.fingerprint

        choices = [{}, {"selection": "leaves"}, {"selection": "release"}, {"start_level": 1}, {"walk": "random"},
                   {"factor": 2}, {"representative": "medoid"}]  # fmt: skip
        assert len({folder(**c) for c in choices}) == len(choices)

    def test_of_k_means_only_the_representative_matters(self, tiny: TinyRun) -> None:
        plain = planned(tiny, method="mgd3")[0]
        assert plain.equals(planned(tiny, method="mgd3", hierarchy={"selection": "leaves", "factor": 2})[0])
        assert not plain.equals(planned(tiny, method="mgd3", hierarchy={"representative": "medoid"})[0])


class TestTree:
    def test_what_is_stored_is_what_was_grown(self, tiny: TinyRun) -> None:
        _, clusters = planned(tiny, method="manifoldgd")
        for record in clusters.manifest.records:
            table = clusters.artifact.read_table(record)
            for index in record.meta["classes"]:
                x, ids = latents(tiny, index)
                nodes = table.filter(pa.compute.equal(table["class_index"], index))
                stored = read_tree(nodes, pa.chunked_array([ids]))
                grown = grow(x, 200, iterations=10, key=(0, tiny.train.classes[index].class_id))
                for name in ("parent", "split", "size", "sse", "medoid", "centroid", "leaf"):
                    assert np.array_equal(getattr(stored, name), getattr(grown, name)), name
                assert nodes["level"].to_pylist() == grown.level.tolist()
                assert nodes["born"].to_pylist() == grown.born.tolist()
                assert [bool(m) for m in nodes["members"].to_pylist()] == (grown.split == 0).tolist(), "leaves only"

    @pytest.mark.parametrize("selection", ["levels", "leaves", "release"])
    @pytest.mark.parametrize("method", ["manifoldgd", "mgd3"])
    def test_slots_are_the_selected_nodes_in_order(self, tiny: TinyRun, selection: str, method: str) -> None:
        table, _ = planned(tiny, method=method, cluster={"algorithm": "divisive"}, hierarchy={"selection": selection})
        for index, info in enumerate(tiny.train.classes):
            tree = grow(latents(tiny, index)[0], 200, iterations=10, key=(0, info.class_id))
            nodes = select(tree, 3, selection, key=(0, info.class_id))
            mine = slots_of(table, index)
            assert np.array_equal(schemas.tensor_numpy(mine["prototype"]).reshape(3, -1), tree.centroid[nodes])
            assert mine["prototype_id"].to_pylist() == [0, 1, 2]

    def test_medoids_are_latents_of_images(self, tiny: TinyRun) -> None:
        for method in ("manifoldgd", "mgd3"):
            table, _ = planned(tiny, method=method, hierarchy={"representative": "medoid"})
            for index in range(2):
                x, _ = latents(tiny, index)
                chosen = schemas.tensor_numpy(slots_of(table, index)["prototype"]).reshape(3, -1)
                assert {c.tobytes() for c in chosen} <= {r.tobytes() for r in x.astype(np.float32)}

    def test_images_can_be_picked_by_any_clustering(self, tiny: TinyRun) -> None:
        for algorithm in ("kmeans", "divisive", "agglomerative"):
            table, _ = planned(
                tiny, method="kmeans", cluster={"algorithm": algorithm}, hierarchy={"selection": "leaves"}
            )
            for index in range(2):
                picked = slots_of(table, index)["image_id"].to_pylist()
                assert len(set(picked)) == 3 and set(picked) <= set(latents(tiny, index)[1])


def test_a_run_clusters_once_for_every_algorithm_that_its_methods_ask_for(tiny_folder: Path, tmp_path: Path) -> None:
    source = {"kind": "imagefolder", "path": str(tiny_folder), "image_size": 32}
    asked = config(
        method="manifoldgd",
        ipc=2,
        run_dir=str(tmp_path / "run"),
        source=source,
        manifold={"nearest": 4, "tangent_dim": 2},
        evaluate={**config().evaluate.model_dump(), "baselines": ["mgd3", "kmeans", "random"]},
    )
    done = job.run(prepare(asked, generate=False), "plan", serial)
    assert set(done.prototypes) == {"divisive", "kmeans"}
    assert set(done.plans) == {"manifoldgd", "mgd3", "kmeans", "random"}
    alone = job.run(prepare(asked, evaluate=False, generate=False), "cluster", serial)
    assert set(alone.prototypes) == {"divisive"} and not alone.computed


class TestRefusals:
    def test_a_tree_that_cannot_serve_is_told_before_anything(self) -> None:
        with pytest.raises(
            BadInput, match=r"leaves=30 is too few for ipc=10 and hierarchy.factor=4; make it at least 40"
        ):
            resolve(config(method="manifoldgd", ipc=10, cluster={"leaves": 30}))
        with pytest.raises(BadInput, match=r"leaves=9 is too few for ipc=10; make it at least 10"):
            resolve(config(method="manifoldgd", ipc=10, cluster={"leaves": 9}, hierarchy={"selection": "leaves"}))
        resolve(config(method="mgd3", ipc=10, cluster={"leaves": 9}))

    def test_a_class_whose_tree_is_too_small_is_named(self, tiny: TinyRun) -> None:
        with pytest.raises(StageFailed, match=r"^class '3': only \d+ distinct latents for ipc=15; lower ipc or remove"):
            planned(tiny, method="manifoldgd", ipc=15)
        with pytest.raises(StageFailed, match=r"^class '3': hierarchy.start_level=50 is deeper than the tree"):
            planned(tiny, method="manifoldgd", hierarchy={"start_level": 50})

    def test_a_baseline_keeps_its_own_clustering(self, tmp_path: Path) -> None:
        tree = {"method": "manifoldgd", "run_dir": str(tmp_path), "manifold": {"nearest": 4, "tangent_dim": 2}}
        asked = config(**tree, evaluate={**config().evaluate.model_dump(), "baselines": ["mgd3", "random"]})
        assert [v.config.cluster.algorithm for v in prepare(asked).variants] == ["divisive", "kmeans", None]


def large(root: Path, rows: int = 300) -> tuple[RunDir, Sealed, tuple[ClassInfo, ...]]:
    """Two classes in one bucket, as group leaves them: the second has many rows, some of them equal."""
    rng = np.random.default_rng(0)
    z = (rng.standard_normal((rows + 40, *SHAPE)) + 4 * rng.integers(0, 3, (rows + 40, 1, 1, 1))).astype(np.float16)
    z[200:210] = z[60]
    return grouped(root, [z[:40], z[40:]])


@pytest.mark.parametrize("algorithm", ["kmeans", "divisive", "agglomerative"])
def test_which_classes_share_a_bucket_plays_no_part(tmp_path: Path, algorithm: str) -> None:
    run, together, infos = large(tmp_path)
    rows = together.read()
    apart = run.artifact("classes", "1" * 16)
    for index, part in ((1, rows.slice(40)), (0, rows.slice(0, 40))):
        meta = {"classes": [index], "counts": [len(part)]}
        apart.commit_table(f"bucket-{index:03d}", part, device="cpu", meta=meta)
    asked = config({"algorithm": algorithm, "leaves": 12})
    tables = []
    for upstream in (together, Sealed(apart, apart.seal(["bucket-001", "bucket-000"]))):
        stage = cluster.stage(asked, run, upstream, infos, SHAPE)
        tables.append(runner.run(stage, serial).sealed.read())
    assert tables[0].equals(tables[1])


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "CHUNK", 32)
    monkeypatch.setattr(group, "PART", 64)
    monkeypatch.setattr(cluster, "PART", 64)
    monkeypatch.setattr(KMeans, "in_memory", 100 * 6)
    monkeypatch.setattr(divisive, "LOWEST", 50)


@pytest.mark.usefixtures("small_chunks")
class TestLargeClass:
    @pytest.mark.parametrize("algorithm", ["kmeans", "divisive"])
    def test_split_over_tasks_it_is_the_same_bit_for_bit(self, tmp_path, monkeypatch, algorithm) -> None:
        """The budget is what changes: everything in memory, or 128 or 64 rows of the class at a time."""
        run, upstream, infos = large(tmp_path)
        asked = config({"algorithm": algorithm, "leaves": 9, "iterations": 5, "split_restarts": 3})
        stored: list[int] = []
        original = cluster.PointsInFile
        monkeypatch.setattr(cluster, "PointsInFile", lambda *a: (stored.append(a[2]), original(*a))[1])
        stage = cluster.stage(asked, run, upstream, infos, SHAPE)
        digests = [
            replace(stage.work, budget=budget).finish(upstream.records[0]).sha256
            for budget in (2**30, 12 * 130, 12 * 41)
        ]
        assert stored == [128, 64] and len(set(digests)) == 1

    def test_of_many_points_k_means_is_computed_by_chunks_and_says_so(self, tmp_path: Path) -> None:
        run, upstream, infos = large(tmp_path)
        stage = cluster.stage(config(ipc=3), run, upstream, infos, SHAPE)
        c = config().cluster
        parts = ["kmeans", 3, 0, c.iterations, c.restarts, "in chunks"]
        assert stage.artifact.fingerprint == fingerprint("cluster", 1, upstream.digest, *parts)
        table = stage.artifact.read_table(runner.run(stage, serial).manifest.records[0])
        x = schemas.tensor_numpy(upstream.read()["latent"]).reshape(-1, 6)
        few = kmeans(x[:40].astype(np.float32), 3, c.iterations, c.restarts, (0, "a"))
        assert np.array_equal(schemas.tensor_numpy(table["centroid"])[:3].reshape(3, -1), few.centroids)
        assert table["size"].to_pylist()[3:] == sorted(table["size"].to_pylist()[3:], reverse=True)
        assert sum(table["size"].to_pylist()[3:]) == 300

    def test_row_groups_of_a_large_class_are_parts(self, tmp_path: Path) -> None:
        assert group.parts([3, 64, 65, 200]) == [3, 64, 64, 1, 64, 64, 64, 8]
        _, classes, _ = large(tmp_path)
        whole = classes.read()
        for start, stop in ((0, 40), (40, 340), (40, 104), (41, 42), (103, 300), (339, 340), (7, 7)):
            assert classes.artifact.read_rows(classes.records[0], start, stop).equals(whole.slice(start, stop - start))


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_tasks_of_a_large_class_run_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bucket's task starts tasks for the pieces of its class, and the bytes are those of one process.

    Also where it may start few of them, or none, because the job has a share of the cluster.
    """
    from raydistill.distributed import ending, executors, runtime

    run, upstream, infos = large(tmp_path, 40_000)
    few = {"algorithm": "divisive", "leaves": 6, "iterations": 5, "split_restarts": 2, "num_cpus": 0.5}
    asked = config(cluster=few)
    stage = cluster.stage(asked, run, upstream, infos, (1, 2, 3))
    whole = stage.work.open()(upstream.records[0]).sha256
    try:
        split = replace(stage, work=replace(stage.work, budget=2 * 6 * 20_000))
        digests = []
        for share in (1.0, 0.5, 0.1):
            monkeypatch.setattr(runtime, "_share", share)
            (record,) = executors.on_ray(asked.ray)(split, stage.keys)
            digests.append(record.sha256)
    finally:
        ending.shutdown()
    assert digests == [whole] * 3
