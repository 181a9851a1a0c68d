"""Weights of the images of a set: closed forms, where they come from, and what changes with them and what does not."""

from __future__ import annotations

import re
import typing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from finished import without_ray
from tiny_run import GENERATED, WEIGH, TinyRun, config

from raydistill import registry
from raydistill.config import Config, WeightsConfig, load
from raydistill.errors import BadInput, StageFailed
from raydistill.exporters.base import open_product
from raydistill.methods.base import Slot
from raydistill.methods.resolve import resolve
from raydistill.methods.weighting import (
    effective_sample_size,
)
from raydistill.pipeline import job, unread
from raydistill.pipeline.preflight import prepare
from raydistill.results.numbers import metrics
from raydistill.stages import runner
from raydistill.stages.evaluation import label, trainings
from raydistill.stages.evaluation.image_sets import SetRef, syntheses
from raydistill.stages.evaluation.trainer import Job, StudentTrainer, body
from raydistill.stages.runner import Stage, serial
from raydistill.stages.syntheses import check
from raydistill.stages.syntheses import weigh as weigh_stage
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.stages.syntheses.plan import check_weights
from raydistill.state import Results
from raydistill.store import schemas
from raydistill.store.artifact import Artifact
from raydistill.store.location import Location
from raydistill.store.sealed import Sealed


def done(stage: Stage) -> Sealed:
    return runner.run(stage, serial).sealed


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = TinyRun(tmp_path_factory.mktemp("tiny") / "run")
    run.finish(["encode", "group", "cluster", f"plan {GENERATED}", f"sample {GENERATED}"])
    return run


def sizes(tiny: TinyRun) -> dict[tuple[int, int], int]:
    """(class, slot) -> images of the cluster or node whose centroid the slot has, found by the centroid itself."""
    slots, clusters = (tiny.sealed(name).read() for name in (f"plan {GENERATED}", "cluster"))
    centroids, anchors = (schemas.tensor_numpy(t[c]) for t, c in ((clusters, "centroid"), (slots, "prototype")))
    sizes = {}
    for i, (c, s) in enumerate(zip(slots["class_index"].to_pylist(), slots["slot"].to_pylist(), strict=True)):
        same = [j for j, z in enumerate(centroids) if np.array_equal(z, anchors[i])]
        (row,) = [j for j in same if clusters["class_index"][j].as_py() == c]
        sizes[c, s] = clusters["size"][row].as_py()
    return sizes


