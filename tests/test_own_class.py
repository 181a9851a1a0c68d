"""Whether syntheses are of the classes that they were made for: by arithmetic, and as a stage of a run."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tiny_run import GENERATED, TinyRun

from raydistill.metrics.own_class import OwnClass, at_least, nearest_means, positions, warning
from raydistill.stages import runner
from raydistill.stages.latents import group
from raydistill.stages.runner import serial
from raydistill.stages.syntheses import check
from raydistill.store import schemas
from raydistill.store.sealed import Sealed

CLASSES, EACH, SIZE = 10, 10, 64
NUMBERS = [str(c) for c in range(CLASSES)]


def clusters(rate: float = 1.0, shift: int = 0, classes: int = CLASSES, each: int = EACH, seed: int = 0) -> OwnClass:
    """Syntheses about the means of Gaussian classes far apart: a share `rate` about that of the class `shift` after
    their own, the others about any."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(classes, SIZE)).astype(np.float32)
    labels = np.repeat(np.arange(classes), each)
    closest = np.where(
        rng.random(len(labels)) < rate, (labels + shift) % classes, rng.integers(0, classes, len(labels))
    )
    z = (means[closest] + 0.2 * rng.normal(size=(len(labels), SIZE))).astype(np.float32)
    nearest = nearest_means(z, means)
    assert np.array_equal(nearest, closest)
    return OwnClass.of(labels, nearest, classes)


class TestCounting:
    def test_the_nearest_mean_is_that_of_least_distance(self) -> None:
        rng = np.random.default_rng(1)
        z, means = rng.normal(3, 1, (50, 7)).astype(np.float32), rng.normal(3, 1, (6, 7)).astype(np.float32)
        distance = np.square(z[:, None] - means[None]).sum(axis=2)
        assert np.array_equal(nearest_means(z, means), distance.argmin(axis=1))

    def test_pairs_are_counted(self) -> None:
        tally = OwnClass.of(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0]), 3)
        assert tally.pairs.tolist() == [[0, 0, 1], [0, 1, 1], [1, 1, 2], [2, 0, 1]]
        assert (tally.images, tally.hits, tally.share, tally.chance) == (5, 3, 0.6, 5 / 3)
        assert tally.shifted(np.arange(3), 1) == 1 and tally.shifted(np.arange(3), -2) == 1

    def test_the_probability_is_that_of_the_binomial_tail(self) -> None:
        for images, hits, rate in ((3, 2, 1 / 3), (20, 5, 0.1), (100, 0, 0.1), (9, 9, 0.5)):
            tail = sum(math.comb(images, k) * rate**k * (1 - rate) ** (images - k) for k in range(hits, images + 1))
            assert at_least(hits, images, rate) == pytest.approx(tail, rel=1e-9)

    def test_positions_are_numbers_where_all_classes_are(self) -> None:
        assert positions(["1", "10", "2"]).tolist() == [1, 10, 2]
        assert positions(["n02", "n01", "7"]).tolist() == [0, 1, 2]


