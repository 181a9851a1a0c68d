"""Checkpoints: what they do not say is refused, never guessed; what they hold does what it says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from analytic import noise, steps

from raydistill.config import SourceConfig
from raydistill.diffusion.prediction import x0_from_eps
from raydistill.errors import BadInput, StageFailed
from raydistill.models.checkpoint import WEIGHTS, packaged
from raydistill.models.denoiser import Denoiser, GeneratorSpec
from raydistill.models.device import Placement
from raydistill.models.vae import Vae, VaeSpec
from raydistill.sources.base import open_splits
from raydistill.sources.images import decode

CPU = Placement(torch.device("cpu"), torch.float32, "cpu/float32")
MODELS = [("vae", VaeSpec, ""), ("generator", GeneratorSpec, "transformer")]
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def copy(name: str, to: Path, file: str = "", edit: Edit | None = None) -> str:
    """A copy of a packaged model with one of its JSON files edited."""
    shutil.copytree(packaged(name), to)
    if edit is not None:
        tree = json.loads((to / file).read_text())
        edit(tree)
        (to / file).write_text(json.dumps(tree))
    return str(to)


def refusal(make: Callable[[str], object], path: Path | str) -> str:
    """The one line with which a directory is refused."""
    with pytest.raises(BadInput) as caught:
        make(str(path))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def without(key: str) -> Edit:
    return lambda tree: tree.pop(key)


def put(**values: Any) -> Edit:
    return lambda tree: tree.update(values)


class TestRefusals:
    @pytest.mark.parametrize("key", ["scaling_factor", "latent_channels"])
    def test_a_vae_must_give(self, tmp_path: Path, key: str) -> None:
        said = refusal(VaeSpec, copy("vae", tmp_path / "m", "config.json", without(key)))
        assert f"does not give {key}, and it is never guessed" in said

    @pytest.mark.parametrize("key", ["prediction", "latent_scale", "class_ids", "null_class_index", "learned_variance"])
    def test_a_generator_must_give(self, tmp_path: Path, key: str) -> None:
        said = refusal(GeneratorSpec, copy("generator", tmp_path / "m", "training.json", without(key)))
        assert f"does not give {key}, and it is never guessed" in said

    @pytest.mark.parametrize(
        ("file", "edit", "why"),
        [
            ("training.json", put(learned_variance=False), "8 output channels, which does not go with"),
            ("training.json", put(null_class_index=9), "10 class_ids, null_class_index=9 and 10 embeddings"),
            ("training.json", put(class_ids=["0", "1"]), "2 class_ids"),
            ("training.json", put(latent_scale=0), "latent_scale=0"),
            ("training.json", put(latent_scale=float("nan")), "latent_scale=nan"),
            ("training.json", put(prediction="v"), "predicts 'v' by training.json, but its scheduler says"),
            ("training.json", put(prediction="sample"), "predicts 'sample'; training.json must give"),
            ("training.json", put(prediction="flow"), "a flow goes with FlowMatchEulerDiscreteScheduler"),
            ("scheduler/scheduler_config.json", put(prediction_type="v_prediction"), "prediction_type='v_prediction'"),
            ("scheduler/scheduler_config.json", put(_class_name="FlowMatchHeunDiscreteScheduler"), "nothing else does"),
            ("scheduler/scheduler_config.json", put(beta_schedule="sigmoid"), None),
            ("transformer/config.json", put(_class_name="UNet2DModel"), "is a 'UNet2DModel'; supported: DiT"),
        ],
    )
    def test_contradictions(self, tmp_path: Path, file: str, edit: Edit, why: str | None) -> None:
        path = copy("generator", tmp_path / "m", file, edit)
        if why is None:
            with pytest.raises(BadInput, match="beta_schedule 'sigmoid'"):
                GeneratorSpec(path)
        else:
            assert why in refusal(GeneratorSpec, path)

    def test_a_whole_number_beyond_all_floats_is_none(self, tmp_path: Path) -> None:
        path = copy("vae", tmp_path / "m", "config.json", put(scaling_factor=10**400))
        assert "which is not a number" in refusal(VaeSpec, path)

    def test_another_kind_of_vae(self, tmp_path: Path) -> None:
        path = copy("vae", tmp_path / "m", "config.json", put(_class_name="VQModel"))
        assert "is a 'VQModel'; supported: AutoencoderKL, AutoencoderTiny" in refusal(VaeSpec, path)

    @pytest.mark.parametrize(("name", "make", "below"), MODELS)
    def test_pickles_are_not_opened(self, tmp_path: Path, name: str, make: type, below: str) -> None:
        folder = Path(copy(name, tmp_path / "m")) / below
        (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")
        assert "is a pickle, which can run code when it is opened" in refusal(make, tmp_path / "m")
        (folder / "diffusion_pytorch_model.bin").unlink()
        assert f"holds no {WEIGHTS}" in refusal(make, tmp_path / "m")

    @pytest.mark.parametrize(("name", "make", "below"), MODELS)
    def test_half_a_file(self, tmp_path: Path, name: str, make: type, below: str) -> None:
        weights = Path(copy(name, tmp_path / "m")) / below / WEIGHTS
        weights.write_bytes(weights.read_bytes()[:1000])
        assert "is not a whole safetensors file" in refusal(make, tmp_path / "m")

    @pytest.mark.parametrize("make", [VaeSpec, GeneratorSpec])
    def test_no_folder(self, tmp_path: Path, make: type) -> None:
        assert "is not a folder" in refusal(make, tmp_path / "nowhere")

    @pytest.mark.parametrize(
        ("layers", "why"),
        [
            (7, r"has no weight transformer_blocks\.6\."),
            (5, r"has a weight transformer_blocks\.5\.\S+ too many"),
        ],
    )
    def test_weights_of_another_depth(self, tmp_path: Path, layers: int, why: str) -> None:
        """diffusers would fill a layer with random numbers, or leave one out, without a word."""
        path = copy("generator", tmp_path / "m", "transformer/config.json", put(num_layers=layers))
        with pytest.raises(BadInput, match=why) as caught:
            Denoiser(GeneratorSpec(path), CPU, 1.0, "all")
        assert "cannot be loaded" in str(caught.value) and "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "file", "edit"),
        [
            ("generator", "transformer/config.json", put(attention_head_dim=16)),
            ("vae", "config.json", put(block_out_channels=[16, 32, 64])),
            ("vae", "config.json", put(layers_per_block=2)),
        ],
    )
    def test_weights_of_another_width(self, tmp_path: Path, name: str, file: str, edit: Edit) -> None:
        path = copy(name, tmp_path / "m", file, edit)
        with pytest.raises(BadInput, match="cannot be loaded") as caught:
            Vae(VaeSpec(path), CPU) if name == "vae" else Denoiser(GeneratorSpec(path), CPU, 1.0, "all")
        assert "\n" not in str(caught.value)

    def test_what_does_not_fit_the_data(self) -> None:
        spec = GeneratorSpec(None)
        spec.check_fits((4, 8, 8), ["0", "9"])
        with pytest.raises(BadInput, match=r"latents of shape \(4, 16, 16\) but the generator takes \(4, 8, 8\)"):
            spec.check_fits((4, 16, 16), ["0"])
        with pytest.raises(BadInput, match="class 'n01' is not one of the generator's 10 classes"):
            spec.check_fits((4, 8, 8), ["0", "n01"])
        with pytest.raises(BadInput, match=r"source\.image_size=30 is not a multiple of 4"):
            VaeSpec(None).latent_shape(30)

    def test_other_weights_are_another_identity(self, tmp_path: Path) -> None:
        same = copy("vae", tmp_path / "same")
        assert VaeSpec(same).identity() == VaeSpec(None).identity()
        other = copy("vae", tmp_path / "other", "config.json", put(scaling_factor=1.0))
        assert VaeSpec(other).identity() != VaeSpec(None).identity()


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """pixels (N, 32, 32, 3) of some validation digits and their labels."""
    splits = open_splits(SourceConfig(kind="digits"))
    data = splits.source.read("val", splits.test.ids.to_pylist()[:120])
    return np.stack([decode(d, 32, 10**6) for d in data]), splits.test.labels[:120]


class TestVae:
    @pytest.fixture(scope="class")
    def vae(self) -> Vae:
        return Vae(VaeSpec(None), CPU)

    def test_a_round_trip_changes_little(self, vae: Vae) -> None:
        pixels, _ = digits()
        back = vae.decode(vae.encode(torch.from_numpy(pixels))).numpy()
        assert back.shape == pixels.shape and back.dtype == np.uint8
        assert np.abs(back.astype(int) - pixels).mean() < 4, "of 255"

    def test_latents_are_scaled_to_unit_size(self, vae: Vae) -> None:
        z = vae.encode(torch.from_numpy(digits()[0]))
        assert z.shape == (120, *vae.spec.latent_shape(32)) and z.dtype == torch.float32
        assert z.mean().abs() < 0.1 and z.std().item() == pytest.approx(1, abs=0.1)

    def test_scale_and_shift_are_those_of_its_config(self, vae: Vae) -> None:
        """z = (posterior mean - shift_factor) * scaling_factor, and back."""
        pixels = torch.from_numpy(digits()[0][:4])
        shift, scale = vae.spec.shift_factor, vae.spec.scaling_factor
        assert (shift, scale) == (vae.net.config.shift_factor, vae.net.config.scaling_factor) and shift != 0
        with torch.inference_mode():
            mean = vae.net.encode(pixels.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
            image = vae.net.decode(mean).sample.permute(0, 2, 3, 1)
        torch.testing.assert_close(vae.encode(pixels), (mean - shift) * scale, rtol=1e-4, atol=1e-4)
        again = vae.decode((mean - shift) * scale).float()
        assert (again - (image.clamp(-1, 1) + 1) * 127.5).abs().max() < 0.51, "rounded to the nearest of 256"

    def test_prototypes_live_in_scaled_latent_space(self, vae: Vae) -> None:
        """The centroid of a class, decoded and encoded again, is still nearest to itself."""
        pixels, labels = digits()
        z = vae.encode(torch.from_numpy(pixels))
        centroids = torch.stack([z[labels == c].mean(0) for c in range(10)])
        again = vae.encode(vae.decode(centroids))
        far = torch.cdist(again.flatten(1), centroids.flatten(1))
        assert far.argmin(1).tolist() == list(range(10))
        others = far + 1e9 * torch.eye(10)
        assert (far.diagonal() < 0.5 * others.min(1).values).all()

    def test_an_image_knows_nothing_of_its_batch(self, vae: Vae) -> None:
        pixels = torch.from_numpy(digits()[0][:6])
        torch.testing.assert_close(vae.encode(pixels)[3:5], vae.encode(pixels[3:5]), rtol=1e-4, atol=1e-4)

    def test_latents_that_are_not_finite_are_told(self, vae: Vae) -> None:
        with pytest.raises(StageFailed, match="decoded non-finite pixels"):
            vae.decode(torch.full((1, 4, 8, 8), float("nan")))

    def test_photographs_through_taesd(self, shared: Path) -> None:
        path, data = shared / "weights" / "taesd", shared / "data" / "imagenette-224"
        if not (path.is_dir() and data.is_dir()):
            pytest.skip("no TAESD weights or ImageNette images in ../shared")
        vae = Vae(VaeSpec(str(path)), CPU)
        first = next(pq.ParquetFile(next(data.glob("val-*.parquet"))).iter_batches(12, columns=["image"]))
        pixels = torch.from_numpy(np.stack([decode(i["bytes"], 128, 10**7) for i in first["image"].to_pylist()]))
        z = vae.encode(pixels)
        assert z.shape == (12, *vae.spec.latent_shape(128)) == (12, 4, 16, 16)
        assert z.std().item() == pytest.approx(1, abs=0.35)
        assert (vae.decode(z).float() - pixels.float()).abs().mean() < 15, "of 255"


class TestDenoiser:
    """Classifier-free guidance and the variance, against the network called by hand."""

    GENERATORS = ("quickstart", "nette128-dit")

    @pytest.fixture(scope="class", params=GENERATORS)
    def spec(self, request: pytest.FixtureRequest) -> GeneratorSpec:
        if request.param == "quickstart":
            return GeneratorSpec(None)
        path = request.getfixturevalue("shared") / "weights" / request.param
        if not path.is_dir():
            pytest.skip(f"no weights of {request.param} in ../shared")
        return GeneratorSpec(str(path))

    @pytest.fixture(scope="class")
    def denoiser(self, spec: GeneratorSpec) -> Denoiser:
        return Denoiser(spec, CPU, 3.0, "all")

    @staticmethod
    def by_hand(denoiser: Denoiser, x: torch.Tensor, t: int, label: int) -> torch.Tensor:
        with torch.inference_mode():
            full = torch.full((len(x),), label)
            return denoiser.net(x, timestep=torch.full((len(x),), t), class_labels=full).sample

    @pytest.mark.parametrize("guided", [4, 3])
    @pytest.mark.parametrize("index", [49, 25, 0])
    def test_cfg_is_the_two_calls_combined(self, denoiser: Denoiser, guided: int, index: int) -> None:
        step, x = steps(50)[49 - index], noise(0, 2, denoiser.spec.latent_shape)
        denoiser.guided = guided
        pred = denoiser(x, step, torch.tensor([7, 7]))
        denoiser.guided = 4
        cond = self.by_hand(denoiser, x, step.t, 7)
        null = self.by_hand(denoiser, x, step.t, denoiser.spec.null_class)
        eps = null[:, :4] + 3.0 * (cond[:, :4] - null[:, :4])
        eps[:, guided:] = cond[:, guided:4]
        torch.testing.assert_close(pred.eps_hat, eps, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(pred.x0_hat, x0_from_eps(x, pred.eps_hat, step))
        if denoiser.spec.learned_variance:
            low, high = (torch.tensor(max(v, 1e-20)).log() for v in (step.posterior_variance, step.beta))
            share = (cond[:, 4:] + 1) / 2
            torch.testing.assert_close(pred.log_variance, share * high + (1 - share) * low, rtol=1e-3, atol=1e-3)
        else:
            assert pred.log_variance.exp().mean().item() == pytest.approx(max(step.posterior_variance, 1e-20))

    @pytest.mark.parametrize(("channels", "guided"), [("all", 4), ("first3", 3)])
    def test_the_channels_that_are_guided_are_named(self, channels: str, guided: int) -> None:
        assert Denoiser(GeneratorSpec(None), CPU, 2.0, channels).guided == guided  # type: ignore[arg-type]

    def test_scale_1_is_the_conditional_answer_in_one_call(self, denoiser: Denoiser) -> None:
        x, step = noise(0, 2, denoiser.spec.latent_shape), steps(50)[20]
        assert denoiser.calls_per_step == 2
        denoiser.cfg_scale = 1
        try:
            assert denoiser.calls_per_step == 1
            pred = denoiser(x, step, torch.tensor([2, 2]))
        finally:
            denoiser.cfg_scale = 3.0
        torch.testing.assert_close(pred.eps_hat, self.by_hand(denoiser, x, step.t, 2)[:, :4], rtol=1e-4, atol=1e-4)

    def test_a_sample_knows_nothing_of_its_batch(self, denoiser: Denoiser) -> None:
        x, labels, step = noise(0, 5, denoiser.spec.latent_shape), torch.tensor([0, 3, 9, 3, 1]), steps(50)[25]
        together = denoiser(x, step, labels)
        for i in range(5):
            alone = denoiser(x[i : i + 1], step, labels[i : i + 1])
            torch.testing.assert_close(alone.eps_hat, together.eps_hat[i : i + 1], rtol=1e-4, atol=1e-4)

    def test_it_finds_the_noise_in_a_noisy_image(self, denoiser: Denoiser) -> None:
        """At the noise end nearly all of x_t is noise, and a trained network says so."""
        x, step = noise(0, 4, denoiser.spec.latent_shape), steps(50)[0]
        pred = denoiser(x, step, torch.arange(4))
        assert torch.nn.functional.cosine_similarity(pred.eps_hat.flatten(1), x.flatten(1)).min() > 0.95

    def test_an_answer_that_is_not_finite_is_told(self, denoiser: Denoiser) -> None:
        x = torch.full((1, *denoiser.spec.latent_shape), float("nan"))
        with pytest.raises(StageFailed, match=r"non-finite prediction at t=999 in torch.float32; try sample.dtype"):
            denoiser(x, steps(50)[0], torch.tensor([0]))
