"""One command for a folder: what lies there is seen, sized, distilled; a generator is trained where one asks for it."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import config, parquet_set, tar_set, write_folder

from raydistill import cli
from raydistill.config import Config, load
from raydistill.errors import BadInput, StageFailed
from raydistill.pipeline import automatic, dry, folder, preflight, trained
from raydistill.pretraining import estimate
from raydistill.pretraining.origin import from_scratch
from raydistill.sources import splits
from raydistill.sources.base import ClassInfo, open_splits
from raydistill.store.rundir import RunDir

SMALL = [
    "pretrain.vae_channels=[8,8]",
    "pretrain.layers=1",
    "pretrain.heads=2",
    "pretrain.head_dim=8",
    "pretrain.batch=4",
]


@pytest.fixture(autouse=True)
def _without_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Steps are timed as if they took a second, except where the estimate itself is tested."""
    monkeypatch.setattr(trained.estimate, "seconds", lambda config, *_: float(config.pretrain.steps))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.chdir(tmp_path)


class TestWhereTheSplitsLie:
    def taken(self, path: Path, kind: str = "imagefolder") -> dict[str, str]:
        keys = splits.located(config(kind, path))
        opened = open_splits(config(kind, path, **keys))
        assert len(opened.train) and opened.test.counts.min() > 0
        return keys

    def test_of_image_folders(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "set", {"train": 5, "val": 2})
        assert self.taken(folder) == {}
        assert self.taken(folder / "train") == {"train": ".", "val": "split:0.2"}
        assert self.taken(shutil.copytree(folder / "train", tmp_path / "wrapped" / "pets").parent) == {
            "train": "pets",
            "val": "split:0.2",
        }
        shutil.copytree(folder, tmp_path / "deep" / "a" / "b")
        assert self.taken(tmp_path / "deep") == {"train": "a/b/train", "val": "a/b/val"}
        (folder / "val").rename(folder / "Test")
        assert self.taken(folder) == {"val": "Test"}
        (folder / "train").rename(folder / "Training")
        assert self.taken(folder) == {"train": "Training", "val": "Test"}
        shutil.rmtree(folder / "Test")
        (folder / "test").mkdir()
        shutil.copy(next((folder / "Training" / "red").iterdir()), folder / "test" / "unlabelled.png")
        assert self.taken(folder) == {"train": "Training", "val": "split:0.2"}, "test images without classes"

    def test_a_class_that_is_called_as_a_split_is_one(self, tmp_path: Path) -> None:
        folder = write_folder(tmp_path / "set", {"train": 5})
        classes = folder / "train"
        (classes / "red").rename(classes / "Train")
        assert self.taken(classes) == {"train": ".", "val": "split:0.2"}
        assert self.taken(folder) == {"val": "split:0.2"}, "beside no class, and of folders, it is the split"
        shutil.copytree(classes, tmp_path / "deep" / "a" / "b")
        assert self.taken(tmp_path / "deep") == {"train": "a/b", "val": "split:0.2"}

    def test_of_tables_and_archives(self, tmp_path: Path) -> None:
        for kind, make in (("parquet", parquet_set), ("webdataset", tar_set)):
            path = make(tmp_path / kind)
            assert self.taken(path, kind) == {}
            for file in path.glob("val*"):
                file.unlink()
            assert self.taken(path, kind) == {"val": "split:0.2"}


