"""A labelled generator and its VAE as a folder that diffusers' own DiTPipeline loads and samples with.

    python -m raydistill.models.dit_pipeline GENERATOR VAE OUT

    pipe = DiTPipeline.from_pretrained("OUT")
    pipe(pipe.get_label_ids(["zero"]), guidance_scale=4.0, num_inference_steps=50).images

DiTPipeline takes label 1000 for no class, divides latents by the VAE's scaling_factor, does nothing else to them, and
drops learned variances. So here the class tables are filled up to 1000 with the row of no class, the VAE's shift is in
the biases beside its latents and latent_scale in its factor, and the scheduler is one without variance: DDIM on the
grid `leading`, or for flows Euler's method. It is a copy for others: sampling here reads the generator itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydistill.errors import BadInput
from raydistill.models.checkpoint import load_network
from raydistill.models.denoiser import GeneratorSpec
from raydistill.models.device import quiet_libraries
from raydistill.models.parametrisation import OfFlow
from raydistill.models.tool import ToolParser
from raydistill.models.vae import VaeSpec
from raydistill.models.whole import check_free, whole_folder

INDEX = "model_index.json"
NO_CLASS = 1000  # what DiTPipeline calls it
BETAS = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas")


def write(spec: GeneratorSpec, vae: VaeSpec, out: Path) -> None:
    """Writes OUT/model_index.json, transformer/, vae/ and scheduler/, whole or not at all.

    Raises BadInput before anything is written, StageFailed if it cannot be.
    """
    check_free(out)
    spec.check_vae(vae)
    check(spec, vae)
    quiet_libraries()
    import diffusers

    parts = {"scheduler": scheduler(spec), "transformer": transformer(spec), "vae": decoder(vae, spec.latent_scale)}
    index: dict[str, Any] = {"_class_name": "DiTPipeline", "_diffusers_version": diffusers.__version__}
    index["id2label"] = {str(i): label for i, label in enumerate(labels(spec))}
    index |= {name: ["diffusers", type(part).__name__] for name, part in parts.items()}
    with whole_folder(out) as folder:
        for name, part in parts.items():
            part.save_pretrained(str(folder / name))
        (folder / INDEX).write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n")


def check(spec: GeneratorSpec, vae: VaeSpec) -> None:
    """Raises BadInput for what DiTPipeline would sample otherwise than it is sampled here."""
    knows_t = isinstance(spec.predicts, OfFlow) and not spec.predicts.steps
    if spec.timestep_freq_shift == 0 or knows_t:
        what = "t itself" if knows_t else "times by the frequencies of DiT's release"
        raise BadInput(
            f"{spec.path} was told {what}, and DiTPipeline tells a network other times; sample it with raydistill"
        )
    if len(spec.class_ids) > NO_CLASS:
        raise BadInput(
            f"{spec.path} knows {len(spec.class_ids)} classes, and DiTPipeline takes label {NO_CLASS} for no class; "
            "sample it with raydistill"
        )
    if vae.latent_shape(spec.latent_shape[1] * vae.downscale) != spec.latent_shape:
        raise BadInput(f"{vae.path} has {vae.channels} latent channels, and {spec.path} takes {spec.latent_shape[0]}")


def labels(spec: GeneratorSpec) -> list[str]:
    """What each class may be asked for by: "ID, NAME", or its id alone where names are not known or not unique."""
    names = spec.training.get("class_names")
    if not isinstance(names, list) or len({*map(str, names), *spec.class_ids}) != 2 * len(spec.class_ids):
        return spec.class_ids
    return [f"{class_id}, {name}" for class_id, name in zip(spec.class_ids, names, strict=True)]


def transformer(spec: GeneratorSpec) -> nn.Module:
    """The network in its own dtype, no class being the label 1000; a flow's as noise - data."""
    net: nn.Module = spec.network()
    with torch.no_grad():
        for block in net.transformer_blocks:
            embedder = block.norm1.emb.class_embedder
            rows = embedder.embedding_table.weight
            none = rows[spec.null_class].expand(NO_CLASS - spec.null_class, -1)
            embedder.embedding_table = nn.Embedding.from_pretrained(torch.cat([rows, none]))
        if isinstance(spec.predicts, OfFlow) and spec.predicts.sign > 0:
            for parameter in net.proj_out_2.parameters():
                parameter.neg_()
    net.register_to_config(num_embeds_ada_norm=NO_CLASS)
    return net.to(spec.dtype)


def decoder(spec: VaeSpec, latent_scale: float) -> nn.Module:
    """The VAE without a shift, for latents that the generator sees. Raises BadInput if its shift cannot be moved.

    With W and b of the 1 x 1 convolution before the decoder, W (z + shift) + b = W z + (b + shift W 1).
    """
    quiet_libraries()
    import diffusers

    net: nn.Module = load_network(getattr(diffusers, spec.kind), spec.path, "vae.path")
    factor = {"scaling_factor": spec.scaling_factor * latent_scale}
    if spec.shift_factor:
        before, after = net.post_quant_conv, net.quant_conv
        if before is None or after is None:
            raise BadInput(
                f"{spec.path} shifts latents by {spec.shift_factor:g}, which DiTPipeline does not, and has no "
                "quant_conv to take it up; sample with raydistill"
            )
        with torch.no_grad():
            before.bias += spec.shift_factor * before.weight.sum(dim=(1, 2, 3))
            after.bias[: spec.channels] -= spec.shift_factor
        factor["shift_factor"] = 0.0
    net.register_to_config(**factor)
    return net


def scheduler(spec: GeneratorSpec) -> Any:
    """Without noise and variance: DDIM at the times that the grid `leading` picks, or Euler's method of order 1."""
    import diffusers

    if isinstance(spec.predicts, OfFlow):
        return diffusers.DPMSolverMultistepScheduler(
            num_train_timesteps=spec.predicts.steps,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=spec.time_shift,
            solver_order=1,
        )
    betas = {key: spec.scheduler[key] for key in BETAS if key in spec.scheduler}
    kind = {"epsilon": "epsilon", "v": "v_prediction"}[spec.predicts.predicts]
    return diffusers.DDIMScheduler(**betas, prediction_type=kind, clip_sample=False, timestep_spacing="leading")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 (could not be written) or 2 (bad input, nothing written)."""
    p = ToolParser("dit_pipeline", "A generator and its VAE -> a folder for DiTPipeline.from_pretrained of diffusers.")
    p.add_argument("generator", metavar="GENERATOR", help="directory as generator.path takes it")
    p.add_argument("vae", metavar="VAE", help="directory of the VAE that it was trained with")
    p.add_argument("out", type=Path, metavar="OUT", help="directory to write")

    def work(args: argparse.Namespace) -> Path:
        write(GeneratorSpec(args.generator), VaeSpec(args.vae), args.out)
        return Path(args.out)

    return p.carry(argv, work)


if __name__ == "__main__":
    sys.exit(main())
