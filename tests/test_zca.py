"""ZCA whitening in an evaluation: closed forms, whose statistics they are, and sets that come whitened."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_run
import torch
from judged_folders import THREE, folders
from tiny_run import TinyRun

from raydistill import api
from raydistill import config as configuration
from raydistill.config import Config, ProtocolConfig
from raydistill.errors import BadInput
from raydistill.evaluation.colour import normalise
from raydistill.evaluation.recipe import Setting, describe, resolve, title
from raydistill.evaluation.zca import EPS, Whitening, from_levels
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.stages.evaluation import trainings
from raydistill.stages.evaluation.image_sets import SetRef, load_images, real_images
from raydistill.stages.evaluation.trainer import KEY, Job, StudentTrainer
from raydistill.stages.runner import serial
from raydistill.stages.syntheses import ingest
from raydistill.store.location import Location

SIDE = 4
D = 3 * SIDE**2


def correlated(n: int = 400, seed: int = 0) -> torch.Tensor:
    """Images (n, 3, 4, 4) uint8 whose values depend on each other."""
    rng = np.random.default_rng(seed)
    values = 128 + rng.normal(size=(n, D)) @ rng.normal(size=(D, D)) * 4
    return torch.from_numpy(values.clip(0, 255).astype(np.uint8)).reshape(n, 3, SIDE, SIDE)


def flat(whitened: torch.Tensor) -> torch.Tensor:
    return (whitened / 255).reshape(len(whitened), -1).double()


class TestWhitening:
    def test_the_training_images_have_no_mean_and_the_identity_as_covariance(self) -> None:
        pixels = correlated()
        z = flat(Whitening.of(pixels, eps=1e-9)(pixels))
        torch.testing.assert_close(z.mean(0), torch.zeros(D).double(), rtol=0, atol=1e-3)
        torch.testing.assert_close(z.T.cov(), torch.eye(D).double(), rtol=0, atol=1e-3)

    def test_eps_leaves_of_each_variance_its_share(self) -> None:
        """C (C + eps)^-1; kornia's whitening, as MTT calls it, has the same closed form."""
        pixels = correlated()
        c = flat(pixels.float()).T.cov()
        expected = c @ torch.linalg.inv(c + EPS * torch.eye(D).double())
        torch.testing.assert_close(flat(Whitening.of(pixels)(pixels)).T.cov(), expected, rtol=0, atol=1e-4)

    def test_it_is_zca_and_stays_as_close_to_the_image_as_can_be(self) -> None:
        matrix = Whitening.of(correlated()).matrix
        torch.testing.assert_close(matrix, matrix.T)
        assert (torch.linalg.eigvalsh(matrix) > 0).all()

    def test_chunks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pixels = correlated()
        whole = Whitening.of(pixels)
        monkeypatch.setattr("raydistill.evaluation.zca.CHUNK", 64)
        parts = Whitening.of(pixels)
        torch.testing.assert_close(parts.matrix, whole.matrix)
        torch.testing.assert_close(parts(pixels), whole(pixels))

    def test_images_of_one_value_stay_finite(self) -> None:
        assert torch.isfinite(Whitening.of(torch.full((3, 3, SIDE, SIDE), 7, dtype=torch.uint8)).matrix).all()


def recipe_of(**protocol: object):  # type: ignore[no-untyped-def]
    return resolve(
        ProtocolConfig(**{"name": "dsa", "image_size": 32, "zca": True} | protocol), Setting(1, 10, 32, "convnet")
    )


class TestOption:
    def test_whitened_images_are_not_normalised_again(self) -> None:
        assert recipe_of().statistics == "none"
        x = torch.randn(2, 3, SIDE, SIDE) * 255
        torch.testing.assert_close(normalise(x, "none"), x / 255)

    def test_results_name_it_and_others_keep_their_fingerprints(self) -> None:
        assert "zca=true" in title(ProtocolConfig(zca=True)) and "ZCA-whitened" in describe(recipe_of())
        assert "zca" not in recipe_of(zca=None).tree() and "zca" not in recipe_of(name="hard", zca=False).tree()

    @pytest.mark.parametrize(
        ("more", "why"), [({"name": "rded"}, "a teacher does not know"), ({"image_size": 96}, "at most 64 px")]
    )
    def test_what_cannot_be_whitened_is_refused(self, more: dict[str, object], why: str) -> None:
        with pytest.raises(BadInput, match=why):
            recipe_of(**more)

    def test_a_kept_network_is_of_images_as_they_are(self) -> None:
        with pytest.raises(BadInput, match="a network that is kept takes images as they are"):
            configuration.load("quickstart", ["evaluate.keep_weights=true", "evaluate.protocol.zca=true"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """With the syntheses of one method."""
    root = tmp_path_factory.mktemp("zca")
    run = TinyRun(root / "run")
    run.finish(["encode", "group", "plan random", "sample random"])
    return run


def whitening(config: Config) -> Config:
    p = config.evaluate.protocol.model_copy(update={"zca": True})
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"protocol": p})})


def planned(tiny: TinyRun, config: Config, ref: SetRef, train_on: object = None):  # type: ignore[no-untyped-def]
    return trainings.trainings(config, tiny.run, [ref], tiny.test, None, train_on or tiny.train)[0]


def student_trainer(tiny: TinyRun, config: Config, *t: object) -> StudentTrainer:
    at = Location.of(str(tiny.root))
    job = Job(tuple(t), config.source, tiny.train, tiny.test, config.evaluate, at / "logs", at / "checkpoints")  # type: ignore[arg-type]
    return StudentTrainer(job, torch.device("cpu"), "cpu")


