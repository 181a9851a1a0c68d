"""Where and in what precision a network runs, from the configuration and what the machine has."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from raydistill.config import Pool
from raydistill.errors import BadInput


@dataclass(frozen=True)
class Placement:
    """`kind` names the device model: bytes are only comparable between equal kinds (DESIGN promise 5)."""

    device: torch.device
    dtype: torch.dtype
    kind: str


def place(pool: Pool) -> Placement:
    """Resolves device and dtype inside an actor, sets its threads. Falls back to the CPU unless cuda is demanded."""
    torch.set_num_threads(pool.threads)
    cuda = torch.cuda.is_available() and (pool.device == "cuda" or (pool.device == "auto" and pool.num_gpus > 0))
    if pool.device == "cuda" and not cuda:
        raise BadInput(
            "device=cuda was asked for, but this worker sees no CUDA device; use device=auto or reserve num_gpus"
        )
    dtype = {"auto": torch.bfloat16 if cuda else torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}[
        pool.dtype
    ]
    kind = torch.cuda.get_device_name() if cuda else f"cpu-{torch.backends.cpu.get_cpu_capability()}"
    return Placement(torch.device("cuda" if cuda else "cpu"), dtype, f"{kind}/{str(dtype).removeprefix('torch.')}")


def quiet_libraries() -> None:
    """Keeps model libraries from the network and from chatting."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
