"""The command line: bad input is one line and exit code 2, and leaves nothing behind; --print-config tells all.

Nothing here starts Ray: what is refused is refused before any work, and what is accepted is stopped where work begins.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from running import write_digits

from raydistill import cli
from raydistill import config as configuration
from raydistill.models.checkpoint import WEIGHTS, packaged
from raydistill.pipeline.preflight import prepare

Refused = Callable[..., str]


def model(tmp_path: Path, name: str) -> Path:
    """A copy of a packaged model that a test may damage."""
    return Path(shutil.copytree(packaged(name), tmp_path / name))


class TestConfiguration:
    @pytest.mark.parametrize(
        ("override", "says"),
        [
            ("guidance.scal=0.1", "did you mean 'guidance.scale'?"),
            ("ipcc=3", "did you mean 'ipc'?"),
            ("sampler.step=3", "did you mean 'sampler.steps'?"),
            ("ipc=many", "ipc: Input should be a valid integer"),
            ("ipc=1.5", "ipc: Input should be a valid integer"),
            ("evaluate.full=maybe", "evaluate.full: Input should be a valid boolean"),
            ("ipc=0", "ipc: Input should be greater than or equal to 1 (got '0')"),
            ("guidance.start=1.5", "guidance.start: Input should be less than or equal to 1"),
            ("guidance.scale=nan", "guidance.scale: Input should be a valid number"),
            ("guidance.scale=.nan", "guidance.scale: Input should be a finite number"),
            ("sampler.grid=cosine", "sampler.grid: Input should be 'released', 'linspace' or 'leading'"),
            ("sampler.name=ddmp", "unknown sampler 'ddmp'; did you mean 'ddpm'?"),
            ("method=mgd", "unknown method 'mgd'; did you mean 'mgd3'?"),
            ("source.kind=digit", "unknown source 'digit'; did you mean 'digits'?"),
            ("evaluate.students=[covnet]", "unknown student 'covnet'; did you mean 'convnet'?"),
            ("evaluate.students=[convnet,convnet]", "names a student twice"),
            ("evaluate.baselines=[rando]", "unknown method 'rando'; did you mean 'random'?"),
            ("ipc", "'ipc' is not key=value"),
            ("=3", "'=3' is not key=value"),
        ],
        ids=str,
    )
    def test_a_wrong_key_or_value_is_named_with_the_remedy(self, refused: Refused, override: str, says: str) -> None:
        assert says in refused("distill", override)

    @pytest.mark.parametrize(
        ("overrides", "says"),
        [
            (["guidance.start=0.2", "guidance.stop=0.6"], "guidance.start=0.2 must be above guidance.stop=0.6"),
            (["guidance.form=mean", "sampler.name=ddim"], "guidance.form=mean does not go with sampler.name=ddim"),
            (["guidance.start=0.51", "guidance.stop=0.5", "sampler.steps=4"], "holds none of the 4 steps"),
            (["sampler.steps=1000", "generator.path={generator}"], "more than the generator's 100 training steps"),
            (["evaluate.protocol.image_size=64"], "is more than source.image_size=32"),
            (["source.image_size=33"], "source.image_size=33 is not a multiple of"),
            (["source.image_size=64", "evaluate.protocol.image_size=32"], "but the generator takes"),
            (
                ["source.classes=[0,seven]", "source.search_split=0.5", "source.classes=[nine,elf]"],
                "'elf' is not a class",
            ),
            (["source.classes=[4]"], "give at least two"),
            (["generator.objective=v"], "generator.objective=v does not fit the checkpoint"),
            (["source.kind=digits", "source.path=/nowhere"], "digits are embedded and have no path"),
            (["source.path=/nowhere"], "/nowhere does not exist"),
        ],
        ids=str,
    )
    def test_contradictions_are_named(self, refused: Refused, tmp_path: Path, overrides: list[str], says: str) -> None:
        if "{generator}" in overrides[-1]:
            folder = model(tmp_path, "generator")
            change(folder / "scheduler" / "scheduler_config.json", num_train_timesteps=100)
            overrides = [overrides[0], f"generator.path={folder}"]
        assert says in refused("distill", *overrides)

    @pytest.mark.parametrize(
        ("argv", "says"),
        [
            (["destill"], "unknown verb 'destill'; did you mean 'distill'?"),
            (["xyzzy"], "unknown verb 'xyzzy' (known: distill, encode,"),
            (["--verison"], "did you mean '--version'?"),
            (["report", "--run", "here", "there"], "name one run, there or --run here"),
            (["report", "nowhere"], "no config.yaml there"),
            (["ipc=3"], "write raydistill distill ipc=3"),
            (["distill", "--confg", "x"], "unrecognized arguments: --confg"),
            (["distill", "--config"], "expected one argument"),
            (["distill", "--config", "quickstar"], "did you mean 'quickstart'?"),
            (["distill", "--config", "nowhere.yaml"], "neither a preset nor a file"),
            (["distill", "--run", "."], "no config.yaml there"),
            (["evaluate", "--run", "nowhere"], "no config.yaml there"),
            (["evaluate", "seed=x"], "seed: Input should be a valid integer"),
            (["pretrain"], "pretrain.out"),
        ],
        ids=str,
    )
    def test_unknown_verbs_and_options_are_named(self, refused: Refused, argv: list[str], says: str) -> None:
        assert says in refused(*argv)


class TestImages:
    @pytest.mark.parametrize("missing", ["", "train", "val", "val/3"])
    def test_a_missing_folder_is_named(self, refused: Refused, tmp_path: Path, missing: str) -> None:
        images = write_digits(tmp_path / "images")
        shutil.rmtree(images / missing)
        assert f"{missing.rpartition('/')[2] or images}" in refused(*folder(images))

    def test_an_empty_class_is_named(self, refused: Refused, tmp_path: Path) -> None:
        images = write_digits(tmp_path / "images")
        for file in (images / "train" / "3").iterdir():
            file.unlink()
        assert "class '3' has no image in the train split" in refused(*folder(images))

    def test_a_class_that_the_generator_does_not_know_is_named(self, refused: Refused, tiny_folder: Path) -> None:
        assert "class 'blue' is not one of the generator's 10 classes" in refused(*folder(tiny_folder))
        assert "class 'blue'" in refused(*folder(tiny_folder), "method=kmeans", "ipc=1", "evaluate.baselines=[dit]")

    @pytest.mark.parametrize("method", ["random", "kmeans"])
    def test_real_images_cannot_be_more_than_there_are(self, refused: Refused, tmp_path: Path, method: str) -> None:
        images = write_digits(tmp_path / "images", train=3)
        line = refused(*folder(images), f"method={method}", "ipc=4", "evaluate.baselines=[]")
        assert f"ipc=4 is more than the 3 images of class '0', and method {method} picks real ones" in line
        assert f"method {method}" in refused(*folder(images), "ipc=4", f"evaluate.baselines=[{method}]")

    def test_a_tree_has_no_more_leaves_than_images(self, refused: Refused, tmp_path: Path) -> None:
        """Known from the counts; k-means' prototypes are taken in turn, and need none."""
        words = (*folder(write_digits(tmp_path / "images", train=3)), "ipc=4", "evaluate.baselines=[]")
        line = refused(*words, "method=manifoldgd")
        assert (
            "ipc=4 is more than the 3 images of class '0', and the tree of method manifoldgd has no leaf with" in line
        )
        assert "or choose cluster.algorithm=kmeans" in line
        remedied = [
            *words,
            "method=manifoldgd",
            "cluster.algorithm=kmeans",
            "manifold.nearest=3",
            "manifold.neighbours=3",
        ]
        assert "num_gpus=9" in refused(*remedied, "manifold.tangent_dim=2", "encode.num_gpus=9")
        beside = refused(*words[:-1], "method=dit", "evaluate.baselines=[manifoldgd]")
        assert "lower ipc, or drop it from evaluate.baselines" in beside
        grown = (*words[:-2], "evaluate.baselines=[]", "method=lgd", "lgd.base=manifoldgd", "lgd.increment=2", "ipc=4")
        assert "ipc=4 is more than the 3 images" in refused(*grown), "an increment is offered the nodes of all"
        seeded = (*words[:-2], "ipc=8", "method=lgd", "lgd.increment=4", "evaluate.baselines=[]")
        assert refused(*seeded, "lgd.seed_method=manifoldgd").endswith("choose another lgd.seed_method (mgd3)")
        assert "num_gpus=9" in refused(*seeded, "lgd.seed_method=mgd3", "encode.num_gpus=9")

    @pytest.mark.parametrize("method", ["mgd3", "mgd3_ddim", "dit"])
    def test_generated_ones_can(self, tmp_path: Path, method: str) -> None:
        images = write_digits(tmp_path / "images", train=3)
        overrides = [*folder(images)[1:], f"method={method}", "ipc=50", "evaluate.baselines=[dit]"]
        prepared = prepare(configuration.load("quickstart", [*overrides, f"run_dir={tmp_path / 'run'}"]))
        assert prepared.config.ipc == 50 and not (tmp_path / "run").exists()


