"""Folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from raydistill.errors import BadInput, StageFailed, one_line
from raydistill.store import unfinished


def check_free(out: Path) -> None:
    """Raises BadInput for a folder that holds anything."""
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} is there already; give a folder that is not, or an empty one")


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write to, which takes its name when the block has ended. Raises StageFailed.

    What one that was killed has left there is removed first.
    """
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished.sweep(out)
        folder = unfinished.beside(out)
        folder.mkdir(0o700)
        try:
            yield folder
            folder.chmod(0o755)
            os.replace(folder, out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except (OSError, SafetensorError) as e:
        raise StageFailed(f"{out} cannot be written: {one_line(e)}; make room or choose another place") from None