class TestSizes:
    def test_are_of_the_images_and_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write_folder(tmp_path / "pets", {"train": 40}) / "train"
        c = folder.sized([f"source.path={path}"])
        assert (c.source.kind, c.source.train, c.source.val) == ("imagefolder", ".", "split:0.2")
        assert (c.source.image_size, c.ipc, c.run_dir) == (32, 6, "runs/folder-train"), "of 32 training images a class"
        said = capsys.readouterr().err
        assert "3 classes of 32 images, taken as" in said
        assert "source.train=. source.val=split:0.2" in said and "ipc=6" in said
        assert "a generator of these classes would train for about 2.8 h on this machine" in said
        assert "mgd3" not in said

    def test_odd_names_on_the_way_are_read_and_can_be_typed(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_folder(tmp_path / "set" / "[z] it's", {"train": 5, "val": 2})
        c = folder.sized([f"source.path={tmp_path / 'set'}"])
        assert (c.source.train, c.source.val) == ("[z] it's/train", "[z] it's/val")
        typed = shlex.split(capsys.readouterr().err.partition("taken as ")[2].partition(";")[0])
        again = load("folder", [f"source.path={tmp_path / 'set'}", *typed]).source
        assert (again.train, again.val) == (c.source.train, c.source.val)

    def test_what_is_given_stays(self, tiny_folder: Path) -> None:
        keys = ["source.image_size=48", "ipc=2", "source.val=val", "run_dir=mine", "method=random"]
        c = folder.sized([f"source.path={tiny_folder}", *keys])
        assert (c.source.image_size, c.ipc, c.run_dir, c.method) == (48, 2, "mine", "random")
        assert c.evaluate.protocol.image_size <= 32

    def test_a_larger_image_is_taken_larger_and_smaller_to_train_on(self, tmp_path: Path) -> None:
        from raydistill.sources.images import png

        for name in "ab":
            (tmp_path / "set" / name).mkdir(parents=True)
            for i in range(5):
                pixels = np.random.default_rng(i).integers(0, 255, (200, 300, 3), dtype=np.uint8)
                (tmp_path / "set" / name / f"{i}.png").write_bytes(png(pixels))
        sides = [
            folder.sized([f"source.path={tmp_path / 'set'}", *more]).source.image_size
            for more in ([], ["generator.path=train"])
        ]
        assert sides == [128, 64]

    def test_the_command_line_takes_a_folder_alone(self, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["distill", f"source.path={tiny_folder}", "--dry-run"]) == 0
        out, err = capsys.readouterr()
        assert "sample kmeans" in out and "method        kmeans, which takes real images" in err
        assert not (tiny_folder.parent / "runs").exists()
        assert cli.main(["distill", "source.path=nowhere"]) == 2
        assert "does not exist" in capsys.readouterr().err

    def test_a_judged_folder_is_told_of_no_method_and_no_generator(
        self, tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trained, "trainings", lambda *_: pytest.fail("nothing is trained first"))
        judged = write_folder(tiny_folder.parent / "theirs", {"train": 2})
        assert cli.main(["evaluate", "--images", str(judged), f"source.path={tiny_folder}", "--dry-run"]) == 0
        out, err = capsys.readouterr()
        assert "import theirs" in out and "taken as source.kind=imagefolder" in err
        assert not any(word in err for word in ("generator", "method  ", "ipc=", "pretrain."))

    def test_nothing_else_has_changed(self, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """With a kind the quickstart is meant, as ever."""
        keys = ["source.kind=imagefolder", f"source.path={tiny_folder}"]
        assert cli.main(["distill", *keys, "--print-config"]) == 0
        assert capsys.readouterr().out == load("quickstart", keys).yaml()


class TestMethod:
    def of(self, *keys: str) -> str:
        return automatic.method_of(load("quickstart", ["method=auto", *keys]))

    def test_auto_is_a_generators_where_one_is_given(self) -> None:
        assert self.of() == "mgd3" and self.of("source.kind=parquet") == "kmeans"
        assert self.of("source.kind=parquet", "generator.path=DIR") == "mgd3"

    def test_a_method_that_asks_a_generator_says_at_once_that_there_is_none(self, tiny_folder: Path) -> None:
        with pytest.raises(BadInput) as caught:
            preflight.prepare(folder.sized([f"source.path={tiny_folder}", "method=mgd3"]))
        line = str(caught.value)
        assert line.startswith(
            "generator.path is not given, and the generator that ships makes handwritten digits alone"
        )
        assert "generator.path=train" in line and "method=kmeans" in line
        preflight.prepare(folder.sized([f"source.path={tiny_folder}", "method=kmeans", "ipc=1"]))


class TestTrainFirst:
    def asked(self, tiny_folder: Path, *more: str) -> Config:
        return folder.sized([f"source.path={tiny_folder}", "generator.path=train", *SMALL, *more])

    def test_what_is_trained_is_shown_before(self, tiny_folder: Path) -> None:
        text = dry.main(self.asked(tiny_folder, "pretrain.steps=7200"), "report", [])
        assert "pretrain  VAE, 7,200 steps in about 2.0 h\n  pretrain  generator, 7,200 steps in about 2.0 h" in text
        assert not (tiny_folder.parent / "runs").exists()

    def test_what_is_found_trained_is_not_trained_again(
        self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outs: list[str] = []

        def as_if_trained(plan_config: Config) -> str:
            outs.append(plan_config.pretrain.target)
            return str(plan_config.pretrain.out)

        monkeypatch.setattr(trained, "pretrain", as_if_trained)
        c = self.asked(tiny_folder)
        monkeypatch.setattr(trained, "trains_vae", lambda _: False)
        done = trained.first(c)
        assert outs == ["generator"] and "/runs/models/generator-" in str(done.generator.path)
        assert automatic.method_of(done) == "mgd3"
        assert trained.first(done) == done, "it is a folder now"
        other = trained.first(self.asked(tiny_folder, "run_dir=runs/other", "ipc=1"))
        assert other.generator.path == done.generator.path, "later runs share it"
        assert trained.first(self.asked(tiny_folder, "pretrain.steps=9")).generator.path != done.generator.path

    def test_a_new_artifact_dir_is_ours_before_models_lie_in_it(
        self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stopped(plan_config: Config) -> str:
            (Path(str(plan_config.pretrain.out)) / ".train").mkdir(parents=True, exist_ok=True)
            raise StageFailed("stopped")

        monkeypatch.setattr(trained, "pretrain", stopped)
        for _ in ("at first", "the same command again"):
            with pytest.raises(StageFailed, match="stopped"):
                trained.first(self.asked(tiny_folder, f"artifact_dir={tmp_path / 'new'}"))
        RunDir(str(tmp_path / "run"), str(tmp_path / "new")).check()

    def test_what_cannot_be_is_refused(self, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for more, says in {
            ("method=kmeans",): "takes real images and asks no generator",
            ("artifact_dir=s3://bucket/a",): "is no folder",
            ("pretrain.out=here",): "pretrain.out: distill does not read it",
            (*SMALL, "sampler.steps=2"): "holds none of the 2 steps",
            (*SMALL, "ipc=9"): "ipc=9 is more than the 4 images",
        }.items():
            assert cli.main(["distill", f"source.path={tiny_folder}", "generator.path=train", *more]) == 2
            assert says in capsys.readouterr().err
        assert cli.main(["distill", "pretrain.steps=3"]) == 2


@pytest.mark.parametrize("target", ["VAE", "generator"])
def test_an_estimate_takes_the_trainings_own_steps_and_leaves_no_trace(target: str) -> None:
    c, classes = load("folder", [*SMALL, "source.image_size=16"]), [ClassInfo("a", "a"), ClassInfo("b", "b")]
    seconds = {}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    for steps in (10, 10_000_000):
        sized = c.model_copy(update={"pretrain": c.pretrain.model_copy(update={"steps": steps})})
        more = () if target == "VAE" else (from_scratch("epsilon", classes), (4, 8, 8))
        seconds[steps] = REAL_SECONDS(sized, len(classes), *more)
    assert 0 < seconds[10] < seconds[10_000_000]
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


REAL_SECONDS = estimate.seconds
