"""Named points at which a write can be interrupted, so that tests can stop a run exactly there.

`RAYDISTILL_FAULT="stage:point:key:token"` SIGKILLs the process that reaches the point while the file `token` exists
(it is removed first, so the fault fires once). `key` may be `*`; several faults are separated by `;`. Besides the
artifacts' stages there are `distilled` and `report`, whose keys are file names. In-process tests set `hook` instead.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

POINTS = ("before_write", "before_commit", "after_commit", "before_manifest", "after_manifest")

hook: Callable[[str, str, str], None] | None = None


def reach(stage: str, point: str, key: str) -> None:
    """Called by the store at each point; does nothing unless a test asked for a fault here."""
    if hook is not None:
        hook(stage, point, key)
    for spec in filter(None, os.environ.get("RAYDISTILL_FAULT", "").split(";")):
        want_stage, want_point, want_key, token = spec.split(":", 3)
        if (stage, point) == (want_stage, want_point) and want_key in ("*", key) and _take(token):
            os.kill(os.getpid(), signal.SIGKILL)


def _take(token: str) -> bool:
    try:
        os.unlink(token)
    except FileNotFoundError:
        return False
    return True
