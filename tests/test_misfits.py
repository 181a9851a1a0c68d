"""Weights that do not fit their network: known from the file's header, before anything is written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import write_student

from raydistill import cli
from raydistill.distributed import executors
from raydistill.errors import BadInput
from raydistill.models.checkpoint import WEIGHTS, packaged
from raydistill.models.classifier import ClassifierSpec
from raydistill.models.denoiser import GeneratorSpec
from raydistill.models.fits import PREFIXES
from raydistill.models.vae import VaeSpec
from raydistill.stages import runner

Refused = Callable[..., str]
Weights = dict[str, torch.Tensor]
SPECS = {"vae": VaeSpec, "generator": GeneratorSpec}
VERB = {"vae": "encode", "generator": "sample"}
FIRST = {"vae": "decoder.conv_in.bias", "generator": "pos_embed.proj.bias"}


def copy(tmp_path: Path, name: str, edit: Callable[[Weights], Weights] = lambda w: w) -> Path:
    """A packaged model with other weights."""
    folder = Path(shutil.copytree(packaged(name), tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"))
    file = next(folder.rglob(WEIGHTS))
    save_file(edit(load_file(file)), file)
    return folder


def renamed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda w: {prefix + n: t for n, t in w.items()}


def without(w: Weights, name: str) -> Weights:
    return {n: t for n, t in w.items() if n != name}


@pytest.mark.parametrize("name", SPECS)
class TestDiffusers:
    def test_what_ships_fits(self, tmp_path: Path, name: str) -> None:
        SPECS[name](str(copy(tmp_path, name))).check_network()
        SPECS[name](str(copy(tmp_path, name, lambda w: {n: t.half() for n, t in w.items()}))).check_network()

    @pytest.mark.parametrize(
        ("edit", "says"),
        [
            (lambda w, n: without(w, n), "it has no {n}; mend"),
            (lambda w, n: w | {"odd": torch.zeros(1)}, "it has odd too many; mend"),
            (lambda w, n: w | {n: torch.zeros(5)}, "{n} has shape [5] instead of ["),
            (lambda w, n: w | {n: w[n].double()}, "{n} is F64; write its weights as float32, float16 or bfloat16"),
            (lambda w, n: w | {n: w[n].to(torch.int32)}, "{n} is I32; write"),
            (lambda w, n: w | {n: w[n].to(torch.float8_e5m2)}, "{n} is F8_E5M2; write"),
            (lambda w, n: {}, "and "),
        ],
    )
    def test_what_does_not_fit_is_named(self, refused: Refused, tmp_path: Path, name: str, edit, says: str) -> None:
        folder = copy(tmp_path, name, lambda w: edit(w, FIRST[name]))
        line = refused(VERB[name], f"{name}.path={folder}")
        assert line.startswith(f"error: {name}.path: {folder}") and says.format(n=FIRST[name]) in line
        assert len(line) < 700, "the first few only"

    @pytest.mark.parametrize("prefix", [*PREFIXES, "model.module.", "_orig_mod.module."])
    def test_a_prefix_is_recognised(self, tmp_path: Path, name: str, prefix: str) -> None:
        with pytest.raises(BadInput, match=f"all names begin with '{prefix}'; save the inner model, or write the file"):
            SPECS[name](str(copy(tmp_path, name, renamed(prefix)))).check_network()

    def test_the_averaged_weights_beside_others_are_found(self, tmp_path: Path, name: str) -> None:
        def both(w: Weights) -> Weights:
            return renamed("ema.")(w) | {f"optimizer.{i}": torch.zeros(1) for i in range(3)}

        count = len(load_file(next(Path(packaged(name)).rglob(WEIGHTS))))
        with pytest.raises(BadInput, match=f"names of {count} of its {count + 3} tensors begin with 'ema.'") as caught:
            SPECS[name](str(copy(tmp_path, name, both))).check_network()
        assert "with these tensors only, named without it" in str(caught.value)
        SPECS[name](str(copy(tmp_path, name))).check_network()

    def test_a_config_that_describes_no_network_is_named(self, refused: Refused, tmp_path: Path, name: str) -> None:
        folder = copy(tmp_path, name)
        file = next(folder.rglob(WEIGHTS)).with_name("config.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | {"norm_num_groups": 7, "num_attention_heads": "x"}))
        assert "cannot be built as its config.json says" in refused(VERB[name], f"{name}.path={folder}")

    def test_a_torn_header_is_one_line(self, refused: Refused, tmp_path: Path, name: str) -> None:
        folder = copy(tmp_path, name)
        file = next(folder.rglob(WEIGHTS))
        for size in (12, 8, 7, 1):
            os.truncate(file, size)
            assert "is not a whole safetensors file" in refused(VERB[name], f"{name}.path={folder}")
        file.write_bytes(b"\xff" * 64)
        assert "is not a whole safetensors file" in refused(VERB[name], f"{name}.path={folder}")


class TestVerbs:
    def test_only_what_has_work_left_is_compared(self, tmp_path: Path, monkeypatch, capsys) -> None:
        monkeypatch.setattr(executors, "on_ray", lambda config, keep: runner.serial)
        overrides = ["source.classes=[0,1]", f"run_dir={tmp_path / 'run'}"]
        bad = copy(tmp_path, "generator", lambda w: without(w, FIRST["generator"]))
        assert cli.main(["encode", *overrides]) == 0
        assert cli.main(["cluster", *overrides, f"generator.path={bad}"]) == 0, "which reads no generator"
        before = sorted((tmp_path / "run").rglob("*"))
        assert cli.main(["sample", *overrides, f"generator.path={bad}"]) == 2
        assert "it has no pos_embed.proj.bias" in capsys.readouterr().err
        assert sorted((tmp_path / "run").rglob("*")) == before

    def test_a_checkpoint_to_fine_tune_is_compared(self, refused: Refused, tmp_path: Path) -> None:
        bad = copy(tmp_path, "generator", renamed("module."))
        out = f"pretrain.out={tmp_path / 'run' / 'out'}"
        line = refused("pretrain", out, f"pretrain.init={bad}")
        assert line.startswith(f"error: pretrain.init: {bad}") and "all names begin with 'module.'" in line
        vae = copy(tmp_path, "vae", lambda w: without(w, FIRST["vae"]))
        assert f"it has no {FIRST['vae']}" in refused("pretrain", out, f"vae.path={vae}")


def test_a_classifier_is_compared_in_the_same_way(tmp_path: Path) -> None:
    folder = Path(write_student(tmp_path / "s"))
    ClassifierSpec(str(folder), key="teacher")
    file = folder / "model.safetensors"
    save_file({f"module.{n}": t for n, t in load_file(file).items()}, file)
    with pytest.raises(BadInput, match=r"teacher.path: .* does not fit convnet: all names begin with 'module.'"):
        ClassifierSpec(str(folder), key="teacher")
