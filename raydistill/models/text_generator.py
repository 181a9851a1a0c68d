"""Text-to-image Stable Diffusion as a generator of classes: each class is the prompt that its name makes.

The folder is a pipeline as diffusers writes it. Prompts are tokenised when it is described, and encoded once when it is
loaded: then the text encoder goes, and a table of embeddings stands in for the labels of a class-conditional network,
the negative prompt for the label of "no class".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.errors import BadInput, one_line
from raydistill.identity import canonical, digest
from raydistill.models import fits
from raydistill.models.checkpoint import (
    WEIGHTS,
    check_weights,
    integer,
    load_network,
    number,
    read_config,
    variant,
    weights_digest,
    weights_name,
)
from raydistill.models.device import quiet_libraries
from raydistill.models.generator import CPU, Generator
from raydistill.models.parametrisation import parametrisation

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
ENCODER_WEIGHTS = "model.safetensors"
INDEX, UNET, SCHEDULER = "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"
ENCODER, VAE = "text_encoder/config.json", "vae/config.json"
LEARNED = [UNET, f"unet/{WEIGHTS}", SCHEDULER, ENCODER, f"text_encoder/{ENCODER_WEIGHTS}"]
EITHER = [f"tokenizer/{f}" for f in ("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json")] + [VAE]
FILES = [*LEARNED, INDEX, "tokenizer/tokenizer_config.json", *EITHER]  # of a tokenizer's last four not all are there
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
OTHER_CONDITIONS = ("addition_embed_type", "class_embed_type", "encoder_hid_dim", "time_cond_proj_dim")
NO_NAME = re.compile(r"\d+|n\d{8}")  # a number, or a WordNet id
PROMPTS_AT_ONCE = 64
KEY = "generator.path"


def is_pipeline(folder: str | None) -> bool:
    """Whether a generator's folder is told text: such a pipeline's network is in unet/."""
    return folder is not None and (Path(folder) / "unet").is_dir()


class TextGeneratorSpec(Generator):
    """A Stable Diffusion pipeline that draws `classes`, a name by class id. Raises BadInput.

    `prompt` says with {name} what is asked of a class, `negative_prompt` from what classifier-free guidance leads away.
    """

    factor_stands_in = "scaling_factor in its vae/config.json"

    def __init__(self, path: str, classes: Mapping[str, str], prompt: str, negative_prompt: str) -> None:
        self.path = Path(path)
        self._check_kind()
        net, encoder = (read_config(self.path / name, KEY) for name in (UNET, ENCODER))
        self.scheduler = read_config(self.path / SCHEDULER, KEY)
        check_weights(self.path / "unet", KEY)
        check_weights(self.path / "text_encoder", KEY, ENCODER_WEIGHTS)
        self._check_configs(net, encoder)
        kind = self.scheduler.get("prediction_type", "epsilon")
        if kind not in PREDICTIONS:
            raise BadInput(
                f"{KEY}: {self.path / SCHEDULER} gives prediction_type={kind!r}; supported: {', '.join(PREDICTIONS)}"
            )
        training = {"prediction": PREDICTIONS[kind], "learned_variance": False}
        self.predicts = parametrisation(training, self.scheduler, self.path)
        self.steps_offset = self._offset()
        # Without the key, as diffusers' DDIM reads the configuration of the scheduler that wrote it.
        to_one = self.scheduler.get("set_alpha_to_one", self.scheduler.get("_class_name") != "PNDMScheduler")
        self.last_alpha_bar = 1.0 if to_one else float(self.alphas_bar[0])
        side = integer(net, "sample_size", self.path / UNET, KEY)
        self.latent_shape = (integer(net, "in_channels", self.path / UNET, KEY), side, side)
        vae = read_config(self.path / VAE, KEY) if (self.path / VAE).is_file() else {}
        if vae.get("scaling_factor") is not None:
            self.vae_scaling_factor = number(vae, "scaling_factor", self.path / VAE, KEY)
        self.class_ids, self.null_class = list(classes), len(classes)
        self.prompts = [*prompts(classes, prompt), negative_prompt]
        self.tokens = self._tokens(encoder)

    def _check_kind(self) -> None:
        """Refuses other pipelines by their name."""
        kind = read_config(self.path / INDEX, KEY).get("_class_name")
        if kind not in PIPELINES:
            raise BadInput(
                f"{KEY}: {self.path} is a {kind!r}; of text-to-image pipelines {PIPELINES[0]} is supported, which "
                "Stable Diffusion 1 and 2 are"
            )

    def _check_configs(self, net: dict[str, Any], encoder: dict[str, Any]) -> None:
        file = self.path / UNET
        if net.get("_class_name") != "UNet2DConditionModel":
            raise BadInput(f"{KEY}: {file} is a {net.get('_class_name')!r}; supported: UNet2DConditionModel")
        other = next((name for name in OTHER_CONDITIONS if net.get(name) is not None), None)
        if other:
            raise BadInput(f"{KEY}: {file} gives {other}={net[other]!r}: it is told more than a prompt; give another")
        if net.get("out_channels") != net.get("in_channels"):
            raise BadInput(
                f"{KEY}: {file} gives in_channels={net.get('in_channels')} and out_channels={net.get('out_channels')}: "
                "it is shown more than a latent, as for inpainting; give another"
            )
        if encoder.get("model_type") != "clip_text_model":
            raise BadInput(
                f"{KEY}: {self.path / ENCODER} is a {encoder.get('model_type')!r}; supported: clip_text_model"
            )
        if net.get("cross_attention_dim") != encoder.get("hidden_size"):
            raise BadInput(
                f"{KEY}: {file} gives cross_attention_dim={net.get('cross_attention_dim')!r}, which does not go with "
                f"hidden_size={encoder.get('hidden_size')!r} in {self.path / ENCODER}; take both of one pipeline"
            )

    def _offset(self) -> int:
        offset = self.scheduler.get("steps_offset", 0)
        if isinstance(offset, bool) or not isinstance(offset, int) or not 0 <= offset < len(self.alphas_bar):
            raise BadInput(
                f"{KEY}: {self.path / SCHEDULER} gives steps_offset={offset!r}, which is no number of training steps"
            )
        return offset

    def _tokens(self, encoder: dict[str, Any]) -> list[list[int]]:
        """Of each prompt, filled up to the tokenizer's limit. Raises BadInput for one that is longer."""
        kind, folder, file = transformers(self.path).CLIPTokenizer, self.path / "tokenizer", self.path / ENCODER
        if not folder.is_dir():
            raise BadInput(f"{KEY}: {folder} is missing; copy the whole pipeline")
        try:
            tokenizer = kind.from_pretrained(str(folder), local_files_only=True)
            tokens = tokenizer(self.prompts).input_ids
        except Exception as e:  # the library raises many kinds for files that are missing or torn
            raise BadInput(f"{KEY}: {folder} is no tokenizer that can be loaded: {one_line(e)}") from None
        most, places = tokenizer.model_max_length, integer(encoder, "max_position_embeddings", file, KEY)
        if most > places or max(map(max, tokens)) >= integer(encoder, "vocab_size", file, KEY):
            raise BadInput(
                f"{KEY}: {folder}, of {len(tokenizer)} tokens and prompts up to {most}, does not go with {file}, of "
                f"{encoder['vocab_size']} and up to {places}; take both of one pipeline"
            )
        longest = max(range(len(tokens)), key=lambda i: len(tokens[i]))
        if len(tokens[longest]) > most:
            negative = longest == self.null_class
            key, remedy = ("negative_prompt", "it") if negative else ("prompt", "it, or the class's name")
            raise BadInput(
                f"generator.{key}: {self.prompts[longest]!r} is of {len(tokens[longest])} tokens, and {self.path} "
                f"takes {most}; shorten {remedy}"
            )
        padded: list[list[int]] = tokenizer(self.prompts, padding="max_length", max_length=most).input_ids
        return padded

    def check_network(self) -> None:
        quiet_libraries()
        from diffusers import UNet2DConditionModel

        file = self.path / "unet" / weights_name(self.path / "unet")
        fits.check_diffusers(UNet2DConditionModel, read_config(self.path / UNET, KEY), file, KEY)
        self._encoder()

    def network(self, device: torch.device = CPU) -> Any:
        """Prompts are encoded on `device`, in float32."""
        quiet_libraries()
        from diffusers import UNet2DConditionModel

        embeddings = embedded(self._encoder().to(device), self.tokens, device)
        return Prompted(load_network(UNet2DConditionModel, self.path / "unet", KEY), embeddings)

    def _encoder(self) -> Any:
        """The text encoder with exactly the weights that its folder holds. Raises BadInput."""
        folder = self.path / "text_encoder"
        try:
            encoder, info = transformers(self.path).CLIPTextModel.from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                variant=variant(folder, ENCODER_WEIGHTS),
            )
        except BadInput:
            raise
        except Exception as e:  # the library raises many kinds for weights that do not fit their config
            raise BadInput(f"{KEY}: {folder} cannot be loaded: {one_line(e)}") from None
        lacking = sorted(info["missing_keys"])
        if lacking:
            raise BadInput(f"{KEY}: {folder / ENCODER_WEIGHTS} has no weight {lacking[0]}; mend it, or its config.json")
        return encoder.eval().requires_grad_(False)

    def identity(self) -> dict[str, Any]:
        """Of the networks by their files; of tokenizer and prompts by the tokens of each class, which is all of them
        that the networks see."""
        requested = [[*self.class_ids, None], self.tokens]
        return {
            "weights": weights_digest(self.path, LEARNED, {}, "generator.path"),
            "tokens": digest(canonical(requested).encode()),
        }