class TestRunDirectory:
    def test_a_folder_of_somebody_else_is_left_alone(self, refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs" / "thesis.tex").write_text("x")
        for key in ("run_dir", "artifact_dir"):
            line = refused("distill", f"run_dir={tmp_path / 'run'}", f"{key}={tmp_path / 'theirs'}")
            assert "holds 'thesis.tex' and is not a raydistill run directory" in line
        assert os.listdir(tmp_path / "theirs") == ["thesis.tex"]

    def test_a_file_is_not_a_folder(self, refused: Refused, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        assert "is a file" in refused("distill", f"run_dir={tmp_path / 'file'}")
        assert f"{tmp_path / 'file'} is a file, so" in refused("distill", f"run_dir={tmp_path / 'file' / 'a' / 'b'}")

    def test_an_unwritable_or_impossible_place_is_named(self, refused: Refused, tmp_path: Path) -> None:
        assert "/proc is not writable" in refused("distill", "run_dir=/proc/run")
        assert "xxx" in refused("distill", f"run_dir={tmp_path / ('x' * 300)}")
        assert "holds a null character" in refused("distill", f"run_dir={tmp_path}/a\0b")
        assert "no config.yaml there" in refused("evaluate", f"--run={'x' * 300}")

    @pytest.mark.parametrize("key", ["run_dir", "artifact_dir"])
    def test_a_submitted_job_needs_an_absolute_one(
        self, refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str
    ) -> None:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
        line = refused("distill", f"run_dir={tmp_path / 'run'}", f"{key}=runs/x")
        assert f"{key}=runs/x is relative, and a submitted job's working directory is thrown away" in line
        for line in (
            refused("pretrain", f"pretrain.out={tmp_path / 'model'}", "artifact_dir=shared"),
            refused("pretrain", "pretrain.out=models/vae", "pretrain.target=vae"),
        ):
            assert "is relative, and a submitted job's working directory is thrown away; give an absolute path" in line


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def drop(file: Path, field: str) -> None:
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != field}))


