"""Clustering as a registered kind: how it is dispatched, what identifies it, what the artifact says of the border."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from grouped import grouped
from tiny_run import config as tiny_config

from raydistill import config, registry
from raydistill.clustering.base import Clustering, Clusters
from raydistill.clustering.kmeans import KMeans, kmeans
from raydistill.clustering.points import Points
from raydistill.config import ClusterConfig, Config
from raydistill.errors import BadInput
from raydistill.methods.mgd3 import Mgd3
from raydistill.methods.resolve import resolve
from raydistill.pipeline.preflight import prepare
from raydistill.sources.base import ClassInfo
from raydistill.stages import runner
from raydistill.stages.prototypes import cluster
from raydistill.stages.runner import serial
from raydistill.store import schemas
from raydistill.store.artifact import Manifest, Record
from raydistill.store.rundir import RunDir
from raydistill.store.sealed import Sealed

SHAPE = (4, 8, 8)
LARGE = 2**18 + 1  # images of 256 numbers: one more than k-means holds in memory


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    for kind in registry.PACKAGES:
        registry.names(kind)
    monkeypatch.setattr(registry, "_entries", {kind: dict(entries) for kind, entries in registry._entries.items()})


def folder(asked: Config, *counts: int) -> str:
    """The fingerprint of the prototypes of classes of so many images, whose latents have a digest of zeros."""
    run = RunDir("nowhere")
    meta = {"classes": list(range(len(counts))), "counts": list(counts)}
    record = Record("bucket-000", "f", sum(counts), 1, "0" * 64, "0" * 16, "cpu", meta)
    infos = tuple(ClassInfo(str(i), str(i)) for i in range(len(counts)))
    manifest = Manifest("group", "0" * 16, (record,), {}, "0" * 64)
    upstream = Sealed(run.artifact("classes", "0" * 16), manifest)
    return cluster.stage(asked, run, upstream, infos, SHAPE).artifact.fingerprint


@dataclass(frozen=True)
class Mean(Clustering):
    """One prototype, whatever the IPC."""

    summary = "the mean of the class"
    seed: int

    def cluster(self, points: Points, class_id: str) -> Clusters:
        return kmeans(points.read(), 1, 1, 1, (self.seed, class_id))


class TestIdentity:
    @pytest.mark.parametrize(
        ("algorithm", "quickstart", "tiny", "with_a_large_class"),
        [
            ("kmeans", "02595d4bfb69716a", "0a0564fbb83e5afe", "181f3ac8979dc87b"),
            ("divisive", "1460949304c8e8e5", "7b4b99b3f72c56ea", "1460949304c8e8e5"),
            ("agglomerative", "926e4026323de10b", "194bc9df46002813", "926e4026323de10b"),
        ],
    )
    def test_finished_artifacts_stay_valid(self, algorithm, quickstart, tiny, with_a_large_class) -> None:
        """The fingerprints of before there was a kind: what was made then is found again."""
        preset = config.load("quickstart", [f"cluster.algorithm={algorithm}"])
        small = tiny_config(cluster={"restarts": 1, "iterations": 10, "algorithm": algorithm})
        assert folder(preset, 100, 120) == quickstart and folder(small, 100, 120) == tiny
        assert folder(preset, 100, LARGE) == with_a_large_class

    @pytest.mark.parametrize("algorithm", registry.names("clustering"))
    def test_it_is_what_is_read_and_nothing_else(self, algorithm: str) -> None:
        base = tiny_config(cluster={"algorithm": algorithm})
        read = set(registry.get("clustering", algorithm).__dataclass_fields__)
        words = {"split": "size", "linkage": "single", "drop_last": True, "batch": 3}
        changes = {
            key: words[key] if key in words else getattr(base.cluster, key) + 1
            for key in ClusterConfig.model_fields
            if key != "algorithm"
        }
        asked = {key: tiny_config(cluster={"algorithm": algorithm, key: value}) for key, value in changes.items()}
        asked |= {key: base.model_copy(update={key: getattr(base, key) + 1}) for key in ("ipc", "seed")}
        for key, changed in asked.items():
            assert (folder(changed, 9) != folder(base, 9)) == (key in read), key

    def test_a_higher_version_is_another_artifact(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = folder(tiny_config(), 9)
        monkeypatch.setattr(KMeans, "version", 2)
        assert folder(tiny_config(), 9) != before

    def test_the_file_of_one_from_elsewhere_is_part_of_it(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        registry.register("clustering", "mean")(Mean)
        asked = tiny_config(cluster={"algorithm": "mean"})
        here = folder(asked, 9)
        edited = tmp_path / "edited.py"
        edited.write_text(Path(__file__).read_text() + "ANOTHER = 1\n")
        monkeypatch.setitem(globals(), "__file__", str(edited))
        assert folder(asked, 9) != here
        assert registry.identity("clustering", "kmeans") == [], "this package's own is as it was released"


class TestDispatch:
    def test_an_unknown_name_is_answered_with_the_nearest_before_anything_is_written(self, tmp_path: Path) -> None:
        asked = tiny_config(cluster={"algorithm": "kmean"}, run_dir=str(tmp_path / "run"))
        for method in ("mgd3", "random"):
            with pytest.raises(BadInput, match=r"unknown clustering 'kmean'; did you mean 'kmeans'\? \(known: agglo"):
                prepare(asked.model_copy(update={"method": method}))
        assert not list(tmp_path.iterdir())

    def test_a_method_names_one_of_any_name(self) -> None:
        registry.register("clustering", "mean")(Mean)
        registry.register("method", "mean")(type("ByMean", (Mgd3,), {"clustering": "mean"}))
        assert resolve(tiny_config(method="mean")).config.cluster.algorithm == "mean"
        registry.register("method", "lost")(type("Lost", (Mgd3,), {"clustering": "means"}))
        with pytest.raises(BadInput, match="unknown clustering 'means'; did you mean"):
            resolve(tiny_config(method="lost"))

    def test_a_field_that_is_no_key_is_told(self) -> None:
        @dataclass(frozen=True)
        class Odd(Mean):
            sharpness: float

        with pytest.raises(BadInput, match=r"clustering Odd: field 'sharpness' is no key that one reads \(ipc, seed, "):
            Odd.of(tiny_config())

    def test_one_of_ones_own_makes_the_prototypes(self, tmp_path: Path) -> None:
        registry.register("clustering", "mean")(Mean)
        x = np.random.default_rng(0).standard_normal((9, *SHAPE)).astype(np.float16)
        run, upstream, infos = grouped(tmp_path, [x])
        stage = cluster.stage(tiny_config(cluster={"algorithm": "mean"}), run, upstream, infos, SHAPE)
        table = stage.artifact.read_table(runner.run(stage, serial).manifest.records[0])
        assert table["size"].to_pylist() == [9]
        np.testing.assert_allclose(schemas.tensor_numpy(table["centroid"])[0], x.mean(0, dtype=np.float64), atol=1e-6)


@pytest.mark.parametrize(("border", "told"), [(60, None), (59, [1]), (35, [0, 1])])
def test_the_artifact_tells_which_classes_lie_above_the_border_and_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, border: int, told: list[int] | None
) -> None:
    """Of 36 and 60 numbers. Below it a record holds what it always held."""
    rng = np.random.default_rng(0)
    run, upstream, infos = grouped(tmp_path, [rng.standard_normal((n, 1, 2, 3)) for n in (6, 10)])
    monkeypatch.setattr(KMeans, "in_memory", border)
    stage = cluster.stage(tiny_config(), run, upstream, infos, (1, 2, 3))
    (record,) = runner.run(stage, serial).manifest.records
    assert record.meta == {"classes": [0, 1]} | ({"by_chunks": {"above": border, "classes": told}} if told else {})
