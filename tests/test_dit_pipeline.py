"""A generator as diffusers' own pipeline: it samples what is sampled here, and what would differ is refused."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import generators
import numpy as np
import pytest
import torch
from latents import tiny
from torch import Tensor

from raydistill.diffusion.flow import FlowStep
from raydistill.diffusion.samplers.ddim import Ddim
from raydistill.diffusion.samplers.euler import Euler
from raydistill.errors import BadInput
from raydistill.models import dit_pipeline
from raydistill.models.checkpoint import WEIGHTS, packaged
from raydistill.models.denoiser import Denoiser, GeneratorSpec
from raydistill.models.device import Placement
from raydistill.models.vae import Vae, VaeSpec
from raydistill.pretraining.plan import make_plan

CPU = Placement(torch.device("cpu"), torch.float32, "cpu")
STEPS, LABELS = 3, [3, 7, 7]
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def written(tmp_path: Path, kind: str = "epsilon", **training: Any) -> tuple[GeneratorSpec, Path]:
    """Of the packaged VAE, which shifts its latents, and of a network that wants them smaller."""
    told = {"latent_scale": 0.75, "class_names": NAMES} | training
    spec = GeneratorSpec(generators.write(tmp_path / "generator", kind, **told))
    dit_pipeline.write(spec, VaeSpec(None), tmp_path / "pipeline")
    return spec, tmp_path / "pipeline"


def theirs(folder: Path, guidance_scale: float, steps: int = STEPS) -> Tensor:
    """Images (B, 3, H, W), 0 to 1, by diffusers alone."""
    from diffusers import DiTPipeline

    pipe = DiTPipeline.from_pretrained(str(folder), low_cpu_mem_usage=False)
    pipe.set_progress_bar_config(disable=True)
    drawn = torch.Generator().manual_seed(0)
    return pipe(LABELS, guidance_scale, drawn, num_inference_steps=steps, output_type="pt").images


def ours(spec: GeneratorSpec, cfg_scale: float, steps: int = STEPS) -> Tensor:
    """The same of the same noise, by this package: DDIM on the grid `leading`, or Euler at that pipeline's times."""
    x = torch.randn((len(LABELS), *spec.latent_shape), generator=torch.Generator().manual_seed(0))
    denoise, labels = Denoiser(spec, CPU, cfg_scale, "all"), torch.tensor(LABELS)
    if spec.predicts.predicts == "flow":
        sigma = (1 - np.linspace(1, 1e-3, steps + 1))[::-1]
        for i, (s, after) in enumerate(itertools.pairwise(sigma.tolist())):
            told = 1 - int(1000 * s) / 1000  # diffusers tells whole steps
            x = Euler().step(lambda x, *_, t=told: denoise.velocity(x, t, labels), x, FlowStep(i, 1 - s, 1 - after, i))
    else:
        for step in spec.steps("leading", steps):
            x = Ddim().step(denoise(x, step, labels), None, None)
    return Vae(VaeSpec(None), CPU).decode_with_grad(x / spec.latent_scale).clamp(0, 1).detach()


@pytest.mark.parametrize("kind", ["epsilon", "v", "flow"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_diffusers_samples_the_same_images(kind: str, scale: float, tmp_path: Path) -> None:
    """Without and with classifier-free guidance, whose row of no class is the generator's own."""
    spec, folder = written(tmp_path, kind)
    images = theirs(folder, scale)
    assert images.std() > 0.05
    torch.testing.assert_close(images, ours(spec, scale), atol=5e-5, rtol=0)


def test_a_flow_towards_data_is_turned_round(tmp_path: Path) -> None:
    spec, folder = written(tmp_path, "flow", velocity="data - noise")
    torch.testing.assert_close(theirs(folder, 1.0), ours(spec, 1.0), atol=5e-5, rtol=0)


def test_the_packaged_generator_has_names_and_a_variance_that_nobody_asks(tmp_path: Path) -> None:
    from diffusers import DiTPipeline

    spec = GeneratorSpec(None)
    assert dit_pipeline.main([packaged("generator"), packaged("vae"), str(tmp_path / "out")]) == 0
    pipe = DiTPipeline.from_pretrained(str(tmp_path / "out"), low_cpu_mem_usage=False)
    assert pipe.get_label_ids(["seven", "7"]) == [7, 7]
    torch.testing.assert_close(theirs(tmp_path / "out", 4.0), ours(spec, 4.0), atol=2e-4, rtol=0)


def test_a_training_leaves_one_beside_the_generator_that_it_is_of(tmp_path: Path) -> None:
    plan = make_plan(tiny(f"pretrain.out={tmp_path / 'out'}"))
    state = {"losses": [1.0], "seconds": 1.0, "validation": [], "facts": {"latent_scale": 0.75}}
    plan.write(plan.blank(), state)
    before = GeneratorSpec(str(plan.out)).identity()
    assert plan.write_pipeline() is None and plan.finished()
    assert GeneratorSpec(str(plan.out)).identity() == before
    folder = plan.out / "pipeline"
    assert theirs(folder, 1.0).shape == (3, 3, 32, 32)
    stamp = (folder / "transformer" / WEIGHTS).stat().st_mtime_ns
    assert plan.write_pipeline() is None and (folder / "transformer" / WEIGHTS).stat().st_mtime_ns == stamp
    shutil.rmtree(folder)  # as an earlier version left it: the same command adds it
    assert plan.write_pipeline() is None and folder.is_dir()


@pytest.mark.parametrize(
    ("kind", "training", "says"),
    [
        ("epsilon", {"timestep_freq_shift": 0}, "times by the frequencies of DiT's release, and DiTPipeline tells"),
        ("flow", {"velocity": "data - noise", "timestep": "t"}, "was told t itself, and DiTPipeline tells"),
        ("epsilon", {"vae": "0" * 64}, "was trained on latents of another VAE"),
    ],
)
def test_what_it_would_sample_otherwise_is_refused(
    kind: str, training: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=says):
        written(tmp_path, kind, **training)
    assert not (tmp_path / "pipeline").exists()


def test_a_vae_that_cannot_take_up_its_shift_is_refused(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    net = AutoencoderKL.from_pretrained(packaged("vae"), low_cpu_mem_usage=False)
    config = {**net.config, "use_quant_conv": False, "use_post_quant_conv": False}
    AutoencoderKL.from_config(config).save_pretrained(str(tmp_path / "vae"))
    spec = GeneratorSpec(generators.write(tmp_path / "generator", "v"))
    with pytest.raises(BadInput, match=r"shifts latents by -0.067.*sample with raydistill"):
        dit_pipeline.write(spec, VaeSpec(str(tmp_path / "vae")), tmp_path / "pipeline")


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes").write_text("mine")
    assert dit_pipeline.main([packaged("generator"), packaged("vae"), str(tmp_path / "out")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_names_that_two_classes_share_name_none(tmp_path: Path) -> None:
    _, folder = written(tmp_path, class_names=["crane"] * 10)
    assert json.loads((folder / "model_index.json").read_text())["id2label"]["3"] == "3"
