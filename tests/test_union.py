"""A set of several sealed parts: nothing is copied, slots go on, and all that reads a set reads it as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_run import GENERATED, TinyRun, config

from raydistill.methods.resolve import resolve
from raydistill.seeding import NoiseKey
from raydistill.stages import runner
from raydistill.stages.evaluation import label, measure, trainings
from raydistill.stages.evaluation.image_sets import SetRef, syntheses
from raydistill.stages.evaluation.measure import LATENT
from raydistill.stages.evaluation.trainer import Job, StudentTrainer, body
from raydistill.stages.runner import Stage, serial
from raydistill.stages.syntheses import plan, product, sample
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.stages.syntheses.numbers import counted
from raydistill.store import schemas
from raydistill.store.artifact import Artifact
from raydistill.store.location import Location
from raydistill.store.sealed import Sealed

UPSTREAM = ["encode", "group", "cluster"]


def done(stage: Stage) -> Sealed:
    return runner.run(stage, serial).sealed


def planned(tiny: TinyRun, increment: int) -> Sealed:
    v, classes, anchors = resolve(tiny.config), tiny.sealed("group"), tiny.sealed("cluster")
    return done(plan.stage(v, tiny.run, classes, anchors, tiny.train.classes, tiny.shape, increment=increment))


def sampled(tiny: TinyRun, slots: Sealed) -> Sealed:
    v, classes = resolve(tiny.config), tiny.sealed("group")
    return done(sample.stage(v, tiny.run, slots, classes, tiny.train, tiny.vae, tiny.generator))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = TinyRun(tmp_path_factory.mktemp("tiny") / "run")
    run.finish([*UPSTREAM, f"plan {GENERATED}", f"sample {GENERATED}"])
    return run


@pytest.fixture(scope="module")
def parts(tiny: TinyRun) -> tuple[Sealed, Sealed]:
    return sampled(tiny, planned(tiny, 0)), sampled(tiny, planned(tiny, 1))


class TestNoise:
    def test_a_plan_says_which_and_its_first_increment_is_the_plan_of_today(
        self, tiny: TinyRun, parts: tuple[Sealed, Sealed]
    ) -> None:
        today = tiny.sealed(f"plan {GENERATED}").artifact
        first, second = (planned(tiny, n) for n in (0, 1))
        assert first.artifact.fingerprint == today.fingerprint != second.artifact.fingerprint
        for n, slots in enumerate((first, second)):
            rows = slots.read().to_pylist()
            assert [r["seed_key"] for r in rows] == [f"0/{r['class_id']}/{r['slot']}/{n}/0" for r in rows]
        one, two = (p.read(["image"])["image"].to_pylist() for p in parts)
        assert len(set(one + two)) == 12, "no image of an increment is one of another"

    def test_the_sampler_reads_it_back(self, tiny: TinyRun) -> None:
        """Seed and candidate too: rows for which a plan asks for others get other noise, and no rows else."""
        slots = planned(tiny, 0)
        table = slots.read()
        keys = [NoiseKey.of(k) for k in table["seed_key"].to_pylist()]
        asked = [k.text() if i < 3 else NoiseKey(7, k.class_id, k.slot, 0, 2).text() for i, k in enumerate(keys)]
        at = table.column_names.index("seed_key")
        other = Artifact(tiny.run.artifacts, "plan", "f" * 16)
        other.commit_table("plan", table.set_column(at, "seed_key", pa.array(asked)), device="driver")
        union = sampled(tiny, Sealed(other, other.seal(["plan"])))
        for before, after, key in zip(
            sampled(tiny, slots).read().to_pylist(), union.read().to_pylist(), asked, strict=True
        ):
            assert after["seed_key"] == key and (after["image"] == before["image"]) == (
                after["seed_key"] == before["seed_key"]
            )

    @pytest.mark.parametrize("class_id", ["n01440764", "a/b", "0/1/2/3", "", "Ä ö"])
    def test_the_text_of_a_key_is_read_as_it_was(self, class_id: str) -> None:
        key = NoiseKey(2**40, class_id, 3, 1, 9)
        assert NoiseKey.of(key.text()) == key

    @pytest.mark.parametrize("text", ["", "0", "0/c/1/2", "x/c/1/2/3", "0/c/1/2/x"])
    def test_another_text_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError):
            NoiseKey.of(text)


class TestUnion:
    def test_slots_go_on_and_no_other_column_changes(self, parts: tuple[Sealed, Sealed]) -> None:
        union = DistilledSet(parts)
        table, apart = union.read(), [p.read() for p in parts]
        assert union.rows == len(table) == 12 and table.schema == apart[0].schema
        both = pa.concat_tables(apart)
        for name in set(table.column_names) - {"slot"}:
            assert table[name].combine_chunks() == both[name].combine_chunks(), name
        for index in (0, 1):
            mine = table["slot"].to_numpy()[table["class_index"].to_numpy() == index]
            assert sorted(mine) == list(range(6)) and sorted(mine[3:]) == [3, 4, 5]
        assert union.read(["image"]).column_names == ["image"]
        assert counted(both).nfe == union.numbers().nfe

    def test_classes_that_a_part_lacks_begin_where_they_ended(self, tmp_path: Path) -> None:
        def part(name: str, rows: list[tuple[int, int]]) -> Sealed:
            artifact = Artifact(Location.of(str(tmp_path)), "syntheses", name)
            for i in (0, 1):  # two files
                mine = rows[i::2]
                columns = {"class_index": [c for c, _ in mine], "slot": [s for _, s in mine]}
                artifact.commit_table(f"batch-{i}", pa.table(columns), device="cpu")
            return Sealed(artifact, artifact.seal(["batch-0", "batch-1"]))

        union = DistilledSet(
            (part("a", [(0, 0), (0, 1)]), part("b", [(2, 1), (0, 0), (2, 0)]), part("c", [(2, 0), (1, 0)]))
        )
        rows = [tuple(r.values()) for r in union.read(["class_index", "slot"]).to_pylist()]
        assert rows == [(0, 0), (0, 1), (2, 1), (2, 0), (0, 2), (2, 2), (1, 0)]
        keys = [u.key for u in union.units()]
        assert len(set(keys)) == 6 and [u.start for u in union.units()] == [0, 1, 2, 4, 5, 6]

    def test_one_part_is_what_it_was(self, tiny: TinyRun, parts: tuple[Sealed, Sealed]) -> None:
        """Old runs stay finished: the digest is the manifest's, keys and rows are the artifact's."""
        alone = DistilledSet(parts[:1])
        assert alone.digest == parts[0].digest and alone.read() == parts[0].read()
        assert [u.key for u in alone.units()] == [r.key for r in parts[0].records]
        assert len({DistilledSet(p).digest for p in (parts[:1], parts[1:], parts, parts[::-1])}) == 4

    def test_it_trains(self, tiny: TinyRun, parts: tuple[Sealed, Sealed], tmp_path: Path) -> None:
        ref = SetRef.of("union", DistilledSet(parts))
        apart = [syntheses(SetRef.of("part", DistilledSet((p,))), tiny.config.source, 16) for p in parts]
        whole = syntheses(ref, tiny.config.source, 16)
        assert torch.equal(whole.images.pixels, torch.cat([a.images.pixels for a in apart]))
        assert torch.equal(whole.images.labels, torch.cat([a.images.labels for a in apart]))
        assert whole.bytes == sum(a.bytes for a in apart)
        (one, *_) = trainings.trainings(tiny.config, tiny.run, [ref], tiny.test)
        location, e = Location.of(str(tmp_path)), tiny.config.evaluate
        job = Job((one,), tiny.config.source, tiny.train, tiny.test, e, location, location)
        StudentTrainer(job, torch.device("cpu"), "cpu").run(one)
        one.artifact.seal(["training"])
        committed = body(one)
        assert committed is not None and committed["bytes"]["images"] == whole.bytes

    def test_it_is_labelled(self, tiny: TinyRun, parts: tuple[Sealed, Sealed]) -> None:
        soft = config(evaluate={"protocol": {"name": "fkd", "views": 2, "image_size": 16}})
        recipe = trainings.recipe(soft, 2, "convnet")
        ref = SetRef.of("union", DistilledSet(parts))
        stored = done(label.stage(soft, tiny.run, ref, tiny.train.classes, tiny.network, recipe))
        assert sorted(stored.read(["row"])["row"].to_pylist()) == sorted(2 * list(range(12)))
        assert label.read(stored, 12, recipe.views).codes.shape[:2] == (2, 12)

    def test_it_is_measured(self, tiny: TinyRun, parts: tuple[Sealed, Sealed]) -> None:
        asked = config(metrics={"names": ["l2"]})
        points = {LATENT: tiny.sealed("group")}

        def value(*some: Sealed) -> float:
            stage = measure.stage(asked, tiny.run, SetRef.of("set", DistilledSet(some)), points, None, 2)
            (number,) = measure.values(done(stage)).values()
            return number

        real = np.concatenate([x for x, _ in measure.real_vectors(points[LATENT], LATENT)]).mean(0)
        synthetic = np.concatenate([schemas.tensor_numpy(p.read(["latent"])["latent"]).reshape(6, -1) for p in parts])
        assert value(*parts) == pytest.approx(np.linalg.norm(synthetic.mean(0) - real), rel=1e-5)
        assert len({value(*parts), value(parts[0]), value(parts[1])}) == 3

    def test_the_product_holds_the_images_of_its_parts(
        self, tiny: TinyRun, parts: tuple[Sealed, Sealed], tmp_path: Path
    ) -> None:
        def rows(name: str, *some: Sealed) -> list[dict]:
            location = Location.of(str(tmp_path / name))
            product.assemble(location, DistilledSet(some), tiny.train.classes, GENERATED, {}, "card")
            return pq.read_table(tmp_path / name / "distilled/data/train-00000-of-00001.parquet").to_pylist()

        union, apart = rows("union", *parts), [rows(n, p) for n, p in zip("ab", parts, strict=True)]
        assert [(r["label"], r["slot"]) for r in union] == [(c, s) for c in (0, 1) for s in range(6)]
        expected = [r for c in (0, 1) for part in apart for r in part if r["label"] == c]
        assert [r["image"]["bytes"] for r in union] == [r["image"]["bytes"] for r in expected]
        assert [r["seed_key"] for r in union] == [r["seed_key"] for r in expected]
        assert len({r["image"]["path"] for r in union}) == 12
