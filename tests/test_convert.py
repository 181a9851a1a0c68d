"""Checkpoints of DiT's release: converted, they compute what the paper's formulas do; anything else is refused."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from analytic import noise
from released_dit import Weights, forward, random_weights, with_cfg
from safetensors.torch import load_file, save_file

from raydistill.diffusion.loop import Batch, sample
from raydistill.diffusion.samplers.ddpm import Ddpm
from raydistill.diffusion.schedule import path
from raydistill.models.checkpoint import WEIGHTS
from raydistill.models.convert import convert, main
from raydistill.models.denoiser import Denoiser, GeneratorSpec
from raydistill.models.device import Placement
from raydistill.seeding import NoiseKey

CPU = Placement(torch.device("cpu"), torch.float32, "cpu/float32")
IDS = ["n01", "n02", "n03", "n04", "n05"]
HEADS = 4
Convert = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights()


@pytest.fixture
def converted(tmp_path: Path) -> Convert:
    """Saves weights by their released names, converts them, returns the directory."""

    def make(weights: Weights, image_size: int = 64, ids: list[str] = IDS, heads: int | None = HEADS) -> Path:
        save_file(weights, tmp_path / "dit.safetensors")
        convert(tmp_path / "dit.safetensors", tmp_path / "out", image_size, ids, heads)
        return tmp_path / "out"

    return make


def inputs(count: int = 3, side: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return noise(1, count, (4, side, side)), torch.tensor([999, 500, 0])[:count], torch.tensor([0, 4, 5])[:count]


def answer(net: Any, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return net(x, timestep=t, class_labels=y).sample


class TestTheSameNetwork:
    def test_computes_what_the_formulas_say(self, weights: Weights, converted: Convert) -> None:
        net = Denoiser(GeneratorSpec(str(converted(weights))), CPU, 1.0, "all").net
        torch.testing.assert_close(answer(net, *inputs()), forward(weights, *inputs(), HEADS), rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("more", "image_size"),
        [({"patch": 4, "side": 16}, 128), ({"depth": 1, "width": 32, "out": 4}, 64), ({"channels": 16, "out": 32}, 64)],
        ids=["patch 4", "no variance", "16 channels"],
    )
    def test_of_other_shapes_too(self, converted: Convert, more: dict[str, int], image_size: int) -> None:
        weights = random_weights(**more)
        spec = GeneratorSpec(str(converted(weights, image_size)))
        x, (_, t, y) = noise(1, 3, spec.latent_shape), inputs()
        net = Denoiser(spec, CPU, 1.0, "all").net
        torch.testing.assert_close(answer(net, x, t, y), forward(weights, x, t, y, HEADS), rtol=1e-5, atol=1e-5)
        assert spec.learned_variance == (more.get("out") != 4)

    @pytest.mark.parametrize(("width", "heads"), [(384, 6), (1152, 16)])
    def test_knows_the_heads_of_the_released_widths(self, converted: Convert, width: int, heads: int) -> None:
        weights = random_weights(width=width, depth=1)
        net = Denoiser(GeneratorSpec(str(converted(weights, heads=None))), CPU, 1.0, "all").net
        assert net.config.num_attention_heads == heads
        torch.testing.assert_close(answer(net, *inputs(1)), forward(weights, *inputs(1), heads), rtol=1e-4, atol=1e-4)

    def test_half_precision_stays(self, weights: Weights, converted: Convert) -> None:
        out = converted({name: tensor.half() for name, tensor in weights.items()})
        assert {t.dtype for t in load_file(out / "transformer" / WEIGHTS).values()} == {torch.float16}

    def test_time_is_embedded_as_released_and_not_as_diffusers_does(self, weights: Weights, converted: Convert) -> None:
        """diffusers spreads the 128 frequencies over one step less; at large t that is another conditioning."""
        out = converted(weights)
        record = json.loads((out / "training.json").read_text())
        assert record.pop("timestep_freq_shift") == 0
        (out / "training.json").write_text(json.dumps(record))
        net = Denoiser(GeneratorSpec(str(out)), CPU, 1.0, "all").net
        off = (answer(net, *inputs()) - forward(weights, *inputs(), HEADS)).abs().amax((1, 2, 3))
        assert off[0] > 1e-2 and off[2] < 1e-4, "at t = 0 every frequency is the same"

    @pytest.mark.parametrize("shift", [2, -1, "0", [0]])
    def test_another_shift_is_refused(self, weights: Weights, converted: Convert, shift: object) -> None:
        out = converted(weights)
        record = json.loads((out / "training.json").read_text()) | {"timestep_freq_shift": shift}
        (out / "training.json").write_text(json.dumps(record))
        with pytest.raises(Exception, match="gives timestep_freq_shift="):
            GeneratorSpec(str(out))


class TestSit:
    @pytest.mark.parametrize("out_channels", [8, 4], ids=["with a second half", "without"])
    def test_is_the_velocity_that_the_formulas_say(self, tmp_path: Path, out_channels: int) -> None:
        """The first half of the channels, at t = 0 noise and 1 data; nothing of the second is left."""
        weights = random_weights(out=out_channels)
        save_file(weights, tmp_path / "sit.safetensors")
        (tmp_path / "ids").write_text("\n".join(IDS))
        argv = [str(tmp_path / "sit.safetensors"), str(tmp_path / "out"), "--image-size", "64", "--heads", "4", "--sit"]
        assert main([*argv, "--classes", str(tmp_path / "ids")]) == 0
        spec = GeneratorSpec(str(tmp_path / "out"))
        assert (spec.predicts.predicts, spec.predicts.own_times, spec.learned_variance) == ("flow", None, False)
        x, _, y = inputs()
        for t in (0.0, 0.3, 1.0):
            said = forward(weights, x, torch.full((3,), t), y, HEADS)[:, :4]
            velocity = Denoiser(spec, CPU, 1.0, "all").velocity(x, t, y)
            torch.testing.assert_close(velocity, said, rtol=1e-5, atol=1e-5)


class TestSampling:
    def test_two_steps_are_those_of_the_released_loop(self, weights: Weights, converted: Convert) -> None:
        """DDPM with the learned variance and CFG on three channels, written out once more from the formulas."""
        spec = GeneratorSpec(str(converted(weights)))
        labels, keys = torch.tensor([0, 3]), [NoiseKey(0, "c", i) for i in range(2)]
        slots = Batch(labels, torch.zeros(2, 4, 8, 8), keys)
        steps = path(spec.alphas_bar, "released", 2)
        mine = sample(Denoiser(spec, CPU, 4.0, "first3"), steps, Ddpm(), None, slots)

        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        alpha_bar = (1 - betas).cumprod(0)
        x = slots.noise("init", 0)
        for t, a, b in ((999, alpha_bar[999].item(), alpha_bar[0].item()), (0, alpha_bar[0].item(), 1.0)):
            eps, raw = with_cfg(weights, x, torch.full((2,), t), labels, HEADS, 4.0)
            beta, x0 = 1 - a / b, x / math.sqrt(a) - math.sqrt(1 / a - 1) * eps
            x = math.sqrt(b) * beta / (1 - a) * x0 + math.sqrt(a / b) * (1 - b) / (1 - a) * x
            if t > 0:
                low, share = math.log(beta * (1 - b) / (1 - a)), (raw + 1) / 2
                x = x + torch.exp((share * math.log(beta) + (1 - share) * low) / 2) * slots.noise("step", 1)
        torch.testing.assert_close(mine, x, rtol=1e-3, atol=1e-3 * x.abs().max().item())

    def test_the_directory_says_what_the_release_is(self, weights: Weights, converted: Convert) -> None:
        spec = GeneratorSpec(str(converted(weights)))
        assert spec.class_ids == IDS and spec.null_class == 5 and spec.latent_scale == 1.0
        assert spec.learned_variance and spec.latent_shape == (4, 8, 8) and len(spec.alphas_bar) == 1000
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        torch.testing.assert_close(torch.from_numpy(spec.alphas_bar), (1 - betas).cumprod(0))


class TestCommand:
    @pytest.fixture
    def files(self, weights: Weights, tmp_path: Path) -> tuple[str, str]:
        save_file(weights, tmp_path / "dit.safetensors")
        (tmp_path / "ids.txt").write_text("# the five\n" + "".join(f"{i} a name, another\n" for i in IDS) + "\n")
        return str(tmp_path / "dit.safetensors"), str(tmp_path / "ids.txt")

    @pytest.fixture
    def refused(self, files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        def check(*argv: str, code: int = 2) -> str:
            before = sorted(os.listdir(tmp_path))
            assert main(argv) == code
            said = capsys.readouterr()
            assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
            assert sorted(os.listdir(tmp_path)) == before, "nothing is left behind"
            return said.err

        return check

    def rest(self, files: tuple[str, str], size: str = "64", heads: str = "4") -> list[str]:
        return ["--image-size", size, "--classes", files[1], "--heads", heads]

    def test_writes_a_generator_and_says_where(
        self, files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = str(tmp_path / "new" / "dit")
        assert main([files[0], out, *self.rest(files)]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == out
        assert GeneratorSpec(out).class_ids == IDS
        assert sorted(os.listdir(out)) == ["scheduler", "training.json", "transformer"]
        assert os.listdir(tmp_path / "new") == ["dit"]

    def test_help_shows_every_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            main(["--help"])
        said = capsys.readouterr().out
        assert end.value.code == 0 and all(o in said for o in ("--image-size", "--classes", "--heads", "SRC", "OUT"))

    def test_what_is_there_is_left_alone(self, files: tuple[str, str], tmp_path: Path, refused) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("x")
        assert "is there already" in refused(files[0], str(tmp_path / "out"), *self.rest(files))

    @pytest.mark.parametrize("name", ["dit.pt", "dit.bin", "dit.ckpt"])
    def test_a_pickle_is_not_opened(self, files: tuple[str, str], tmp_path: Path, refused, name: str) -> None:
        (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
        said = refused(str(tmp_path / name), str(tmp_path / "out"), *self.rest(files))
        assert "is a pickle, which can run code" in said and "bring-your-own.md" in said

    def test_half_a_file_none_and_a_folder(self, files: tuple[str, str], tmp_path: Path, refused) -> None:
        half = tmp_path / "half.safetensors"
        half.write_bytes(Path(files[0]).read_bytes()[:5000])
        out = str(tmp_path / "out")
        assert "is not a whole safetensors file" in refused(str(half), out, *self.rest(files))
        assert "is not a file" in refused(str(tmp_path / "none.safetensors"), out, *self.rest(files))
        assert "is not a file" in refused(str(tmp_path), out, *self.rest(files))

    @pytest.mark.parametrize(
        ("size", "heads", "why"),
        [
            ("128", "4", "give the size that it was trained at"),
            ("60", "4", "is not a multiple of 16"),
            ("-16", "4", "is not a multiple of 16"),
            ("64", "7", "does not divide the width 64"),
            ("64", "-1", "does not divide the width 64"),
            ("big", "4", "invalid int value"),
        ],
    )
    def test_sizes_that_do_not_fit(
        self, files: tuple[str, str], tmp_path: Path, refused, size: str, heads: str, why: str
    ) -> None:
        assert why in refused(files[0], str(tmp_path / "out"), *self.rest(files, size, heads))

    def test_heads_that_cannot_be_known_are_asked_for(self, files: tuple[str, str], tmp_path: Path, refused) -> None:
        said = refused(files[0], str(tmp_path / "out"), *self.rest(files)[:4])
        assert "64 wide, which the release is not; give its attention heads" in said

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("a\nb\n", "2 class ids, but"),
            ("a\nb\nc\nd\nd\n", "names d more than once"),
            ("", "0 class ids, but"),
            ("\n".join("abcdef"), "6 class ids, but"),
        ],
    )
    def test_class_lists_that_do_not_fit(
        self, files: tuple[str, str], tmp_path: Path, refused, text: str, why: str
    ) -> None:
        Path(files[1]).write_text(text)
        assert why in refused(files[0], str(tmp_path / "out"), *self.rest(files))

    def test_a_list_that_is_not_there(self, files: tuple[str, str], tmp_path: Path, refused) -> None:
        os.remove(files[1])
        assert "cannot be read" in refused(files[0], str(tmp_path / "out"), *self.rest(files))

    @pytest.mark.parametrize(
        ("edit", "why"),
        [
            (lambda w: w.pop("blocks.1.attn.qkv.bias"), "has no weight blocks.1.attn.qkv.bias"),
            (lambda w: w.pop("t_embedder.mlp.2.weight"), "has no weight t_embedder.mlp.2.weight"),
            (lambda w: w.pop("x_embedder.proj.weight"), "has no x_embedder.proj.weight of 4 axes"),
            (lambda w: w.update({"blocks.1.gate": torch.zeros(1)}), "has a weight blocks.1.gate too many"),
            (lambda w: w.update({"blocks.0.mlp.fc1.bias": torch.zeros(7)}), "ff.net.0.proj.bias would be (7,)"),
            (lambda w: w.update({"pos_embed": w["pos_embed"].flip(1)}), "has other positions than"),
            (lambda w: w.pop("pos_embed"), "has positions none"),
            (lambda w: w.update({"final_layer.linear.weight": torch.zeros(24, 64)}), "makes 6 channels of 4"),
        ],
        ids=lambda v: v if isinstance(v, str) else "",
    )
    def test_weights_that_are_not_those_of_a_released_dit(
        self, files: tuple[str, str], tmp_path: Path, refused, edit: Callable[[Weights], object], why: str
    ) -> None:
        weights = random_weights()
        edit(weights)
        save_file(weights, files[0])
        assert why in refused(files[0], str(tmp_path / "out"), *self.rest(files))

    def test_a_full_disk_ends_in_one_line_and_leaves_nothing(
        self, files: tuple[str, str], tmp_path: Path, refused, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("raydistill.models.convert.save_file", full)
        said = refused(files[0], str(tmp_path / "out"), *self.rest(files), code=1)
        assert "No space left on device" in said
