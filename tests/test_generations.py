"""Several generation seeds in one run: sets of all of them, each with trainings of its own, in one fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from running import finish
from test_evaluation import images, recipe
from tiny_run import TinyRun, config

from raydistill.cli import _long
from raydistill.evaluation import train as training
from raydistill.evaluation.drawing import even_chances
from raydistill.evaluation.train import batches
from raydistill.report.scores import FULL, FULL_BALANCED
from raydistill.results.outcomes import read
from raydistill.sources.base import ClassInfo, Listing
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainings import trainings
from raydistill.store.rundir import RunDir


class TestTrainings:
    @pytest.fixture
    def tiny(self, tmp_path: Path) -> TinyRun:
        return TinyRun(tmp_path / "run")

    def test_each_draw_has_training_seeds_of_its_own_and_the_full_data_all(self, tiny: TinyRun) -> None:
        two = config(seeds={"generation": 2})
        sets = [SetRef("mgd3", "a", 6, None), SetRef("mgd3", "b", 6, None, draw=1), SetRef.full(tiny.train)]
        planned = trainings(two, tiny.run, sets, tiny.test)
        assert [(t.set.digest[:1] if t.set.name == "mgd3" else FULL, t.seed) for t in planned] == [
            ("a", 0), (FULL, 0), ("a", 1), (FULL, 1), ("b", 2), (FULL, 2), ("b", 3), (FULL, 3),
        ]  # fmt: skip
        assert len({t.label for t in planned}) == 8, "kept students have names of their own"

    def test_the_runs_own_seed_is_trained_as_before(self, tiny: TinyRun) -> None:
        first, later = SetRef("mgd3", "a", 6, None), SetRef("mgd3", "b", 6, None, draw=1)
        one = trainings(config(), tiny.run, [first], tiny.test)
        two = trainings(config(seeds={"generation": 2}), tiny.run, [first, later], tiny.test)
        assert [t.artifact.fingerprint for t in one] == [t.artifact.fingerprint for t in two[:2]]
        assert len({t.artifact.fingerprint for t in two}) == 4

    def test_balanced_batches_are_another_training(self, tiny: TinyRun) -> None:
        full, even = (SetRef.full(tiny.train, balanced=b) for b in (False, True))
        assert (full.name, even.name) == (FULL, FULL_BALANCED)
        planned = trainings(config(evaluate={"seeds": 1}), RunDir(str(tiny.root)), [full, even], tiny.test)
        assert len({t.artifact.fingerprint for t in planned}) == 2


class TestBalancedBatches:
    """Of 4, 8 and 36 images."""

    LABELS = torch.tensor([0] * 4 + [1] * 8 + [2] * 36)

    def test_an_epoch_holds_every_class_equally_often(self) -> None:
        chances = even_chances(self.LABELS)
        assert [float(chances[c == self.LABELS].sum()) for c in range(3)] == pytest.approx([1, 1, 1])
        drawn = list(batches(48, recipe(batch=4, visits=480), 0, weights=chances))
        for epoch in range(10):
            rows = np.concatenate([rows for e, rows, _ in drawn if e == epoch])
            assert np.abs(np.bincount(self.LABELS[rows]) - 16).max() <= 1
        assert len(np.unique(np.concatenate([rows for _, rows, _ in drawn]))) == 48, "all images come up"

    def test_is_what_a_balanced_training_draws(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[np.ndarray | None] = []
        monkeypatch.setattr(training, "batches", lambda *args: seen.append(args[4]) or batches(*args))
        data = images(48)
        for balanced in (False, True):
            student = training.Student("convnet", 8, 2, 0)
            r = recipe(visits=96, evaluations=1)
            training.train_student(student, r, data, images(8, 2, 9), torch.device("cpu"), balanced=balanced)
        assert seen[0] is None and seen[1] is not None and np.array_equal(seen[1], even_chances(data.labels))


@pytest.mark.parametrize(("counts", "uneven"), [((10, 20), False), ((10, 21), True), ((77, 240), True)])
def test_classes_are_uneven_where_they_differ_by_more_than_half(counts: tuple[int, int], uneven: bool) -> None:
    labels = np.repeat([0, 1], counts)
    listing = Listing("train", (ClassInfo("a", "a"), ClassInfo("b", "b")), None, labels, None)  # type: ignore[arg-type]
    assert listing.uneven is uneven


def test_the_key_is_no_short_for_training_seeds() -> None:
    assert _long("seeds=5") == "evaluate.seeds=5" and _long("seeds.generation=5") == "seeds.generation=5"


@pytest.mark.slow
@pytest.mark.ray
def test_a_finished_run_is_drawn_again_as_its_page_says(reference: tuple[Path, object], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(reference[0], run, copy_function=shutil.copy2)
    assert "seeds.generation=5 draws each set by five seeds" in (run / "report.html").read_text()
    old = {p: p.stat().st_mtime_ns for p in run.glob("*/*/data/*")}
    done = finish(run, "seeds.generation=2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert {p: p.stat().st_mtime_ns for p in old} == old, "what was there is found"
    outcomes = read((run / "trainings.json").read_bytes())
    assert {(o.set, o.generation, o.training) for o in outcomes} == {
        (name, g, g) for name in ("mgd3", "random") for g in (0, 1)
    }
    assert len({o.digest for o in outcomes}) == 4, "each draw is another set"
    flat, page = json.loads((run / "result.json").read_text()), (run / "report.html").read_text()
    assert (flat["difference/mgd3/random/convnet/generations"], flat["difference/mgd3/random/convnet/units"]) == (2, 2)
    assert "This mgd3 set" not in page and "One draw is not a method" not in page and "0 to 1" in page
    again = finish(run, "seeds.generation=2")
    assert again.returncode == 0 and "nothing was left to do" in again.stderr