def prompts(classes: Mapping[str, str], prompt: str) -> list[str]:
    """What is asked of each class. Raises BadInput for a prompt without a name, and for a class that has none."""
    if "{name}" not in prompt:
        raise BadInput(f"generator.prompt={prompt!r} asks the same of all classes; put {{name}} where the class's goes")
    nameless = next((i for i, name in classes.items() if not name.strip() or NO_NAME.fullmatch(name)), None)
    if nameless is not None:
        raise BadInput(
            f"generator.path is told text, and of class {nameless!r} no name is known; give one to every class with "
            '"names" in classes.json beside the splits (docs/bring-your-own.md#images)'
        )
    return [prompt.replace("{name}", name) for name in classes.values()]


def transformers(path: Path) -> Any:
    """The library that reads prompts, which is an extra. Raises BadInput where it is not."""
    quiet_libraries()
    if find_spec("transformers") is None:
        raise BadInput(
            f"{KEY}: {path} is told text, and transformers, which reads it, is not installed here; pip install "
            '"raydistill[text]", or give a generator of classes'
        )
    import transformers as library

    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


@torch.inference_mode()
def embedded(encoder: nn.Module, tokens: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """(prompts, tokens, width) float32 on the CPU: the last hidden state of the text encoder on `device`."""
    ids = torch.tensor(tokens, device=device)
    return torch.cat([encoder(part)[0].cpu() for part in ids.split(PROMPTS_AT_ONCE)])


class Prompted(nn.Module):
    """A text-conditional network that is asked by label: `embeddings` (labels, tokens, width)."""

    embeddings: Tensor

    def __init__(self, net: nn.Module, embeddings: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("embeddings", embeddings.clone())

    def forward(self, x: Tensor, timestep: Tensor, class_labels: Tensor) -> Any:
        return self.net(x, timestep, encoder_hidden_states=self.embeddings[class_labels])
