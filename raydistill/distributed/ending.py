"""Ray ended in a process that lives on."""

from __future__ import annotations

import gc

import ray


def shutdown() -> None:
    """`ray.shutdown()`, while Python collects no garbage.

    While Ray's native part goes down Python's other threads run, and in whichever of them the collector comes by, it
    drops what lies in cycles: a reference of Ray's, say, that a caught exception holds with its frames. Ray would give
    it back to what is gone by then, and ends the process for that, by exit code 1 and without a word (its `QuickExit`).
    """
    if ray.is_initialized():
        gc.collect()  # while it can still be given back
    collects = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if collects:
            gc.enable()
