"""What went wrong in a worker, told in the words of the one who raised it."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Sequence

import torch

from raydistill.distributed.resources import section_of
from raydistill.errors import OutOfMemory, RaydistillError, StageFailed, one_line
from raydistill.redact import redact
from raydistill.store.location import Location

REMEDY = {
    "evaluate": "lower evaluate.width or evaluate.protocol.batch, or give a student more of a GPU by evaluate.num_gpus",
    "judge": "give it more of a GPU by sample.num_gpus, or none by sample.device=cpu",  # its batch is no setting
}
# By section: what makes fewer of its workers run side by side.
FEWER = {"evaluate": "evaluate.workers=1"} | {s: f"{s}.actors=1" for s in ("encode", "embed", "sample", "label")}
# So Ray says it of whatever it ends, with forty lines around it.
_ENDED_FOR_MEMORY = "due to the node running low on memory"
FULL_MEMORY = "the memory of its machine was full, and Ray ended it"


def cause(e: BaseException | None) -> RaydistillError | None:
    """The RaydistillError that a worker raised, found through Ray's wrappers; None for a death or a bug.

    A full GPU is OutOfMemory, in torch's own words.
    """
    seen = 0
    while e is not None and seen < 20:
        if isinstance(e, RaydistillError):
            inner = getattr(e, "cause", None)  # Ray's wrapper is of its cause's type, too, and all traceback
            return inner if isinstance(inner, RaydistillError) else e
        if isinstance(e, torch.OutOfMemoryError):
            inner = getattr(e, "cause", None) or e  # the wrapper, as above
            return OutOfMemory(f"out of memory: {one_line(inner).partition('. ')[0]}")
        e, seen = getattr(e, "cause", None) or e.__cause__ or e.__context__, seen + 1
    return None


def translate(e: BaseException, stage: str) -> RaydistillError:
    """A worker's own error as it was raised; a death or a bug as StageFailed with its last line."""
    ours = cause(e)
    if type(ours) is OutOfMemory:
        return OutOfMemory(f"{stage}: {ours}; {REMEDY.get(stage, f'lower {section_of(stage)}.batch')}")
    if ours is not None:
        return type(ours)(*ours.args[:1])
    said = last_line(e)
    return StageFailed(f"{stage}: a worker failed: {said}; the traceback is in logs/error.txt; {again(stage, [said])}")


def again(stage: str, failures: Sequence[str]) -> str:
    """What to do about failed workers of a stage, told by what was said of each (`last_line`)."""
    setting = FEWER.get(section_of(stage)) if FULL_MEMORY in failures else None
    return "run the same command again (finished work is kept)" + (
        f", with fewer at once: {setting}" if setting else ""
    )


def last_line(error: BaseException) -> str:
    """What an error says in the end, which is what went wrong; of a worker that Ray ended for memory, that."""
    if _ENDED_FOR_MEMORY in str(error):
        return FULL_MEMORY
    text = [line for line in str(error).strip().splitlines() if line.strip()]
    return one_line(text[-1]) if text else type(error).__name__


def keep_traceback(root: Location) -> None:
    """Leaves the whole story of a failure in logs/error.txt; the user is told one line."""
    with contextlib.suppress(StageFailed):  # the disk may be what is full
        (root / "logs" / "error.txt").write(redact(traceback.format_exc()).encode())
