"""Models by hub id: fetched once with only what is needed, found again without a network, refused in one line."""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import Hub, cached, tree
from huggingface_hub import constants, snapshot_download
from safetensors.numpy import save

from raydistill import config as configuration
from raydistill.errors import BadInput
from raydistill.models import denoiser, hub
from raydistill.models.checkpoint import WEIGHTS, packaged
from raydistill.models.denoiser import GeneratorSpec
from raydistill.models.text_generator import is_pipeline
from raydistill.models.vae import VaeSpec
from raydistill.pipeline.preflight import prepare
from raydistill.pretraining.plan import make_plan

VAE, GENERATOR = tree(Path(packaged("vae"))), tree(Path(packaged("generator")))


def refusal(section: Any, path: str | None, revision: str | None = None) -> str:
    with pytest.raises(BadInput) as caught:
        hub.find(section, path, revision)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(files: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return {n: d for n, d in files.items() if n not in names}


class TestIds:
    @pytest.mark.parametrize("path", ["stabilityai/sd-vae-ft-mse", "facebook/DiT-XL-2-256", "a/b", "me_1/v1.0"])
    def test_are_two_names_and_a_slash(self, path: str) -> None:
        assert hub.is_id(path)

    @pytest.mark.parametrize(
        "path",
        [
            *(
                None,
                "",
                "vae",
                "/models/vae",
                "./vae",
                "../vae",
                "~/vae",
                "models/vae/",
                "a/b/c",
                "a//b",
                "s3://bucket",
            ),
            *("a b/c", "a/b--c", "a/b..c", "a/b.git", "a/.b", "-a/b", "é/b", "a" * 90 + "/bcdefgh"),
        ],
    )
    def test_others_are_not(self, path: str | None) -> None:
        assert not hub.is_id(path)

    def test_a_folder_of_that_name_is_meant_by_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        shutil.copytree(packaged("vae"), "models/vae")
        assert not hub.is_id("models/vae")
        assert hub.find("vae", "models/vae", None) == hub.Found("models/vae")

    @pytest.mark.parametrize(("path", "says"), [(None, "is not set"), ("/models/vae", "is the local /models/vae")])
    def test_a_revision_goes_with_nothing_else(self, path: str | None, says: str) -> None:
        said = refusal("vae", path, "main")
        assert "vae.revision=main goes with an id on the hub" in said and says in said


class TestFetching:
    def test_only_what_is_needed_is_fetched_and_only_once(self, served: Hub) -> None:
        extra = {"diffusion_pytorch_model.bin": b"pickle", "README.md": b"", "unet/config.json": b"{}"}
        commit = served.push("me/vae", VAE | extra)
        model = hub.find("vae", "me/vae", None)
        assert served.fetched() == {"config.json", WEIGHTS}
        assert (model.name, model.commit) == ("me/vae", commit) and commit in str(model)
        served.asked.clear()
        assert hub.find("vae", "me/vae", None) == model and not served.asked

    def test_a_generator_is_its_network_scheduler_and_training(self, served: Hub) -> None:
        served.push("me/dit", GENERATOR | {"vae/" + WEIGHTS: b"", "transformer/diffusion_pytorch_model.bin": b""})
        model = hub.find("generator", "me/dit", None)
        assert served.fetched() == set(denoiser.FILES)
        assert GeneratorSpec(model.folder, model.name).identity() == GeneratorSpec(None).identity()

    def test_a_pipeline_of_text_is_a_generator_and_its_vae_is_a_vae(self, served: Hub) -> None:
        """By the layout of Stable Diffusion 1.5: each section fetches what it reads, and no half precision."""
        weights = {f"unet/{WEIGHTS}", "text_encoder/model.safetensors", f"vae/{WEIGHTS}"}
        text = {"model_index.json", "unet/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"}
        text |= {f"tokenizer/{n}" for n in ("tokenizer_config.json", "vocab.json", "merges.txt")}
        extra = {"unet/diffusion_pytorch_model.fp16.safetensors", "safety_checker/model.safetensors", "v1-5.ckpt"}
        files = {n: save({n: np.zeros(1)}) for n in weights} | {n: json.dumps({"of": n}).encode() for n in text | extra}
        served.push("me/sd", files | {f"vae/{n}": VAE[n] for n in ("config.json", WEIGHTS)})
        model = hub.find("generator", "me/sd", None)
        assert served.fetched() == text | weights - {f"vae/{WEIGHTS}"} | {"vae/config.json"}
        assert is_pipeline(model.folder)
        model = hub.find("vae", "me/sd", None)
        assert f"vae/{WEIGHTS}" in served.fetched()
        assert VaeSpec(model.folder, model.name).identity() == VaeSpec(None).identity()
        served.asked.clear()
        assert hub.find("generator", "me/sd", None).commit == model.commit and not served.asked

    def test_a_revision_is_kept_to(self, served: Hub) -> None:
        old = served.push("me/vae", VAE)
        new = served.push("me/vae", VAE | {"config.json": VAE["config.json"] + b"\n"})
        served.push("me/vae", VAE, branch="refs/pr/1")
        assert [hub.find("vae", "me/vae", r).commit for r in (None, "main", new, old, "refs/pr/1")] == [
            *(new, new, new, old, old)
        ]

    def test_an_unfinished_copy_is_completed(self, served: Hub) -> None:
        commit = served.push("me/vae", VAE)
        folder = cached("me/vae", without(VAE, WEIGHTS), commit=commit)
        assert hub.find("vae", "me/vae", None).folder == str(folder)
        assert (folder / WEIGHTS).read_bytes() == VAE[WEIGHTS]

    def test_identity_is_that_of_a_local_folder(self, served: Hub) -> None:
        served.push("me/vae", VAE)
        model = hub.find("vae", "me/vae", None)
        assert VaeSpec(model.folder, model.name).identity() == VaeSpec(packaged("vae")).identity()


FP16 = WEIGHTS.replace(".safetensors", ".fp16.safetensors")


class TestVariants:
    """Repositories that hold their weights in half precision alone."""

    def halves(self) -> dict[str, bytes]:
        return without(GENERATOR, f"transformer/{WEIGHTS}") | {
            f"transformer/{FP16}": GENERATOR[f"transformer/{WEIGHTS}"]
        }

    def test_are_fetched_and_found_again(self, served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        served.push("me/vae", without(VAE, WEIGHTS) | {FP16: VAE[WEIGHTS], "other.fp16.safetensors": b""})
        served.push("me/dit", self.halves())
        vae, dit = hub.find("vae", "me/vae", None), hub.find("generator", "me/dit", None)
        assert served.fetched() == {"config.json", FP16, f"transformer/{FP16}"} | set(denoiser.FILES) - {
            f"transformer/{WEIGHTS}"
        }
        VaeSpec(vae.folder, vae.name).check_network()
        GeneratorSpec(dit.folder, dit.name).check_network()
        served.asked.clear()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert hub.find("vae", "me/vae", None) == vae and hub.find("generator", "me/dit", None) == dit
        assert not served.asked

    def test_the_plain_file_goes_first(self, served: Hub) -> None:
        served.push("me/vae", VAE | {FP16: VAE[WEIGHTS]})
        hub.find("vae", "me/vae", None)
        assert served.fetched() == {"config.json", WEIGHTS}

    def test_of_several_none_is_guessed(self, served: Hub) -> None:
        several = {FP16: VAE[WEIGHTS], FP16.replace("fp16", "bf16"): VAE[WEIGHTS]}
        served.push("me/vae", without(VAE, WEIGHTS) | several)
        said = refusal("vae", "me/vae")
        assert "lie there and no diffusion_pytorch_model.safetensors" in said and "vae.path=DIR, or a vae.rev" in said

    def test_without_a_network_the_named_command_brings_them(
        self, served: Hub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commit = served.push("me/vae", without(VAE, WEIGHTS) | {FP16: VAE[WEIGHTS]})
        cached("me/vae", {"config.json": VAE["config.json"]}, commit=commit)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        words = shlex.split(refusal("vae", "me/vae").split("`")[1])
        patterns = [word for before, word in itertools.pairwise(words) if before == "--include"]
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        snapshot_download("me/vae", allow_patterns=patterns)  # what this command does
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert hub.find("vae", "me/vae", None).commit == commit


class TestCached:
    @pytest.mark.parametrize("how", ["offline", "unreachable"])
    def test_a_whole_copy_needs_no_network(self, how: str, request: pytest.FixtureRequest) -> None:
        request.getfixturevalue(how)
        main = cached("me/vae", VAE, commit="a" * 40)
        other = cached("me/vae", VAE, revision="v2", commit="b" * 40)
        assert hub.find("vae", "me/vae", None) == hub.Found(str(main), "me/vae", "a" * 40)
        assert hub.find("vae", "me/vae", "v2") == hub.find("vae", "me/vae", "b" * 40)
        assert hub.find("vae", "me/vae", "v2").folder == str(other)

    def test_a_whole_copy_is_not_asked_about(self, served: Hub) -> None:
        cached("me/vae", VAE)
        hub.find("vae", "me/vae", None)
        assert not served.asked

    def test_a_torn_file_is_told_with_the_command_that_mends_it(self, offline: Hub) -> None:
        cached("me/vae", VAE | {WEIGHTS: VAE[WEIGHTS][:1000]})
        said = refusal("vae", "me/vae")
        assert "is not a whole safetensors file" in said
        assert said.endswith(f"hf download me/vae --include config.json --include {WEIGHTS} --force-download")


class TestRefusals:
    @pytest.mark.parametrize("how", ["offline", "unreachable"])
    def test_without_a_network_both_readings_are_told(self, how: str, request: pytest.FixtureRequest) -> None:
        """models/vae may be an id, and may be a folder that is misspelt or lies elsewhere."""
        request.getfixturevalue(how)
        said = refusal("vae", "models/vae", "v2")
        assert f"is no folder here ({Path.cwd() / 'models' / 'vae'})" in said
        assert f"not in the cache {constants.HF_HUB_CACHE}" in said
        assert ("HF_HUB_OFFLINE is set" if how == "offline" else f"{constants.ENDPOINT} cannot be reached (") in said
        both = f"config.json --include {WEIGHTS} --include vae/config.json --include vae/{WEIGHTS}"
        assert f"`hf download models/vae --revision v2 --include {both}`" in said
        assert "any local folder with vae.path=DIR" in said

    @pytest.mark.parametrize("how", ["offline", "unreachable"])
    def test_half_a_copy_without_a_network(self, how: str, request: pytest.FixtureRequest) -> None:
        request.getfixturevalue(how)
        cached("me/vae", without(VAE, WEIGHTS))
        assert f"it is without {WEIGHTS} in the cache" in refusal("vae", "me/vae")

    def test_half_a_copy_of_our_own_without_a_network(self, served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        served.push("me/vae", VAE)
        model = hub.find("vae", "me/vae", None)
        (Path(str(model.folder)) / WEIGHTS).unlink()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "it is only in part in the cache" in refusal("vae", "me/vae")

    def test_no_such_repository(self, served: Hub) -> None:
        said = refusal("vae", "models/vae")
        assert "vae.path=models/vae is neither a folder here (/" in said and f"{constants.ENDPOINT} shows you" in said
        assert "log in with `hf auth login`" in said

    def test_no_such_revision(self, served: Hub) -> None:
        served.push("me/vae", VAE)
        assert "vae.revision: me/vae has no branch, tag or commit v9; see " in refusal("vae", "me/vae", "v9")

    def test_terms_to_accept(self, served: Hub) -> None:
        served.push("me/vae", VAE)
        served.gated.add("me/vae")
        said = refusal("vae", "me/vae")
        assert f"accept them at {constants.ENDPOINT}/me/vae and log in with `hf auth login`" in said

    @pytest.mark.parametrize(
        ("odd", "says"),
        [
            ("diffusion_pytorch_model.bin", "transformer/diffusion_pytorch_model.bin is a pickle, which can run code"),
            (f"{WEIGHTS}.index.json", "the weights are in several files"),
        ],
    )
    def test_weights_of_another_kind(self, served: Hub, odd: str, says: str) -> None:
        served.push("me/dit", without(GENERATOR, f"transformer/{WEIGHTS}") | {f"transformer/{odd}": b"x"})
        said = refusal("generator", "me/dit")
        assert says in said and "generator.path=DIR, or a generator.revision that holds one" in said
        assert f"transformer/{odd}" not in served.fetched()

    def test_a_repository_of_something_else(self, served: Hub) -> None:
        served.push("me/bert", {"config.json": b"{}", "model.safetensors": b""})
        assert f"me/bert holds no {WEIGHTS}, so it is no model of the layout" in refusal("vae", "me/bert")

    def test_a_cache_that_cannot_be_written(self, served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        served.push("me/vae", VAE)
        (tmp_path / "file").write_text("")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
        said = refusal("vae", "me/vae")
        assert f"cannot be fetched into {tmp_path / 'file' / 'cache'} (NotADirectoryError" in said and "HF_HOME" in said

    def test_a_generator_without_training_json(self, served: Hub) -> None:
        served.push("me/dit", without(GENERATOR, "training.json"))
        model = hub.find("generator", "me/dit", None)
        with pytest.raises(BadInput, match=r"training.json is missing; .*: copy me/dit to a folder and add it there"):
            GeneratorSpec(model.folder, model.name)

    def test_a_pipeline_whose_vae_is_known_by_its_id(self, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(packaged("vae"), tmp_path / "sd" / "vae")).parent
        config = json.loads((folder / "vae" / "config.json").read_text())
        del config["scaling_factor"]
        (folder / "vae" / "config.json").write_text(json.dumps(config))
        with pytest.raises(BadInput, match="does not give scaling_factor"):
            VaeSpec(str(folder))
        assert VaeSpec(str(folder), "stable-diffusion-v1-5/stable-diffusion-v1-5").scaling_factor == 0.18215

    def test_a_part_of_a_pipeline_of_another_kind(self, served: Hub) -> None:
        names = ["unet/config.json", "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json"]
        files = {f"unet/{WEIGHTS}": VAE[WEIGHTS], "text_encoder/pytorch_model.bin": b"x"}
        served.push("me/sd", files | dict.fromkeys(names, b"{}"))
        assert "in me/sd, text_encoder/pytorch_model.bin is a pickle" in refusal("generator", "me/sd")


class TestPrepare:
    def test_a_run_by_id_is_that_of_the_folders(
        self, served: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The same fingerprints, found by workers in a folder; the configuration keeps the ids."""
        served.push("me/vae", VAE)
        pinned = served.push("me/dit", GENERATOR)
        served.push("me/dit", without(GENERATOR, f"transformer/{WEIGHTS}"))
        ids = ["vae.path=me/vae", "generator.path=me/dit", f"generator.revision={pinned}"]
        by_id, local = (
            prepare(configuration.load("quickstart", [*more, f"run_dir={tmp_path / 'run'}"])) for more in (ids, [])
        )
        assert by_id.generator is not None and local.generator is not None
        assert by_id.vae.identity() == local.vae.identity()
        assert by_id.generator.identity() == local.generator.identity()
        assert by_id.vae.path.is_absolute() and by_id.generator.path.is_dir()
        assert (by_id.config.vae.path, by_id.config.generator.path) == ("me/vae", "me/dit")
        assert f"generator     me/dit at commit {pinned}, in /" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    def test_a_verb_that_stops_before_fetches_no_generator(self, served: Hub, tmp_path: Path) -> None:
        served.push("me/vae", VAE)
        chosen = ["vae.path=me/vae", "generator.path=me/dit", f"run_dir={tmp_path / 'run'}"]
        prepare(configuration.load("quickstart", chosen), generate=False)
        assert not any("me/dit" in line for line in served.asked)

    def test_a_generator_is_trained_on_the_latents_of_a_vae_by_id(self, served: Hub, tmp_path: Path) -> None:
        served.push("me/vae", VAE)
        plan = make_plan(configuration.load("quickstart", ["vae.path=me/vae", f"pretrain.out={tmp_path / 'out'}"]))
        assert plan.vae is not None and plan.vae.name == "me/vae" and plan.vae.path.is_dir()
        assert plan.vae_digest == VaeSpec(None).identity()["weights"]

    def test_the_vae_that_a_generator_was_trained_with(self, served: Hub, tmp_path: Path) -> None:
        """Ours says so in training.json; another of the same shape is refused."""
        served.push("me/vae", VAE)
        other = tmp_path / "other"
        shutil.copytree(packaged("vae"), other)
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps(config | {"scaling_factor": 2.0}))
        run = f"run_dir={tmp_path / 'run'}"
        prepare(configuration.load("quickstart", ["vae.path=me/vae", run]))
        with pytest.raises(BadInput, match=r"was trained on latents of another VAE \(digest a02479325f9cf14f\) than"):
            prepare(configuration.load("quickstart", [f"vae.path={other}", run]))
