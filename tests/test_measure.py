"""Metrics of the distilled sets: of which vectors, under which names, and that the real side is read once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny_run import GENERATED, TinyRun, config

from raydistill import registry
from raydistill.errors import BadInput, StageFailed
from raydistill.models import loaded
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.sources.base import open_source
from raydistill.sources.images import decode, png
from raydistill.stages import runner
from raydistill.stages.evaluation import measure
from raydistill.stages.evaluation import trainer as worker
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.measure import LATENT
from raydistill.stages.runner import Stage, serial
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.store import schemas
from raydistill.store.artifact import Artifact
from raydistill.store.sealed import Sealed

OWN = "own_class_nearest/latent"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = TinyRun(tmp_path_factory.mktemp("tiny") / "run")
    run.finish(["encode", "group", "cluster", "embed", f"plan {GENERATED}", f"sample {GENERATED}"])
    return run


def points(tiny: TinyRun) -> dict[str, Sealed]:
    return {LATENT: tiny.sealed("group"), tiny.network.architecture: tiny.sealed("embed")}


def asking(tiny: TinyRun, *names: str, network: bool = True, ref: SetRef | None = None) -> Stage:
    ref = ref or tiny.ref(GENERATED)
    asked = config(metrics={"names": list(names)}, embed={"batch": 4, "device": "cpu"})
    return measure.stage(asked, tiny.run, ref, points(tiny), tiny.network if network else None, 2)


def measured(stage: Stage) -> dict[str, float]:
    return measure.values(runner.run(stage, serial).sealed)


def real(tiny: TinyRun) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """space -> vectors and labels of all training images."""
    parts = {space: list(measure.real_vectors(p, space)) for space, p in points(tiny).items()}
    return {s: (np.concatenate([x for x, _ in p]), np.concatenate([y for _, y in p])) for s, p in parts.items()}


class TestValues:
    def test_they_are_those_of_the_metrics_on_the_vectors_of_either_set(self, tiny: TinyRun) -> None:
        values = measured(asking(tiny, "fid", "l2", "mmd", "wasserstein"))
        assert {k.rpartition("/")[2] for k in values} == {LATENT, "convnet"}
        work = asking(tiny, "l2").work
        x, y, w = work._set(loaded.classifier(tiny.network, measure.placement(work.embed)))
        for name, space in (("fid", "convnet"), ("l2", "convnet"), ("mmd", "convnet"), ("wasserstein", LATENT)):
            metric = registry.get("metric", name)(2)
            metric.update_real(*real(tiny)[space])
            metric.update_synthetic(x[space], y, w)
            for value, number in metric.compute().items():
                assert values[f"{value}/{space}"] == pytest.approx(number, rel=1e-6, abs=1e-9)

    def test_the_real_vectors_are_all_of_them_with_their_labels(self, tiny: TinyRun) -> None:
        for x, y in real(tiny).values():
            assert len(x) == 21 and x.dtype == np.float32
            assert np.bincount(y).tolist() == tiny.train.counts.tolist()

    def test_the_real_images_are_their_own_ideal(self, tiny: TinyRun) -> None:
        """The training images as a distilled set: every distance is nothing, whatever the space."""
        ids = tiny.train.ids.to_pylist()
        pixels = [decode(d, 32, 10**6) for d in open_source(tiny.config.source).read("train", ids)]
        rows = tiny.sealed("group").read()
        latent = dict(zip(rows["image_id"].to_pylist(), schemas.tensor_numpy(rows["latent"]), strict=True))
        table = pa.table(
            {
                "class_index": pa.array(tiny.train.labels),
                "weight": pa.array([1.0] * 21),
                "image": pa.array([png(p) for p in pixels], pa.binary()),
                "latent": schemas.tensor_array(np.stack([latent[i] for i in ids]).astype(np.float32)),
            }
        )
        artifact = Artifact(tiny.run.root / "itself", "syntheses", "0" * 16)
        artifact.commit_table("batch", table, device="cpu")
        ref = SetRef.of("itself", DistilledSet((Sealed(artifact, artifact.seal(["batch"])),)))
        values = measured(asking(tiny, "l2", "wasserstein", "prdc", ref=ref))
        assert values["l2/convnet"] == pytest.approx(0, abs=1e-4)
        assert values["w2_squared/latent"] == pytest.approx(0, abs=1e-4)
        assert values["precision/convnet"] == values["recall/convnet"] == values["coverage/convnet"] == 1

    def test_without_a_network_the_latents_are_compared_and_no_image_is_opened(self, tiny: TinyRun) -> None:
        values = measured(asking(tiny, "l2", "wasserstein", network=False))
        assert set(values) == {"l2/latent", "w2_squared/latent", "w2_squared_voronoi/latent"}
        assert asking(tiny, "l2", network=False).work.network is None
        assert asking(tiny, "wasserstein").work.network is None, "this one asks for latents alone"

    def test_the_real_side_is_read_once_for_all_sets(self, tiny: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[str] = []
        whole = measure.real_vectors
        monkeypatch.setattr(measure, "real_vectors", lambda real, space: (read.append(space), whole(real, space))[1])
        monkeypatch.setattr(measure, "_real", {})
        distilled = tiny.distilled(GENERATED)
        sets = [SetRef(n, distilled.digest + n, distilled.rows, distilled) for n in ("a", "b")]
        one, two = (measured(asking(tiny, "l2", "wasserstein", ref=ref)) for ref in sets)
        assert one == two and sorted(read) == ["convnet", LATENT]

    def test_what_a_metric_refuses_is_told_with_the_name_of_the_set(self, tiny: TinyRun) -> None:
        stage = asking(tiny, "l2")
        sealed = tiny.sealed(f"sample {GENERATED}")
        empty = replace(sealed.manifest, records=sealed.records[:1])
        ref = SetRef("broken", sealed.digest + "!", 4, DistilledSet((Sealed(sealed.artifact, empty),)))
        stage = asking(tiny, "l2", ref=ref)
        work = replace(stage.work, classes=1)
        with pytest.raises(StageFailed, match=r"measure: broken: l2: .*; leave it out of metrics\.names"):
            runner.run(replace(stage, work=work), serial)


class TestIdentity:
    def test_it_is_that_of_the_set_the_metrics_and_what_they_look_at(self, tiny: TinyRun) -> None:
        plain = asking(tiny, "l2").artifact.fingerprint
        assert asking(tiny, "l2").artifact.fingerprint == plain
        others = {asking(tiny, *names).artifact.fingerprint for names in (("l2", "fid"), ("fid",), ("wasserstein",))}
        assert len(others | {plain, asking(tiny, "l2", network=False).artifact.fingerprint}) == 5

    def test_the_network_is_no_part_of_what_it_does_not_touch(self, tiny: TinyRun) -> None:
        with_it, without = (asking(tiny, "wasserstein", network=n).artifact.fingerprint for n in (True, False))
        assert with_it == without


class TestConfiguration:
    def test_unknown_and_repeated_metrics_are_refused_before_any_work(self, tmp_path: Path) -> None:
        for names, why in ((["fidd"], "unknown metric 'fidd'; did you mean 'fid'"), (["l2", "l2"], "names a metric")):
            with pytest.raises(BadInput, match=why):
                prepare(config(metrics={"names": names}, run_dir=str(tmp_path / "run")))

    def test_every_default_is_a_metric(self) -> None:
        from raydistill.config import Config

        assert measure.requested_spaces(Config().metrics, None) == dict.fromkeys(Config().metrics.names, LATENT)


def test_a_run_reports_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """result.json, the page and the order: own set by its plain name, baselines under metrics/."""
    from raydistill.distributed import students

    def fit(job: worker.Job, *_: object) -> None:
        import torch

        trainer = worker.StudentTrainer(job, torch.device("cpu"), "cpu")
        for t in job.trainings:
            trainer.run(t)

    monkeypatch.setattr(students, "fit", fit)
    asked = config(run_dir=str(tmp_path / "run"), metrics={"names": ["l2", "prdc"]})
    asked = asked.model_copy(
        update={
            "evaluate": asked.evaluate.model_copy(update={"seeds": 1, "full": True}),
            "encode": asked.encode.model_copy(update={"chunk": 400, "batch": 50}),
            "sampler": asked.sampler.model_copy(update={"cfg_scale": 2.0}),
        }
    )
    done = job.run(prepare(asked), execute=serial)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    keys = {k for k in result if k.endswith("/latent") and not k.startswith("metrics/")}
    assert keys - {OWN} == {f"{v}/latent" for v in ("l2", "precision", "recall", "density", "coverage")}
    assert 0 <= result[OWN] <= 1, "of what was made, not of what was picked"
    stored = {f"metrics/{name}/{kind}/bytes" for name in ("random", "full_data") for kind in ("images", "labels")}
    assert {k for k in result if k.startswith("metrics/")} == {f"metrics/random/{k}" for k in keys - {OWN}} | stored
    assert result["network_calls"] == asked.sampler.steps, "a doubled batch is one call"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "by protocol hard" in page
    assert "Beside the real images" in page and "<td>coverage</td><td>latent</td><td>higher</td>" in page
    assert f"{GENERATED}: {done.checks[GENERATED].hits} of 6 " in page and list(done.checks) == [GENERATED]
    assert list(done.measured) == [GENERATED, "random"], "the whole split is what they are measured by"

    again = job.run(prepare(asked), execute=lambda stage, todo: pytest.fail(f"{stage.name} has work"))
    assert not again.computed