class TestStage:
    @pytest.mark.parametrize("algorithm", ["kmeans", "divisive"])
    def test_masses_are_those_of_the_prototypes_that_the_plan_gave(self, algorithm: str, tmp_path: Path) -> None:
        tiny = TinyRun(tmp_path / "run")
        tiny.config = config(weights={"mode": "density"}, cluster={"algorithm": algorithm, "leaves": 12, "restarts": 1})
        tiny.finish(["encode", "group", "cluster", f"plan {GENERATED}", WEIGH])
        rows = tiny.sealed(WEIGH).read().to_pylist()
        assert [(r["class_index"], r["slot"]) for r in rows] == [(c, s) for c in (0, 1) for s in range(3)]
        masses = sizes(tiny)
        for r in rows:
            total = sum(masses[r["class_index"], s] for s in range(3))
            assert r["weight"] == pytest.approx(masses[r["class_index"], r["slot"]] * 3 / total)
        assert len({r["weight"] for r in rows}) > 2
        size = np.mean([effective_sample_size(np.array([r["weight"] for r in rows[i : i + 3]])) for i in (0, 3)])
        assert tiny.sealed(WEIGH).manifest.summary == {"effective_sample_size": pytest.approx(size), "as_before": False}

    def test_of_images_that_nobody_planned_uniform_ones_can_be_had(self, tiny: TinyRun) -> None:
        """Those of a folder with weights of its own, say."""
        artifact = Artifact(tiny.run.artifacts, "syntheses", "2" * 16)
        columns = {"class_index": [1, 0, 0], "slot": [0, 1, 0], "prototype_id": [-1] * 3, "weight": [2.0, 1.0, 4.0]}
        artifact.commit_table("batch", pa.table(columns), device="driver")
        imported = Sealed(artifact, artifact.seal(["batch"]))
        asked = config(weights={"mode": "uniform"})
        weights = done(weigh_stage.stage(asked, tiny.run, imported, None, tiny.sealed("group")))
        assert DistilledSet((imported,)).weighing(weights).read(["weight"])["weight"].to_pylist() == [1.0] * 3
        assert weights.manifest.summary == {"effective_sample_size": 1.5, "as_before": False}

    def test_a_slot_without_a_prototype_has_no_mass(self, tiny: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
        stage = tiny.stage(WEIGH)
        read = Sealed.read

        def bare(self: Sealed, columns: typing.Any = None) -> pa.Table:
            table = read(self, columns)
            at = table.column_names.index("prototype_id")
            return table.set_column(at, "prototype_id", pa.array([-1] * len(table), pa.int32()))

        monkeypatch.setattr(Sealed, "read", bare)
        with pytest.raises(StageFailed, match=r"weigh: class '3' has slots without a prototype.*weights\.mode=uniform"):
            stage.work.open()("weights")


class TestSet:
    @pytest.fixture(scope="class")
    def weighed(self, tiny: TinyRun) -> DistilledSet:
        return tiny.distilled(GENERATED).weighing(done(tiny.stage(WEIGH)))

    def test_its_images_have_the_weights_of_their_slots(self, tiny: TinyRun, weighed: DistilledSet) -> None:
        expected = {(r["class_index"], r["slot"]): r["weight"] for r in done(tiny.stage(WEIGH)).read().to_pylist()}
        plain, table = tiny.distilled(GENERATED).read(), weighed.read()
        assert len(set(expected.values())) > 2 and table.schema == plain.schema
        assert {(r["class_index"], r["slot"]): r["weight"] for r in table.to_pylist()} == expected
        for name in set(table.column_names) - {"weight"}:
            assert table[name] == plain[name], name
        assert weighed.read(["weight"])["weight"] == table["weight"] and weighed.read(["image"]).column_names == [
            "image"
        ]

    def test_in_a_union_each_part_keeps_its_own(self, tiny: TinyRun, weighed: DistilledSet) -> None:
        (part,), weights = weighed.parts, weighed.read(["weight"])["weight"].to_pylist()
        union = DistilledSet((part, part), (*weighed.weights, None))
        w, c = (union.read([name])[name].to_numpy() for name in ("weight", "class_index"))
        sizes = [effective_sample_size(w[c == i]) for i in (0, 1)]
        assert union.effective_sample_size == pytest.approx(np.mean(sizes))
        assert DistilledSet((part, part)).effective_sample_size is None
        assert DistilledSet((part, part)).sample_size() == 6 and union.sample_size() == union.effective_sample_size
        assert weighed.sample_size() == pytest.approx(weighed.effective_sample_size)
        assert union.read(["weight"])["weight"].to_pylist() == weights + [1.0] * 6
        assert union.read(["slot"])["slot"].to_pylist() == DistilledSet((part, part)).read(["slot"])["slot"].to_pylist()

    def test_labels_and_checks_are_of_the_images_and_trainings_of_the_weights_too(
        self, tiny: TinyRun, weighed: DistilledSet
    ) -> None:
        plain, refs = tiny.distilled(GENERATED), {}
        for name, distilled in (("plain", plain), ("weighed", weighed)):
            ref = SetRef.of(GENERATED, distilled)
            refs[name] = (
                label.stage(tiny.config, tiny.run, ref, tiny.train.classes, tiny.network, tiny.recipe()),
                check.stage(tiny.run, tiny.sealed("group"), distilled),
                trainings.trainings(tiny.config, tiny.run, [ref], tiny.test)[0],
            )
        same = [a.artifact.fingerprint == b.artifact.fingerprint for a, b in zip(*refs.values(), strict=True)]
        assert same == [True, True, False]

    def test_equal_weights_train_as_none_to_the_bit(self, tiny: TinyRun, weighed: DistilledSet, tmp_path: Path) -> None:
        (part,) = weighed.parts
        rows = part.read(schemas.PLACE)
        ones = Artifact(Location.of(str(tmp_path)), "weights", "1" * 16)
        ones.commit_table("weights", rows.append_column("weight", pa.array(np.ones(6))), device="driver")
        equal = DistilledSet((part,), (Sealed(ones, ones.seal(["weights"])),))

        def result(distilled: DistilledSet) -> dict | None:
            (t, *_) = trainings.trainings(tiny.config, tiny.run, [SetRef.of(GENERATED, distilled)], tiny.test)
            job = Job((t,), tiny.config.source, tiny.train, tiny.test, tiny.config.evaluate, *[ones.location] * 2)
            StudentTrainer(job, torch.device("cpu"), "cpu").run(t)
            t.artifact.seal(["training"])
            return body(t)

        assert equal.digest != tiny.distilled(GENERATED).digest
        assert result(equal) == result(tiny.distilled(GENERATED)) != result(weighed)
        loaded = syntheses(SetRef.of(GENERATED, weighed), tiny.config.source, 16).images
        assert loaded.weights.tolist() == pytest.approx(weighed.read(["weight"])["weight"].to_pylist())


def small(tmp_path: Path, *overrides: str) -> Config:
    keys = ("source.classes=[3,7]", "ipc=3", "sampler.steps=2", "cluster.restarts=1", "metrics.names=[l2]")
    keys = (*keys, "evaluate.baselines=[random]", "evaluate.full=false")
    short = ("evaluate.seeds=1", "evaluate.width=8", "evaluate.protocol.visits=32", "evaluate.protocol.batch=8")
    return load("quickstart", [*keys, *short, f"run_dir={tmp_path / 'run'}", *overrides])


def digests(done: Results) -> dict[str, tuple[str, str]]:
    """Of each set, of its images and of all of it."""
    return {name: (distilled.images_digest, distilled.digest) for name, distilled in done.syntheses.items()}


class TestRun:
    def test_a_change_of_weights_samples_nothing_and_is_in_all_that_leaves(self, tmp_path: Path) -> None:
        with without_ray():
            plain = job.run(prepare(small(tmp_path)), execute=serial)
            worked = []

            def watched(stage: Stage, todo: typing.Any) -> typing.Any:
                worked.append(stage.name)
                return serial(stage, todo)

            same = job.run(prepare(small(tmp_path, "weights.mode=uniform")), execute=watched)
            assert worked == ["weigh"], "equal weights are those that the images have: what was finished stays so"
            assert digests(same) == digests(plain) and "effective_sample_size" not in metrics(same)
            worked.clear()
            root = job.run(prepare(small(tmp_path, "weights.mode=sqrt")), execute=watched)
            assert worked == ["weigh", "measure"], "one set of images and labels for all weights"
            worked.clear()
            heavy = job.run(prepare(small(tmp_path, "weights.mode=density")), execute=watched)
            assert worked == ["weigh", "measure"]
        assert root.syntheses["mgd3"].images_digest == heavy.syntheses["mgd3"].images_digest
        assert metrics(heavy)["effective_sample_size"] < metrics(root)["effective_sample_size"] < 3
        one, other = digests(heavy), digests(plain)
        assert one["random"] == other["random"], "a baseline has what its own method prescribes"
        assert one["mgd3"][0] == other["mgd3"][0] and one["mgd3"][1] != other["mgd3"][1]
        assert 1 <= metrics(heavy)["effective_sample_size"] < 3
        assert metrics(heavy)["l2/latent"] != metrics(plain)["l2/latent"]
        table = heavy.syntheses["mgd3"].read(["class_index", "slot", "weight"]).to_pylist()
        expected = {(r["class_index"], r["slot"]): r["weight"] for r in table}
        assert len(set(expected.values())) > 2
        distilled = pq.read_table(tmp_path / "run/distilled/data/train-00000-of-00001.parquet").to_pylist()
        assert {(r["label"], r["slot"]): r["weight"] for r in distilled} == expected
        assert all('"weights":{"mode":"density","norm":"mean"}' in r["provenance"] for r in distilled)
        items = open_product(Location.of(str(tmp_path / "run"))).items()
        assert {(i.label, i.slot): i.fields["weight"] for i in items} == expected
        assert "images weigh unequally" in (tmp_path / "run/report.html").read_text()

    def test_an_empty_cell_is_told_before_anything_is_sampled(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of a clustering of one's own: where weights need its mass, and nowhere else."""
        kind, worked = registry.get("clustering", "kmeans"), []
        cluster = kind.cluster

        def hollow(self: typing.Any, points: typing.Any, class_id: str) -> typing.Any:
            clusters = cluster(self, points, class_id)
            return replace(clusters, size=clusters.size * (np.arange(3) != 1)) if class_id == "7" else clusters

        def watched(stage: Stage, todo: typing.Any) -> typing.Any:
            worked.append(stage.name)
            return serial(stage, todo)

        monkeypatch.setattr(kind, "cluster", hollow)
        line = r"^weigh: class '7': the mass of slot 1 is 0, which is no weight; choose weights\.mode=uniform or mend"
        with without_ray(), pytest.raises(StageFailed, match=line):
            job.run(prepare(small(tmp_path, "weights.mode=sqrt"), evaluate=False), "sample", execute=watched)
        assert worked == ["encode", "group", "cluster", "plan"]
        with without_ray():
            job.run(prepare(small(tmp_path, "weights.mode=uniform"), evaluate=False), "sample", execute=watched)
        assert worked[4:6] == ["sample", "weigh"]

    def test_a_method_may_prescribe_them(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry.get("method", "mgd3"), "weights", "density")
        assert resolve(small(tmp_path)).config.weights == WeightsConfig(mode="density")
        assert resolve(small(tmp_path, "weights.mode=uniform")).config.weights == WeightsConfig(mode="uniform")
        prepared = prepare(small(tmp_path, "weights.mode=uniform", "evaluate.baselines=[mgd3_ddim,random]"))
        assert [v.config.weights.mode for v in prepared.variants] == ["uniform", "density", None]


class TestRefusals:
    @pytest.mark.parametrize("method", ["random", "herding", "dit"])
    def test_masses_of_a_method_that_has_none(self, method: str, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=f"weights.mode=density .* {method} has none; choose weights.mode=uniform"):
            prepare(small(tmp_path, "weights.mode=density", f"method={method}"))
        assert prepare(small(tmp_path, "weights.mode=uniform", f"method={method}")), "the remedy"
        assert not (tmp_path / "run").exists()

    def test_ddoq_has_roots_and_its_baseline_has_equal_ones(self, tmp_path: Path) -> None:
        prepared = prepare(small(tmp_path, "method=ddoq", "evaluate.baselines=[d4m]"))
        assert [v.config.weights for v in prepared.variants] == [WeightsConfig(mode=m) for m in ("sqrt", "uniform")]

    @pytest.mark.parametrize(
        ("overrides", "line"),
        [
            (["weights.mode=power"], "needs an exponent; give weights.gamma"),
            (["weights.mode=sqrt", "weights.gamma=0.3"], "is for weights.mode=power, not for sqrt"),
            (["weights.gamma=0.3"], "is for weights.mode=power, not for none"),
            (["weights.mode=power", "weights.gamma=-1"], "weights.gamma"),
        ],
    )
    def test_an_exponent_goes_with_a_power_and_a_power_with_an_exponent(
        self, overrides: list[str], line: str, tmp_path: Path
    ) -> None:
        with pytest.raises(BadInput, match=line):
            prepare(small(tmp_path, *overrides))
        both = prepare(small(tmp_path, "weights.mode=power", "weights.gamma=0.3"))
        assert both.variants[0].config.weights.gamma == 0.3 and both.variants[1].config.weights.gamma is None

    def test_a_method_with_weights_that_there_are_not(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry.get("method", "mgd3"), "weights", "cubic")
        with pytest.raises(BadInput, match=r"prescribes weights='cubic', which is no mode \(uniform, density, sqrt"):
            resolve(small(tmp_path))

    def test_a_norm_that_would_weigh_increments_against_each_other(self, tmp_path: Path) -> None:
        lgd = ("method=lgd", "lgd.base=mgd3", "weights.mode=sqrt", "lgd.increment=1")
        with pytest.raises(BadInput, match=r"weights\.norm=sum would scale each increment of method lgd by itself"):
            prepare(small(tmp_path, *lgd, "weights.norm=sum"))
        assert prepare(small(tmp_path, *lgd)).variants[0].growth is not None

    @pytest.mark.parametrize("override", ["weights.mode=density", "start.strength=0.5"])
    def test_a_curriculum_has_the_prototypes_of_its_base(self, override: str, tmp_path: Path) -> None:
        lgd = ("method=lgd", "lgd.increment=1", "sampler.steps=8", override)
        with pytest.raises(BadInput, match=r"an lgd\.base with prototypes \(lgd\.base=mgd3, lgd\.base=ddoq\)$"):
            prepare(small(tmp_path, *lgd))
        for base in ("mgd3", "ddoq"):
            assert prepare(small(tmp_path, *lgd, f"lgd.base={base}"))

    def test_a_norm_of_no_mode(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"weights\.norm: no weights\.mode is given"):
            unread.check(prepare(small(tmp_path, "weights.norm=sum")), ["weights.norm"])
        unread.check(prepare(small(tmp_path, "weights.norm=sum", "weights.mode=density")), ["weights.norm"])

    @pytest.mark.parametrize("override", ["weights.mode=densty", "weights.norm=max", "weights.mod=density"])
    def test_another_word(self, override: str, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"weights\.mod" if "norm" not in override else r"weights\.norm"):
            small(tmp_path, override)


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        ((1.0, -1.0), "slot 1 has weight -1; weights are numbers from 0 to 3.4e+38"),
        ((float("nan"), 1.0), "slot 0 has weight nan; weights"),
        ((1.0, 1e39), "slot 1 has weight 1e+39; weights"),
        ((0.0, 0.0), "all weights are 0, and nothing can be learned from that"),
    ],
)
def test_what_a_method_of_ones_own_gives_its_slots_is_looked_at_before_anything_is_made(
    weights: tuple[float, ...], why: str
) -> None:
    with pytest.raises(StageFailed, match=f"^plan: method mine: class 'c': {re.escape(why)}"):
        check_weights([Slot(-1, None, weight=w) for w in weights], "plan: method mine: class 'c'")
    check_weights([Slot(-1, None, weight=w) for w in (0.0, 2.0)], "")
