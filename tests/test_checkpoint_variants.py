"""Checkpoints as people have them: half-precision variants, a part of a pipeline given for the whole, a LoRA."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from latents import tiny
from safetensors.torch import load_file, save_file

from raydistill.errors import BadInput
from raydistill.models.checkpoint import LORA, WEIGHTS, packaged, variant, weights_name
from raydistill.models.denoiser import GeneratorSpec
from raydistill.models.device import Placement
from raydistill.models.vae import Vae, VaeSpec
from raydistill.pretraining import size
from raydistill.pretraining.plan import make_plan

CPU = Placement(torch.device("cpu"), torch.float32, "cpu/float32")
FP16 = WEIGHTS.replace(".safetensors", ".fp16.safetensors")


def in_halves(file: Path, name: str) -> None:
    """The weights in half precision under the name of a variant, and no longer under their own."""
    save_file({k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}, file.with_name(name))
    file.unlink()


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    shutil.copytree(packaged("vae"), tmp_path / "vae")
    return tmp_path / "vae"


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    shutil.copytree(packaged("generator"), tmp_path / "generator")
    return tmp_path / "generator"


def test_a_vae_in_halves_is_read_as_what_it_is(vae: Path) -> None:
    whole = VaeSpec(str(vae))
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = Vae(whole, CPU).encode(pixels)
    digest = whole.identity()
    in_halves(vae / WEIGHTS, FP16)
    spec = VaeSpec(str(vae))
    spec.check_network()
    assert weights_name(vae) == FP16 and variant(vae) == "fp16" and spec.identity() != digest
    latents = Vae(spec, CPU).encode(pixels)
    assert latents.dtype == torch.float32 and torch.allclose(latents, before, atol=0.05)


def test_a_generator_in_halves_is_read_as_what_it_is(generator: Path) -> None:
    digest = GeneratorSpec(str(generator)).identity()
    file = generator / "transformer" / WEIGHTS
    rounded = {k: v.half().float() for k, v in load_file(file).items() if v.is_floating_point()}
    in_halves(file, FP16)
    spec = GeneratorSpec(str(generator))
    spec.check_network()
    state = spec.network().state_dict()
    assert spec.identity() != digest and all(torch.equal(state[k], v) for k, v in rounded.items() if k in state)
    plan = make_plan(tiny(f"pretrain.init={generator}", f"pretrain.out={generator.parent / 'out'}"))
    assert plan.origin is not None and plan.origin.dtype == torch.float16, "and so is what is trained from it"
    whole = make_plan(tiny(f"pretrain.init={packaged('generator')}", f"pretrain.out={generator.parent / 'out'}"))
    assert size.of(plan) == size.of(whole), "and it is measured before"


def test_the_plain_file_goes_before_its_variants(vae: Path) -> None:
    shutil.copy(vae / WEIGHTS, vae / FP16)
    assert weights_name(vae) == WEIGHTS and variant(vae) is None
    assert VaeSpec(str(vae)).identity() == VaeSpec(packaged("vae")).identity()


def test_of_several_variants_none_is_guessed_and_the_remedy_works(vae: Path) -> None:
    other = WEIGHTS.replace(".safetensors", ".non_ema.safetensors")
    shutil.copy(vae / WEIGHTS, vae / other)
    in_halves(vae / WEIGHTS, FP16)
    with pytest.raises(BadInput, match="take away all but the one that is meant") as refusal:
        VaeSpec(str(vae))
    assert FP16 in str(refusal.value) and other in str(refusal.value)
    (vae / FP16).unlink()
    assert VaeSpec(str(vae)).path == vae and variant(vae) == "non_ema"


def test_the_networks_folder_stands_for_its_pipeline(generator: Path) -> None:
    spec = GeneratorSpec(str(generator / "transformer"))
    assert spec.path == generator and spec.identity() == GeneratorSpec(str(generator)).identity()


def test_the_times_of_training_are_not_guessed_and_the_remedy_works(generator: Path) -> None:
    shutil.rmtree(generator / "scheduler")
    with pytest.raises(BadInput, match="copy the scheduler/ of the pipeline that it comes from"):
        GeneratorSpec(str(generator))
    shutil.copytree(Path(packaged("generator")) / "scheduler", generator / "scheduler")
    GeneratorSpec(str(generator))


@pytest.mark.parametrize(("spec", "key"), [(VaeSpec, "vae.path"), (GeneratorSpec, "generator.path")])
def test_a_lora_is_no_model(tmp_path: Path, spec: type, key: str) -> None:
    save_file({"unet.down.lora_A.weight": torch.zeros(2, 2)}, tmp_path / LORA)
    with pytest.raises(BadInput, match=f"{key}: .*holds changes to a model and no model; merge it into the one"):
        spec(str(tmp_path))
