"""Where and in what precision a network runs, from the configuration and what the machine has."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

import torch

from raydistill.config import Pool
from raydistill.errors import BadInput
from raydistill.store.artifact import INEXACT

# Of networks that only look: channels beside each other. On a GPU cuDNN's fast kernels want it; on a CPU oneDNN then
# reorders nothing between layers: 1.5 to 1.7 times as fast for TAESD in float32 (benchmarks/layout_speed.py).
LAYOUT = torch.channels_last


@dataclass(frozen=True)
class Placement:
    """`kind` names the device model: bytes are only comparable between equal kinds."""

    device: torch.device
    dtype: torch.dtype
    kind: str


def placement(pool: Pool) -> Placement:
    """Resolves device and dtype inside an actor, sets its threads. Raises BadInput as `on_cuda` does."""
    torch.set_num_threads(pool.threads)
    cuda = on_cuda(pool.device, pool.num_gpus)
    dtype = {"auto": torch.bfloat16 if cuda else torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}[
        pool.dtype
    ]
    name = str(dtype).removeprefix("torch.")
    return Placement(torch.device("cuda" if cuda else "cpu"), dtype, f"{device_kind(cuda)}/{name}")


def on_cuda(device: str, num_gpus: float) -> bool:
    """Whether this worker computes on CUDA: what is asked for, or with `auto` the GPU that it has reserved.

    Raises BadInput if torch sees no CUDA device where one is expected: hours on the CPU are no silent replacement.
    """
    if device == "cpu" or (device == "auto" and num_gpus == 0):
        return False
    if not torch.cuda.is_available():
        requested = "device=cuda was asked for" if device == "cuda" else f"num_gpus={num_gpus:g} is reserved"
        raise BadInput(
            f"{requested}, but torch {torch.__version__} sees no CUDA device on {platform.node()}; install torch "
            "with CUDA and the driver there, or set the stage's device, such as sample.device=cpu"
        )
    return True


def halves(dtype: str, device: torch.device) -> bool:
    """Whether a network in training computes in bfloat16: if that is asked for, and with `auto` on a GPU."""
    return dtype == "bfloat16" or (dtype == "auto" and device.type == "cuda")


def mixed(dtype: str, device: torch.device) -> torch.autocast:
    """The context in which a network in training computes. Weights, their gradients and all else stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=halves(dtype, device))


def device_kind(cuda: bool) -> str:
    """The device's model."""
    return torch.cuda.get_device_name() if cuda else f"cpu-{torch.backends.cpu.get_cpu_capability()}"


def inexact(kind: str) -> dict[str, bool]:
    """What is said of bytes that a training made: the sums of gradients on a GPU come in any order."""
    return {} if kind.startswith("cpu") else {INEXACT: True}


def quiet_libraries() -> None:
    """Keeps model libraries from the network and from chatting."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