class TestTraining:
    def test_distilled_real_and_test_images_are_whitened_by_all_training_images(self, tiny: TinyRun) -> None:
        config, ref = whitening(tiny.config), tiny.ref("random")
        t = planned(tiny, config, ref)
        size = t.recipe.image_size
        by_train = Whitening.of(real_images(config.source, tiny.train, size).images.pixels)
        blobs = tiny.distilled("random").read(["image"])["image"].to_pylist()
        plain = {
            "distilled": torch.from_numpy(load_images(blobs, config.source, size)),
            "real": real_images(config.source, tiny.train, size).images.pixels,
            "test": real_images(config.source, tiny.test, size).images.pixels,
        }
        trainer = student_trainer(tiny, config, t)
        seen = {
            "distilled": trainer.images(ref, t.recipe),
            "real": student_trainer(tiny, config, t).images(SetRef.full(tiny.train), t.recipe),
            "test": trainer.test(t.recipe),
        }
        for what, loaded in seen.items():
            torch.testing.assert_close(loaded.images.pixels, by_train(plain[what]), msg=what)
        trainer.run(t)
        assert KEY in t.artifact.records()

    def test_a_training_depends_on_the_training_images_only_where_it_whitens(self, tiny: TinyRun) -> None:
        ref, few = tiny.ref("random"), tiny_run.few(tiny.train, 11)
        ids = [
            [planned(tiny, config, ref, train_on).artifact.fingerprint for train_on in (tiny.train, few)]
            for config in (tiny.config, whitening(tiny.config))
        ]
        assert ids[0][0] == ids[0][1] and len({*ids[0], *ids[1]}) == 3
        levels = replace(ref, levels=(-1.0, 2.0))
        assert planned(tiny, whitening(tiny.config), levels).artifact.fingerprint not in ids[1]


class TestJudged:
    """A set that is published whitened: its values are trained on as they are, and tested on whitened images."""

    @staticmethod
    def tensors(root: Path, values: torch.Tensor, said: str = '{"whitened": true}') -> str:
        root.mkdir()
        torch.save(values, root / "images_best.pt")
        torch.save(torch.tensor([0, 1, 2]), root / "labels_best.pt")
        (root / "order.txt").write_text("n01\nn02\nn03\n")
        (root / "normalisation.json").write_text(said)
        return str(root)

    @staticmethod
    def find(folder: str, *overrides: str) -> ingest.JudgedFolder:
        keys = [f"evaluate.images={folder}", "source.image_size=32", *overrides]
        return ingest.find(configuration.load("quickstart", keys), THREE)

    def test_its_values_come_back_within_half_a_level(self, tmp_path: Path) -> None:
        values = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        judged = self.find(self.tensors(tmp_path / "mine", values), "evaluate.protocol.zca=true")
        assert judged.levels == (pytest.approx(float(values.min())), pytest.approx(float(values.max())))
        blobs = list(ingest.open_source(judged.source).read("train", judged.listing.ids.to_pylist()))
        kept = from_levels(torch.from_numpy(load_images(blobs, judged.source, 32)), *judged.levels) / 255
        torch.testing.assert_close(kept, values, rtol=0, atol=0.51 * (judged.levels[1] - judged.levels[0]) / 255)

    @pytest.mark.parametrize(
        ("value", "keys", "why"),
        [
            (0.5, (), "its images are whitened"),
            (math.nan, ("evaluate.protocol.zca=true",), "must be finite floats"),
        ],
    )
    def test_what_would_be_judged_wrong_is_refused(
        self, tmp_path: Path, value: float, keys: tuple[str, ...], why: str
    ) -> None:
        values = torch.zeros(3, 3, 32, 32)
        values[0, 0, 0, 0] = value
        with pytest.raises(BadInput, match=why):
            self.find(self.tensors(tmp_path / "mine", values), *keys)

    def test_a_file_that_says_neither_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match='"whitened": true'):
            self.find(self.tensors(tmp_path / "mine", torch.zeros(3, 3, 32, 32), '{"mean": [0, 0, 0]}'))

    def test_from_python_it_is_what_whitening_makes_of_the_images(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A folder of images, and the same that were whitened before they were published."""
        keys = ["source.classes=[3,7,8]", "evaluate.protocol.zca=true", "evaluate.protocol.image_size=16"]
        config = configuration.load("quickstart", keys)
        mine, seen = folders(tmp_path / "mine", ("3", "7", "8"), ipc=1), []
        monkeypatch.setattr(api, "train_student", lambda *args, **_: seen.append(args[2:4]) or (None, None))
        api.train(str(mine), config)
        values = seen[0][0].pixels / 255
        theirs = self.tensors(tmp_path / "theirs", values)
        (tmp_path / "theirs" / "order.txt").write_text("3\n7\n8\n")
        api.train(theirs, config.model_copy(update={"source": config.source.model_copy(update={"image_size": 16})}))
        level = 0.51 * float(values.max() - values.min()) / 255
        torch.testing.assert_close(seen[1][0].pixels / 255, values, rtol=0, atol=level)
        assert seen[1][1].pixels.dtype == torch.float32

    def test_a_run_trains_on_its_values(self, tmp_path: Path) -> None:
        folder = self.tensors(tmp_path / "mine", torch.randn(3, 3, 32, 32))
        (tmp_path / "mine" / "order.txt").write_text("3\n7\n8\n")
        keys = ["source.classes=[3,7,8]", f"evaluate.images={folder}", f"run_dir={tmp_path / 'run'}"]
        asked = configuration.load("quickstart", [*keys, "evaluate.protocol.zca=true", "evaluate.baselines=[random]"])
        prepared = prepare(asked)
        done = job.run(prepared, "sample", execute=serial)
        assert prepared.judged is not None and prepared.judged.levels is not None
        assert [(ref.name, ref.levels) for ref in job.sets(done)[:2]] == [
            ("mine", prepared.judged.levels),
            ("random", None),
        ]
