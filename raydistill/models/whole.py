"""Folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from raydistill.errors import BadInput, StageFailed, one_line


def check_free(out: Path) -> None:
    """Raises BadInput for a folder that holds anything."""
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out} is there already; give a folder that is not, or an empty one")


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write to, which takes its name when the block has ended. Raises StageFailed."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        try:
            yield unfinished
            unfinished.chmod(0o755)
            os.replace(unfinished, out)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except (OSError, SafetensorError) as e:
        raise StageFailed(f"{out} cannot be written: {one_line(e)}; make room or choose another place") from None
