"""Checkpoints laid out as DiT-XL/2 and its VAE are published, small and random: loaded, and run to images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from analytic import noise, steps
from hub_server import cached, tree
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from samples import coloured_png

from raydistill import config as configuration
from raydistill.diffusion.loop import Batch, sample
from raydistill.diffusion.samplers.ddim import Ddim
from raydistill.diffusion.samplers.ddpm import Ddpm
from raydistill.diffusion.schedule import path
from raydistill.errors import BadInput
from raydistill.models import published as known
from raydistill.models.checkpoint import WEIGHTS
from raydistill.models.denoiser import Denoiser, GeneratorSpec
from raydistill.models.device import Placement, quiet_libraries
from raydistill.models.vae import Vae, VaeSpec
from raydistill.pipeline.preflight import prepare
from raydistill.seeding import NoiseKey
from raydistill.state import Prepared

quiet_libraries()
from diffusers import AutoencoderKL, AutoencoderTiny, DiTTransformer2DModel  # noqa: E402

CPU = Placement(torch.device("cpu"), torch.float32, "cpu/float32")
IDS = [f"n{i:08d}" for i in range(1000)]
TRAINING = {
    "prediction": "epsilon",
    "class_ids": IDS,
    "null_class_index": 1000,
    "learned_variance": True,
    "latent_scale": 1.0,
    "timestep_freq_shift": 0,
}
# What the published transformer/config.json of 2022 holds, but for its depth (28) and heads (16).
OLDER = {
    "_class_name": "Transformer2DModel",
    "_diffusers_version": "0.12.0.dev0",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 72,
    "cross_attention_dim": None,
    "dropout": 0.0,
    "in_channels": 4,
    "norm_elementwise_affine": False,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_zero",
    "num_attention_heads": 1,
    "num_embeds_ada_norm": 1000,
    "num_layers": 1,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 32,
    "upcast_attention": False,
    "use_linear_projection": False,
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.12.0.dev0",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "trained_betas": None,
}
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # of attention, before 2023


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def network() -> DiTTransformer2DModel:
    torch.manual_seed(0)
    return DiTTransformer2DModel(num_attention_heads=1, num_layers=1, out_channels=8).eval()


@pytest.fixture
def published(tmp_path: Path, network: DiTTransformer2DModel) -> Path:
    """A download of DiT-XL-2-256: model_index.json, transformer/, scheduler/, and no training.json."""
    root = tmp_path / "DiT-XL-2-256"
    network.save_pretrained(str(root / "transformer"))
    (root / "scheduler").mkdir()
    index = {
        "_class_name": "DiTPipeline",
        "id2label": {"0": "tench, Tinca tinca"},
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (root / "model_index.json").write_text(json.dumps(index))
    (root / "transformer" / "config.json").write_text(json.dumps(OLDER))
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    return root


@pytest.fixture
def vae(tmp_path: Path) -> Callable[[bool, float | None], Path]:
    """A small AutoencoderKL of four levels, with today's or the older names; its factor as given."""

    def make(older: bool, factor: float | None = 0.18215) -> Path:
        torch.manual_seed(0)
        root = tmp_path / "sd-vae"
        AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            scaling_factor=0.18215,
        ).save_pretrained(str(root))
        config = json.loads((root / "config.json").read_text())
        del config["scaling_factor"]
        config |= {"scaling_factor": factor} if factor else {}
        (root / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        if older:
            weights = load_file(root / WEIGHTS)
            for new, old in OLD_NAMES.items():
                weights = {
                    name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): t for name, t in weights.items()
                }
            assert any("proj_attn" in name for name in weights)
            save_file(weights, root / WEIGHTS, metadata={"format": "pt"})
        return root

    return make


def with_training(root: Path) -> Path:
    (root / "training.json").write_text(json.dumps(TRAINING))
    return root


