"""Where the decoded images of a split lie: in memory, or, if they are many, in a file that is mapped into it.

Nothing that is computed from them depends on it: it is part of no fingerprint.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile

import numpy as np
import torch

from raydistill import machine
from raydistill.config import EvaluateConfig
from raydistill.errors import StageFailed

SHARE = 4  # training and test images take half of a machine at most; networks and other programs have the rest


def most(e: EvaluateConfig, workers: int = 1) -> int:
    """Bytes of a split that lies in memory at most, of each of so many `workers` on this machine.

    A part in SHARE of what the machine has for a worker, and, where students are trained on its GPU, of that one's.
    """
    have = machine.memory() / workers
    if torch.cuda.is_available() and (e.num_gpus or e.device == "cuda"):
        gpu = torch.cuda.get_device_properties(0).total_memory
        have = min(have, gpu * min(1.0, e.num_gpus or 1 / workers))
    return int(have / SHARE)


def size(images: int, side: int) -> int:
    """Bytes of so many images of side x side pixels."""
    return 3 * images * side**2


def disk() -> int:
    """Bytes that are free where a file would lie."""
    return shutil.disk_usage(tempfile.gettempdir()).free


def room(images: int, side: int, most: int | None = None) -> np.ndarray:
    """For so many images: (images, 3, side, side) uint8, with anything in it; a np.memmap above `most` bytes.

    The file lies in the system's folder for temporary ones (TMPDIR) and has no name, so that however the process ends
    nothing is left of it. Raises StageFailed where the disk lacks the bytes.
    """
    shape, need = (images, 3, side, side), size(images, side)
    if most is None or need <= most:
        return np.empty(shape, np.uint8)
    try:
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, need)  # a disk that is full when a page is written ends the process
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as e:
        where = tempfile.tempdir or "the folder for temporary files"
        raise StageFailed(
            f"evaluate: {images} decoded images of {side} px take a file of {need / 1e6:,.0f} MB in {where} of "
            f"{platform.node()}: {e.strerror}; set TMPDIR to a folder of a larger disk, or lower "
            "evaluate.protocol.image_size"
        ) from e
