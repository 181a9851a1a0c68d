"""Stable Diffusion as a generator of classes: number by number diffusers' own pipelines, and through the stages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipeline import LIMIT, tiny_pipeline, write_tokenizer
from tiny_run import TinyRun, config

from raydistill.diffusion import loop
from raydistill.diffusion.loop import Batch
from raydistill.diffusion.samplers.ddim import Ddim
from raydistill.diffusion.start import NOISE, Start
from raydistill.errors import BadInput
from raydistill.models import text_generator
from raydistill.models.denoiser import Denoiser
from raydistill.models.device import Placement
from raydistill.models.text_generator import TextGeneratorSpec
from raydistill.models.vae import VaeSpec
from raydistill.pipeline import preflight, unread
from raydistill.pretraining.origin import from_checkpoint
from raydistill.seeding import NoiseKey

pytest.importorskip("transformers")

CPU = Placement(torch.device("cpu"), torch.float32, "cpu")
CLASSES = {"7": "seven", "1": "one", "0": "zero"}
PROMPT, NEGATIVE = "{name}", "cartoon, anime, painting"
STRENGTH, SCALE, STEPS = 0.7, 8.0, 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline(root / "tokenizer").save_pretrained(root / "sd", safe_serialization=True)
    return root / "sd"


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def spec(folder: Path, prompt: str = PROMPT, negative: str = NEGATIVE, **classes: str) -> TextGeneratorSpec:
    return TextGeneratorSpec(str(folder), classes or CLASSES, prompt, negative)


def edit(file: Path, **changes: Any) -> None:
    """Keys of a JSON file; None takes one out."""
    old = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in old.items() if v is not None}))


def refusal(folder: Path, *args: str, **classes: str) -> str:
    with pytest.raises(BadInput) as caught:
        spec(folder, *args, **classes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Noise(Batch):
    """Slots whose noise is given."""

    def noise(self, purpose: str, step: int, copies: int = 0) -> torch.Tensor:
        return torch.randn(self.prototype.shape, generator=torch.Generator().manual_seed(5))


def slots(classes: list[int]) -> Batch:
    prototypes = torch.randn(len(classes), 4, 8, 8, generator=torch.Generator().manual_seed(3))
    return Noise(torch.tensor(classes), prototypes, [NoiseKey(0, str(c), 0) for c in classes])


class TestNumbers:
    """Against StableDiffusionPipeline and StableDiffusionImg2ImgPipeline of diffusers with its DDIM."""

    @pytest.fixture(autouse=True)
    def one_thread(self) -> Iterator[None]:
        """Threads of so small networks wait for each other, and longest on a busy machine."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)

    @pytest.fixture(scope="class", params=["epsilon", "v_prediction"])
    def written(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
        root = tmp_path_factory.mktemp(request.param)
        tiny_pipeline(root / "tokenizer", request.param).save_pretrained(root / "sd", safe_serialization=True)
        return root / "sd"

    def ours(self, written: Path, batch: Batch, start: Start) -> torch.Tensor:
        of_text = spec(written)
        denoiser = Denoiser(of_text, CPU, SCALE, "all")
        return loop.sample(denoiser, of_text.steps("leading", STEPS, start), Ddim(), None, batch, start=start)

    def theirs(self, written: Path, kind: str, batch: Batch, **more: Any) -> torch.Tensor:
        import diffusers

        pipeline = getattr(diffusers, kind).from_pretrained(str(written), safety_checker=None)
        # Stable Diffusion's own file says clip_sample, which PNDM does not write by itself.
        pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
        pipeline.set_progress_bar_config(disable=True)
        asked = [list(CLASSES.values())[i] for i in batch.class_index.tolist()]
        told = {"negative_prompt": [NEGATIVE] * len(asked), "guidance_scale": SCALE, "output_type": "latent"}
        latents: torch.Tensor = pipeline(asked, num_inference_steps=STEPS, **told, **more).images
        return latents

    def test_from_a_noised_prototype(self, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as img2img

        batch = slots([0, 2, 1])
        monkeypatch.setattr(img2img, "randn_tensor", lambda shape, **_: batch.noise("init", 0))
        kind = "StableDiffusionImg2ImgPipeline"
        wanted = self.theirs(written, kind, batch, image=batch.prototype, strength=STRENGTH)
        latents = self.ours(written, batch, Start(1 - STRENGTH))
        assert torch.allclose(latents, wanted, atol=1e-4, rtol=1e-4) and wanted.std() > 0.1
        assert not torch.allclose(latents, self.ours(written, slots([1, 1, 1]), Start(1 - STRENGTH)), atol=1e-2)

    def test_from_pure_noise(self, written: Path) -> None:
        batch = slots([2, 0])
        wanted = self.theirs(written, "StableDiffusionPipeline", batch, latents=batch.noise("init", 0))
        assert torch.allclose(self.ours(written, batch, NOISE), wanted, atol=1e-4, rtol=1e-4)


class TestTimes:
    def test_are_those_of_the_scheduler(self, folder: Path, copy: Path) -> None:
        of_text = spec(folder)
        run = of_text.steps("leading", STEPS)
        assert [s.t for s in run] == [981 - 20 * i for i in range(50)]
        assert run[-1].alpha_bar_prev == of_text.alphas_bar[0] < 1
        edit(copy / "scheduler" / "scheduler_config.json", steps_offset=0, set_alpha_to_one=True)
        other = spec(copy).steps("leading", STEPS)
        assert other[-1].t == 0 and other[-1].alpha_bar_prev == 1

    def test_d4m_begins_where_its_own_pipeline_does(self, folder: Path) -> None:
        begins = preflight.resolve(config(method="d4m")).sampling.start
        assert spec(folder).steps("leading", STEPS, begins)[0].t == 701

    def test_beyond_training_is_refused(self, folder: Path) -> None:
        with pytest.raises(BadInput, match=r"begin at t=1000 by the scheduler's steps_offset=1, beyond .* 1000"):
            spec(folder).steps("leading", 1000)


class TestIdentity:
    @pytest.mark.parametrize(
        "change",
        [
            lambda f: edit(f / "scheduler" / "scheduler_config.json", steps_offset=0),
            lambda f: edit(f / "unet" / "config.json", norm_eps=1e-6),
            lambda f: edit(f / "text_encoder" / "config.json", hidden_act="gelu"),
        ],
    )
    def test_is_of_every_part(self, folder: Path, copy: Path, change: Callable[[Path], None]) -> None:
        assert spec(copy).identity() == spec(folder).identity()
        change(copy)
        assert spec(copy).identity() != spec(folder).identity()

    def test_is_of_what_is_asked_of_each_class(self, folder: Path) -> None:
        mine = spec(folder).identity()
        assert mine != spec(folder, "a photo of {name}").identity() != spec(folder, PROMPT, "").identity() != mine
        assert mine != spec(folder, **(CLASSES | {"1": "nine"})).identity()
        swapped = {"7": "one", "1": "seven", "0": "zero"}
        assert mine != spec(folder, **swapped).identity()

    def test_is_the_same_by_either_form_of_the_tokenizer(self, folder: Path, copy: Path) -> None:
        """Today's libraries write tokenizer.json, and Stable Diffusion 1 has vocab.json and merges.txt."""
        shutil.rmtree(copy / "tokenizer")
        write_tokenizer(copy / "tokenizer")
        assert spec(copy).identity() == spec(folder).identity()


def test_a_text_encoder_may_be_named_as_in_the_releases(folder: Path, copy: Path) -> None:
    """Theirs begin with text_model and hold a table of positions; today's library writes neither."""
    file = copy / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{n.removeprefix('text_model.')}": t for n, t in load_file(file).items()}
    save_file(weights | {"text_model.embeddings.position_ids": torch.arange(LIMIT)[None]}, file, {"format": "pt"})
    released, today = (spec(f).network().embeddings for f in (copy, folder))
    assert torch.equal(released, today) and released.std() > 0.1


class TestRefusals:
    def test_a_class_without_a_name(self, folder: Path) -> None:
        for name in ("7", "n01440764", " "):
            assert '"names" in classes.json' in refusal(folder, **{"7": name, "1": "one"})

    def test_a_prompt_that_is_the_same_for_all(self, folder: Path) -> None:
        assert "put {name} where the class's goes" in refusal(folder, "a photo")

    def test_a_prompt_that_is_too_long(self, folder: Path) -> None:
        assert f"tokens, and {folder} takes {LIMIT}; shorten it, or the class's name" in refusal(
            folder, "a " * 12 + PROMPT
        )
        assert "generator.negative_prompt: " in refusal(folder, PROMPT, "one " * 12)
        assert len(spec(folder, "a " * 9 + PROMPT).tokens[0]) == LIMIT, "the longest that fits"

    @pytest.mark.parametrize(
        ("file", "changes", "line"),
        [
            ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}, "is a 'StableDiffusionXLPipeline'; of"),
            ("unet/config.json", {"addition_embed_type": "text_time"}, "it is told more than a prompt"),
            ("unet/config.json", {"in_channels": 9}, "in_channels=9 and out_channels=4: it is shown more"),
            (
                "unet/config.json",
                {"cross_attention_dim": 768},
                "cross_attention_dim=768, which does not go with hidden",
            ),
            ("text_encoder/config.json", {"model_type": "t5"}, "is a 't5'; supported: clip_text_model"),
            ("text_encoder/config.json", {"vocab_size": 20}, "does not go with"),
            ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "prediction_type='sample'; supported"),
            (
                "scheduler/scheduler_config.json",
                {"steps_offset": -1},
                "steps_offset=-1, which is no number of training",
            ),
            (
                "tokenizer/tokenizer_config.json",
                {"model_max_length": 77},
                "and prompts up to 77, does not go",
            ),
        ],
    )
    def test_another_pipeline(self, copy: Path, file: str, changes: dict[str, Any], line: str) -> None:
        edit(copy / file, **changes)
        assert line in refusal(copy)

    @pytest.mark.parametrize("part", ["unet", "text_encoder", "tokenizer", "scheduler", "model_index.json"])
    def test_a_part_that_is_missing(self, copy: Path, part: str) -> None:
        (shutil.rmtree if (copy / part).is_dir() else Path.unlink)(copy / part)
        assert part in refusal(copy)

    def test_weights_that_lack_something(self, copy: Path) -> None:
        file = copy / "text_encoder" / "model.safetensors"
        weights = load_file(file)
        gone = next(n for n in weights if "final_layer_norm" in n)
        save_file({n: t for n, t in weights.items() if n != gone}, file, {"format": "pt"})
        with pytest.raises(BadInput, match=r"model\.safetensors has no weight .*final_layer_norm"):
            spec(copy).check_network()

    def test_no_library_that_reads_text(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text_generator, "find_spec", lambda name: None)
        assert 'pip install "raydistill[text]"' in refusal(folder)

    def test_a_vae_of_another_scale(self, folder: Path, copy: Path) -> None:
        edit(copy / "vae" / "config.json", scaling_factor=0.13025)
        with pytest.raises(BadInput, match=r"trained on latents scaled by 0\.18215, .*in its vae/config\.json"):
            spec(folder).check_vae(VaeSpec(str(copy)))

    def test_prompts_for_a_generator_of_labels(self, tmp_path: Path) -> None:
        p = preflight.prepare(config(run_dir=str(tmp_path / "run")))
        with pytest.raises(BadInput, match=r"generator\.prompt: .* is told labels and no text"):
            unread.check(p, ["generator.prompt"])