class TestGenerator:
    def test_without_training_json_it_is_refused_and_told_where_to_read(self, published: Path) -> None:
        with pytest.raises(BadInput, match=r"training.json is missing; .*docs/bring-your-own.md"):
            GeneratorSpec(str(published))

    def test_with_it_everything_is_known(self, published: Path) -> None:
        spec = GeneratorSpec(str(with_training(published)))
        assert spec.latent_shape == (4, 32, 32) and spec.null_class == 1000 and spec.learned_variance
        spec.check_fits((4, 32, 32), ["n00000000", "n00000999"])

    def test_the_older_class_is_the_same_network(self, published: Path, network: DiTTransformer2DModel) -> None:
        loaded = Denoiser(GeneratorSpec(str(with_training(published))), CPU, 1.0, "all").net
        assert type(loaded) is DiTTransformer2DModel and loaded.config.num_embeds_ada_norm == 1000
        for block in loaded.transformer_blocks:
            block.norm1.emb.time_proj.downscale_freq_shift = 1
        x, t, y = noise(0, 2, (4, 32, 32)), torch.tensor([999, 20]), torch.tensor([7, 1000])
        with torch.inference_mode():
            mine, theirs = (net(x, timestep=t, class_labels=y).sample for net in (loaded, network))
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("norm", ["ada_norm_single", "layer_norm", None])
    def test_another_network_of_the_older_class_is_refused(self, published: Path, norm: str | None) -> None:
        (with_training(published) / "transformer" / "config.json").write_text(json.dumps(OLDER | {"norm_type": norm}))
        with pytest.raises(BadInput, match="is a 'Transformer2DModel'; supported: DiTTransformer2DModel"):
            GeneratorSpec(str(published))

    def test_three_of_four_channels_are_guided(self, published: Path) -> None:
        spec = GeneratorSpec(str(with_training(published)))
        x, step, labels = noise(0, 2, spec.latent_shape), steps(50)[10], torch.tensor([1, 999])
        plain, three, four = (Denoiser(spec, CPU, s, c) for s, c in ((1.0, "all"), (4.0, "first3"), (4.0, "all")))
        a, b, c = (d(x, step, labels).eps_hat for d in (plain, three, four))
        torch.testing.assert_close(b[:, :3], c[:, :3])
        torch.testing.assert_close(b[:, 3], a[:, 3], rtol=1e-4, atol=1e-5)
        assert (b[:, :3] - a[:, :3]).abs().max() > 1e-4 < (c[:, 3] - a[:, 3]).abs().max()

    @pytest.mark.parametrize("sampler", [Ddpm, Ddim])
    def test_two_steps_to_an_image(self, published: Path, vae, sampler: type) -> None:
        spec = GeneratorSpec(str(with_training(published)))
        denoiser, decoder = Denoiser(spec, CPU, 4.0, "first3"), Vae(VaeSpec(str(vae(older=True))), CPU)
        slots = Batch(torch.tensor([0, 999]), torch.zeros(2, 4, 32, 32), [NoiseKey(0, IDS[i], 0) for i in (0, 999)])
        z = sample(denoiser, path(spec.alphas_bar, "released", 2), sampler(), None, slots)
        assert z.shape == (2, 4, 32, 32) and torch.isfinite(z).all()
        pixels = decoder.decode(z / spec.latent_scale)
        assert pixels.shape == (2, 256, 256, 3) and pixels.dtype == torch.uint8


