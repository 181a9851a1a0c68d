"""Where a training goes on from: the newest of its checkpoints that is whole."""

from __future__ import annotations

from pathlib import Path

from raydistill.errors import StageFailed
from raydistill.pretraining.trainer import Trainer

STATE = "state.pt"
FOLDERS = "checkpoint_*"  # as Ray Train names them, by their time


def restore(trainer: Trainer, newest: Path) -> str:
    """Loads what lies in `newest`, or in another checkpoint beside it, the latest first; a line if it is one of those.

    Raises StageFailed where none can be read: then the training can only begin anew. Ray's record names each of the
    folders, so that one of them alone must not go.
    """
    others = sorted((f for f in newest.parent.glob(FOLDERS) if f.name != newest.name), reverse=True)
    first: StageFailed | None = None
    for folder in (newest, *others):
        try:
            trainer.load(folder / STATE)
        except StageFailed as e:
            first = first or e
        else:
            return f"{first}; another one beside it is whole" if first else ""
    raise StageFailed(f"{first}, and no other one beside it; remove {newest.parent}: the training begins anew")