def test_d4m_makes_its_images_through_the_stages(folder: Path, tmp_path: Path) -> None:
    chosen = {"name": "ddim", "grid": "leading", "steps": 10, "cfg_scale": 8.0}
    models = {"vae": {"path": str(folder)}, "generator": {"path": str(folder)}, "cluster": {"algorithm": "minibatch"}}
    asked = config(method="d4m", sampler=chosen, run_dir=str(tmp_path / "run"), **models)
    p = preflight.prepare(asked, evaluate=False)
    assert isinstance(p.generator, TextGeneratorSpec) and p.generator.prompts == ["three", "seven", NEGATIVE]
    p.generator.check_network()
    p.vae.check_network()
    unread.check(p, ["generator.prompt"])
    run = TinyRun(tmp_path / "run")
    run.config, run.vae, run.generator, run.shape = p.config, p.vae, p.generator, p.shape
    run.finish(["encode", "group", "cluster", "plan d4m", "sample d4m"])
    rows = run.sealed("sample d4m").read().to_pylist()
    assert len(rows) == 2 * 3 and {row["nfe"] for row in rows} == {2 * 8}, "from t=701 on, twice for guidance"


def test_such_a_folder_is_not_trained(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"^pretrain\.init: .* is told text, and what is trained here is told labels"):
        from_checkpoint(str(folder), None, VaeSpec(str(folder)), (4, 8, 8), [])