class TestVae:
    @pytest.mark.parametrize("older", [False, True], ids=["today's names", "older names"])
    def test_latents_are_the_mean_times_0_18215(self, vae, older: bool) -> None:
        root = vae(older)
        net = AutoencoderKL.from_pretrained(str(root)).eval()
        mine = Vae(VaeSpec(str(root)), CPU)
        assert mine.spec.latent_shape(256) == (4, 32, 32)
        pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.inference_mode():
            z = net.encode(x).latent_dist.mean * 0.18215
            back = ((net.decode(z / 0.18215).sample + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
        torch.testing.assert_close(mine.encode(torch.from_numpy(pixels)), z, rtol=1e-5, atol=1e-6)
        assert (mine.decode(z).float() - back).abs().max() <= 1, "of 255"

    def test_a_factor_that_is_not_given_is_not_assumed(self, vae) -> None:
        with pytest.raises(BadInput, match="does not give scaling_factor, and it is never guessed"):
            VaeSpec(str(vae(older=True, factor=None)))


class TestById:
    """The presets name both models by their ids on the hub; what the repositories leave out is known, for these ids."""

    @pytest.fixture
    def hub(self, published: Path, vae, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both repositories in a cache, as published, without a network."""
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.chdir(tmp_path)
        for name in known.VAES:
            cached(name, tree(vae(older=True, factor=None)))
        cached("facebook/DiT-XL-2-256", tree(published), revision="refs/pr/1")

    @pytest.fixture
    def start(self, hub: None, tmp_path: Path) -> Callable[..., Prepared]:
        """Preflight of a preset over two classes of ImageNette, with what is given instead of its own."""
        folders = [(s, c) for s in ("train", "val") for c in configuration.class_list("imagenette")[:2]]
        for i, (split, name) in enumerate(folders):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            (tmp_path / "images" / split / name / "a.png").write_bytes(coloured_png((90, 90, 90), seed=i))

        def call(preset: str, *overrides: str) -> Prepared:
            classes = "source.classes=[n01440764,n02102040]"
            places = [f"source.path={tmp_path / 'images'}", f"run_dir={tmp_path / 'run'}", "ipc=1", classes]
            return prepare(configuration.load(preset, [*places, *overrides]))

        return call

    @pytest.mark.parametrize("preset", ["imagenette", "imagewoof", "imagenet100", "imagenet1k"])
    def test_a_preset_needs_nothing_but_images(self, start, preset: str) -> None:
        p = start(preset)
        assert p.vae.scaling_factor == 0.18215 and p.shape == p.generator.latent_shape == (4, 32, 32)
        g = p.generator
        assert g.class_ids == configuration.class_list("imagenet1k") and g.null_class == 1000
        assert (g.latent_scale, g.learned_variance, g.timestep_freq_shift) == (1.0, True, 0)

    def test_it_runs_to_images(self, start) -> None:
        p = start("imagenette")
        denoiser, decoder = Denoiser(p.generator, CPU, 4.0, "first3"), Vae(p.vae, CPU)
        slots = Batch(torch.tensor([0]), torch.zeros(1, 4, 32, 32), [NoiseKey(0, "n01440764", 0)])
        z = sample(denoiser, path(p.generator.alphas_bar, "released", 2), Ddpm(), None, slots)
        assert decoder.decode(z).shape == (1, 256, 256, 3)

    def test_local_copies_completed_by_hand_are_the_same(self, start, published: Path, vae) -> None:
        """What docs/bring-your-own.md adds to them gives the fingerprints of the ids."""
        by_id = start("imagenette")
        (published / "training.json").write_text(known.training("facebook/DiT-XL-2-256"))
        plain = vae(older=True, factor=None)
        text = (plain / "config.json").read_text()
        line = next(row for row in text.splitlines(True) if '"sample_size"' in row)
        (plain / "config.json").write_text(text.replace(line, line + '  "scaling_factor": 0.18215,\n'))
        local = start("imagenette", f"vae.path={plain}", f"generator.path={published}")
        assert local.vae.identity() == by_id.vae.identity()
        assert local.generator.identity() == by_id.generator.identity()
        assert local.config.vae.path == str(plain) and by_id.config.vae.path == "stabilityai/sd-vae-ft-mse"

    def test_of_another_repository_nothing_is_assumed(self, start, published: Path, vae) -> None:
        cached("me/vae", tree(vae(older=False, factor=None)))
        cached("me/dit", tree(published) | {"training.json": json.dumps(TRAINING | {"null_class_index": 3}).encode()})
        with pytest.raises(BadInput, match="does not give scaling_factor, and it is never guessed"):
            start("imagenette", "vae.path=me/vae")
        with pytest.raises(BadInput, match="null_class_index=3"):
            start("imagenette", "generator.path=me/dit")

    def test_what_a_repository_says_counts(self, start, vae) -> None:
        cached(known.VAES[0], tree(vae(older=False, factor=0.18215)))
        assert start("imagenette").vae.texts == {}

    def test_a_vae_of_another_scale_is_refused(self, start, vae) -> None:
        """SDXL's VAE has latents of the same shape, and they mean nothing to DiT."""
        with pytest.raises(BadInput, match=r"latents scaled by 0\.18215, but the VAE \S+ scales by 0\.13025; give"):
            start("imagenette", f"vae.path={vae(older=False, factor=0.13025)}")

    def test_a_tiny_vae_has_scaled_them_already(self, published: Path, tmp_path: Path) -> None:
        AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4,
            decoder_block_out_channels=(8,) * 4,
            num_encoder_blocks=(1,) * 4,
            num_decoder_blocks=(1,) * 4,
        ).save_pretrained(str(tmp_path / "taesd"))
        tiny = VaeSpec(str(tmp_path / "taesd"))
        assert tiny.scaling_factor == 1.0
        GeneratorSpec(str(published), "facebook/DiT-XL-2-256").check_vae(tiny)

    def test_a_class_that_is_not_of_imagenet_is_named(self, start, tmp_path: Path) -> None:
        for split in ("train", "val"):
            (tmp_path / "images" / split / "n01440764").rename(tmp_path / "images" / split / "n99999999")
        with pytest.raises(BadInput, match="class 'n99999999' is not one of the generator's 1000 classes"):
            start("imagenette", "source.classes=[n99999999,n02102040]")