class TestCheckpoints:
    @pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt"])
    @pytest.mark.parametrize("name", ["vae", "generator"])
    def test_pickles_are_refused_without_opening_them(
        self, refused: Refused, tmp_path: Path, name: str, suffix: str
    ) -> None:
        folder = model(tmp_path, name)
        weights = next(folder.rglob(WEIGHTS))
        weights.unlink()
        weights.with_suffix(suffix).write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
        line = refused("distill", f"{name}.path={folder}")
        assert f"{name}.path: " in line and "is a pickle, which can run code" in line and "convert it" in line

    @pytest.mark.parametrize("name", ["vae", "generator"])
    def test_truncated_weights_are_named(self, refused: Refused, tmp_path: Path, name: str) -> None:
        folder = model(tmp_path, name)
        weights = next(folder.rglob(WEIGHTS))
        for size in (weights.stat().st_size - 1, 1000, 4, 0):
            os.truncate(weights, size)
            line = refused("distill", f"{name}.path={folder}")
            assert str(weights) in line and "is not a whole safetensors file" in line

    @pytest.mark.parametrize("name", ["vae", "generator"])
    def test_a_folder_that_is_not_there_is_named(self, refused: Refused, tmp_path: Path, name: str) -> None:
        assert f"{name}.path: {tmp_path / 'gone'} is not a folder" in refused(
            "distill", f"{name}.path={tmp_path / 'gone'}"
        )

    @pytest.mark.parametrize(
        "field", ["prediction", "latent_scale", "class_ids", "null_class_index", "learned_variance"]
    )
    def test_what_training_json_leaves_out_is_not_guessed(self, refused: Refused, tmp_path: Path, field: str) -> None:
        folder = model(tmp_path, "generator")
        drop(folder / "training.json", field)
        assert f"does not give {field}, and it is never guessed" in refused("distill", f"generator.path={folder}")

    @pytest.mark.parametrize(
        ("file", "fields", "says"),
        [
            ("training.json", {"latent_scale": 0}, "latent_scale"),
            ("training.json", {"latent_scale": "x"}, "latent_scale"),
            ("training.json", {"latent_scale": None}, "latent_scale"),
            ("training.json", {"class_ids": 3}, "class_ids"),
            ("training.json", {"class_ids": ["0", "1"]}, "do not go together"),
            ("training.json", {"class_ids": ["0"] * 10}, "class_ids"),
            ("training.json", {"null_class_index": "ten"}, "null_class_index"),
            ("training.json", {"prediction": "velocity"}, "'velocity'"),
            ("transformer/config.json", {"_class_name": "UNet2DModel"}, "'UNet2DModel'"),
            ("transformer/config.json", {"in_channels": 8}, "output channels"),
            ("transformer/config.json", {"in_channels": "x"}, "in_channels"),
            ("transformer/config.json", {"sample_size": None}, "sample_size"),
            ("scheduler/scheduler_config.json", {"num_train_timesteps": "x"}, "num_train_timesteps"),
            ("scheduler/scheduler_config.json", {"beta_schedule": "odd"}, "odd"),
            ("scheduler/scheduler_config.json", {"beta_end": None}, "beta_end=None"),
            ("scheduler/scheduler_config.json", {"beta_end": 2}, "between 0 and 1"),
            ("scheduler/scheduler_config.json", {"trained_betas": ["x"]}, "trained_betas"),
            ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ],
        ids=str,
    )
    def test_a_generator_that_contradicts_itself_is_named(
        self, refused: Refused, tmp_path: Path, file: str, fields: dict[str, object], says: str
    ) -> None:
        folder = model(tmp_path, "generator")
        change(folder / file, **fields)
        assert says in refused("distill", f"generator.path={folder}")

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"_class_name": "VQModel"}, "'VQModel'"),
            ({"scaling_factor": None}, "scaling_factor"),
            ({"latent_channels": "4"}, "latent_channels"),
            ({"shift_factor": "x"}, "shift_factor"),
            ({"block_out_channels": 3}, "block_out_channels"),
            ({"block_out_channels": []}, "block_out_channels"),
            ({"scaling_factor": 0}, "scaling_factor"),
        ],
        ids=str,
    )
    def test_a_vae_that_contradicts_itself_is_named(
        self, refused: Refused, tmp_path: Path, fields: dict[str, object], says: str
    ) -> None:
        folder = model(tmp_path, "vae")
        change(folder / "config.json", **fields)
        assert says in refused("distill", f"vae.path={folder}")

    @pytest.mark.parametrize("text", ["{", "[]", "", '"x"'])
    def test_a_damaged_json_is_named(self, refused: Refused, tmp_path: Path, text: str) -> None:
        for name, file in (
            ("vae", "config.json"),
            ("generator", "training.json"),
            ("generator", "transformer/config.json"),
            ("generator", "scheduler/scheduler_config.json"),
        ):
            folder = model(tmp_path / file.replace("/", "-"), name)
            (folder / file).write_text(text)
            assert str(folder / file) in refused("distill", f"{name}.path={folder}")


