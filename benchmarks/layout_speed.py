"""What the layout of networks that only look is worth on a CPU: channels beside each other against rows.

    python benchmarks/layout_speed.py --vae TAESD --out FILE

In one run on one thread, CPU seconds, medians: the VAE to latents, to images, and to images with the gradient back, as
learnability guidance asks for; each classifier of the project (untrained: weights change no time) to logits, and with
the gradient back. The first layout is PyTorch's default, the second models/device.py's LAYOUT.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from learnability_speed import median
from measure import machine, save, table
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raydistill import registry
from raydistill.models.checkpoint import packaged
from raydistill.models.device import LAYOUT

LAYOUTS = {"rows": torch.contiguous_format, "channels": LAYOUT}
DTYPES = (torch.float32, torch.bfloat16)


def forward(work: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    @torch.inference_mode()
    def call() -> object:
        return work(x)

    return call


def back(work: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    def call() -> object:
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_(True)
        return torch.autograd.grad(work(leaf).float().sum(), leaf)

    return call


def works(vae: str, size: int) -> dict[str, tuple[nn.Module, Callable[[Tensor], Tensor], Tensor]]:
    """Of each piece of work its network, what it does with a batch, and the batch."""
    from diffusers import AutoencoderTiny

    net = AutoencoderTiny.from_pretrained(vae)
    images = torch.rand(8, 3, size, size, generator=torch.Generator().manual_seed(0))
    latents = net.encode(images).latents.detach()
    pieces = {
        f"VAE, {size} px, to latents": (net, lambda x: net.encode(x).latents, images),
        f"VAE, {size} px, to images": (net, lambda z: net.decode(z).sample, latents),
    }
    for name, side in (("efficientnet_lite0", size), ("squeezenet1_0", size), ("resnet56_cifar10", 32)):
        judge = registry.get("classifier", name)(10)
        pieces[f"{name}, {side} px"] = (judge, judge, images[..., :side, :side])
    return pieces


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--vae", default=packaged("vae"), help="diffusers directory of an AutoencoderTiny")
    p.add_argument("--image-size", type=int, default=128)
    p.add_argument("--repeat", type=int, default=5)
    p.add_argument("--out", type=Path, default=None, help="also write NAME.json and NAME.md")
    args = p.parse_args(argv)
    torch.set_num_threads(1)
    load, cells, seconds = os.getloadavg()[0], [], {}
    for name, (net, work, batch) in works(str(args.vae), args.image_size).items():
        net.eval().requires_grad_(False)
        for gradient in (False, True) if "to latents" not in name else (False,):
            took = {}
            for dtype in DTYPES:
                for layout, memory in LAYOUTS.items():
                    net.to(dtype).to(memory_format=memory)
                    x = batch.to(dtype).contiguous(memory_format=memory)
                    call = back(work, x) if gradient else forward(work, x)
                    took[dtype, layout] = median(call, args.repeat, lambda: None)[1] / len(batch)
            what = name + (" and back" if gradient else "")
            seconds[what] = {f"{str(d).removeprefix('torch.')}, {layout}": s for (d, layout), s in took.items()}
            ratios = [f"{took[d, 'rows'] / took[d, 'channels']:.2f} x" for d in DTYPES]
            ms = [f"{1000 * took[d, layout]:.2f}" for d in DTYPES for layout in LAYOUTS]
            cells.append([what, *ms[:2], ratios[0], *ms[2:], ratios[1]])
    head = ["CPU ms an image", "float32, rows", "channels", "", "bfloat16, rows", "channels", ""]
    print(f"One thread, load {load:.1f} at the start.\n")
    if args.out is None:
        print(table(head, cells))
    else:
        save(args.out, {"seconds": seconds, "load": load, "machine": machine()}, table(head, cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
