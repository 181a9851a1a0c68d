"""A Ray Train fit that is waited for: in the main thread Ray would take Ctrl-C over, and nothing could end the wait."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from raydistill.distributed import ending

PLACED_S = 300.0  # longest wait for a place of each worker, as long as a machine takes that replaces a lost one
_PLACED_S = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"  # which Ray Train reads as a fit begins


class Unplaced(Exception):
    """Not all workers of a fit found a place, or, `died`, one ended as it started: whoever called may size it anew."""

    def __init__(self, died: bool) -> None:
        super().__init__("a worker died as it started" if died else "no place for all workers")
        self.died = died


def fit(trainer: Any, probe: Callable[[], None], every_s: float, placed_s: float) -> Any:
    """What the trainer's fit returns or raises. `probe` is called every so many seconds, and once when it has ended.

    If `probe` raises, or Ctrl-C does, Ray is ended and the fit with it: its workers would hold what they have for ever.
    Raises Unplaced, when the places of all workers are not there for `placed_s` and Ray Train is to try no more.
    """
    outcome: Future[Any] = Future()
    os.environ[_PLACED_S] = str(placed_s)
    threading.Thread(target=run, args=(trainer, outcome), daemon=True, name="fit").start()
    try:
        while not wait([outcome], every_s).done:
            probe()
    except BaseException:
        ending.shutdown()
        raise
    probe()
    return _result(outcome)


def _result(outcome: Future[Any]) -> Any:
    from ray.train import ControllerError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError

    try:
        return outcome.result()
    except ControllerError as e:
        why = e.controller_failure
        if isinstance(why, WorkerGroupStartupFailedError | WorkerGroupStartupTimeoutError):
            raise Unplaced(isinstance(why, WorkerGroupStartupFailedError)) from e
        raise


def run(trainer: Any, outcome: Future[Any]) -> None:
    """Fits a trainer or tuner of Ray for whoever waits for the outcome."""
    try:
        outcome.set_result(trainer.fit())
    except BaseException as e:  # handed to the thread that waits, whatever it is
        outcome.set_exception(e)