def folder(images: Path) -> list[str]:
    return ["distill", "source.kind=imagefolder", f"source.path={images}"]


class TestPrintConfig:
    def test_print_config_shows_what_would_run_and_writes_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = tmp_path / "run"
        assert cli.main(["distill", "ipc=7", "guidance.scale=1e-3", f"run_dir={run}", "--print-config"]) == 0
        out, err = capsys.readouterr()
        tree = yaml.safe_load(out)
        assert tree["ipc"] == 7 and tree["guidance"]["scale"] == 0.001 and tree["run_dir"] == str(run) and not err
        assert not run.exists()
        (tmp_path / "config.yaml").write_text(out)
        assert cli.main(["distill", "--config", str(tmp_path / "config.yaml"), "--print-config"]) == 0
        assert capsys.readouterr().out == out

    def test_a_run_directory_gives_its_configuration_to_other_verbs(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = configuration.load("quickstart", ["ipc=3", "seed=5", f"run_dir={tmp_path / 'moved'}"])
        (tmp_path / "config.yaml").write_text(config.yaml())
        asked = ["seeds=9", "students=[convnet]", "protocol.batch=10", "protocol.flip=false"]
        assert cli.main(["evaluate", "--run", str(tmp_path), *asked, "--print-config"]) == 0
        tree = yaml.safe_load(capsys.readouterr().out)
        assert (tree["ipc"], tree["seed"], tree["evaluate"]["seeds"]) == (3, 5, 9)
        assert (tree["evaluate"]["protocol"]["batch"], tree["evaluate"]["protocol"]["flip"]) == (10, False)
        assert tree["run_dir"] == str(tmp_path)


def test_a_caller_who_has_the_fault_handler_on_keeps_it_where_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a test standard error is a file of pytest's that goes with the process: what crashes later left no word."""
    monkeypatch.setattr(faulthandler, "is_enabled", lambda: True)
    monkeypatch.setattr(faulthandler, "enable", lambda *_, **__: pytest.fail("it is pointed elsewhere"))
    assert cli.main(["--version"]) == 0