class TestTheWarning:
    @pytest.mark.parametrize("rate", [1.0, 0.5, 0.25])
    def test_images_of_their_own_classes_give_none_though_rough(self, rate: float) -> None:
        assert warning(clusters(rate), NUMBERS) is None

    @pytest.mark.parametrize("seed", range(3))
    def test_images_of_any_class_give_the_numbers(self, seed: int) -> None:
        tally = clusters(0.0, seed=seed)
        text = warning(tally, NUMBERS) or ""
        assert f"{tally.hits} of 100 syntheses lie nearest to the real mean of their own class" in text
        assert "chance gives 10 (p = " in text and "may not be of the images' classes" in text
        assert "one class on" not in text and "one class back" not in text

    @pytest.mark.parametrize(("shift", "way", "pair"), [(1, "on", "'0' to '1' (10)"), (-1, "back", "'1' to '0' (10)")])
    def test_numbers_that_begin_elsewhere_are_seen(self, shift: int, way: str, pair: str) -> None:
        text = warning(clusters(1.0, shift), NUMBERS) or ""
        assert text.startswith("0 of 100 ") and pair in text
        assert f"90 lie one class {way}, as if the numbers began elsewhere" in text, "one class has no neighbour"

    def test_they_are_seen_of_one_image_a_class_too(self) -> None:
        assert "9 lie one class on" in (warning(clusters(1.0, 1, each=1), NUMBERS) or "")

    def test_by_the_number_not_by_the_order_of_folders(self) -> None:
        ids = sorted(str(i) for i in range(1, 13))  # 1, 10, 11, 12, 2, ...
        labels = np.array([ids.index(str(i)) for i in range(1, 12)])
        near = np.array([ids.index(str(i + 1)) for i in range(1, 12)])
        assert "11 lie one class on" in (warning(OwnClass.of(labels, near, 12), ids) or "")

    def test_few_images_are_not_judged(self) -> None:
        """At or below chance the numbers are told, without a claim; above it there is nothing to tell."""
        one_of_two = OwnClass.of(np.array([0, 1]), np.array([0, 0]), 2)
        text = warning(one_of_two, ["a", "b"]) or ""
        assert text.startswith("1 of 2 ") and text.endswith("too few to tell whether they are of these classes")
        assert warning(OwnClass.of(np.array([0, 1]), np.array([0, 1]), 2), ["a", "b"]) is None
        three_of_ten = OwnClass.of(np.arange(10), np.array([0, 1, 2, 7, 7, 7, 7, 4, 4, 4]), 10)
        assert three_of_ten.p_value > 0.01 and warning(three_of_ten, NUMBERS) is None

    @pytest.mark.parametrize(("classes", "least"), [(2, 50), (3, 30), (10, 70), (1000, 8000)])
    def test_enough_is_where_twice_chance_would_stand_out(self, classes: int, least: int) -> None:
        tells = [OwnClass(np.array([[0, 0, n]]), classes).tells for n in range(1, 2 * least)]
        assert not any(tells[: least // 2]) and tells[-1]

    def test_three_times_chance_is_hardly_ever_called_wrong(self) -> None:
        """At the least number of images that tells."""
        quiet = next(hits for hits in range(70) if at_least(hits, 70, 0.1) < 0.01)
        assert 1 - at_least(quiet, 70, 0.3) < 0.05


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = TinyRun(tmp_path_factory.mktemp("tiny") / "run")
    run.finish(["encode", "group", "cluster", f"plan {GENERATED}", f"sample {GENERATED}"])
    return run


def latents(tiny: TinyRun) -> tuple[np.ndarray, np.ndarray]:
    table = tiny.sealed("group").read()
    return schemas.tensor_numpy(table["latent"]).astype(np.float64), table["class_index"].to_numpy()


class TestTheStages:
    def test_means_are_those_of_all_latents_of_a_class(self, tiny: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
        x, y = latents(tiny)
        for part in (group.PART, 3):
            monkeypatch.setattr(check, "PART", part)
            classes = tiny.sealed("group")
            work = check.MeansWork(classes, artifact=tiny.run.artifact("means", f"parts-of-{part}"))
            tables = [work.artifact.read_table(work.finish(r)) for r in classes.records]
            for table in tables:
                for c, mean in zip(table["class_index"].to_pylist(), schemas.tensor_numpy(table["mean"]), strict=True):
                    assert mean == pytest.approx(x[y == c].mean(axis=0), abs=1e-6)
            assert sum(sum(t["size"].to_pylist()) for t in tables) == len(x)

    def test_a_check_counts_what_lies_nearest_to_which_mean(self, tiny: TinyRun) -> None:
        remaining = self.counted(tiny)
        x, y = latents(tiny)
        means = np.stack([x[y == c].mean(axis=0) for c in range(2)]).reshape(2, -1)
        table = tiny.sealed(f"sample {GENERATED}").read()
        z = schemas.tensor_numpy(table["latent"]).reshape(len(table), 1, -1)
        near = np.square(z - means).sum(axis=2).argmin(axis=1)
        for label, nearest in zip(table["class_index"].to_pylist(), near, strict=True):
            remaining[label, nearest] -= 1
        assert not remaining.any()

    def counted(self, tiny: TinyRun) -> np.ndarray:
        runner.run(tiny.stage("means"), serial)
        kept = check.own_class(runner.run(tiny.stage(f"check {GENERATED}"), serial).sealed)
        counts = np.zeros((2, 2), int)
        counts[kept.pairs[:, 0], kept.pairs[:, 1]] = kept.pairs[:, 2]
        assert counts.sum() == 6
        return counts

    def test_a_run_again_warns_again_of_what_is_kept_and_reads_no_latent(
        self, tiny: TinyRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The warning is provoked: every synthesis is said to lie nearest to the other class."""
        monkeypatch.setattr(check, "nearest_means", lambda z, means: np.zeros(len(z), np.int64))
        run = type(tiny.run)(str(tiny.run.root), f"{tiny.root}-apart")
        real, sets = tiny.sealed("group"), {GENERATED: tiny.distilled(GENERATED)}

        def run_stage(stage: runner.Stage, label: str) -> Sealed:
            return runner.run(stage, serial, label).sealed

        first = check.check(run, real, sets, tiny.train.classes, run_stage)[GENERATED]
        said = capsys.readouterr().err
        warned = [line for line in said.splitlines() if line.startswith("warning ")]
        assert len(warned) == 1 and "mgd3: 3 of 6 syntheses lie nearest" in warned[0]
        monkeypatch.setattr(check.CheckWork, "finish", lambda *_: pytest.fail("read again"))
        monkeypatch.setattr(check.MeansWork, "finish", lambda *_: pytest.fail("read again"))
        again = check.check(run, real, sets, tiny.train.classes, run_stage)[GENERATED]
        assert again.hits == first.hits == 3 and warned[0] in capsys.readouterr().err

    def test_without_a_set_that_was_made_nothing_is_computed(self, tiny: TinyRun) -> None:
        real = tiny.sealed("group")
        assert check.check(tiny.run, real, {}, tiny.train.classes, lambda *_: pytest.fail("work began")) == {}
