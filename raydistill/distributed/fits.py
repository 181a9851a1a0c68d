"""A Ray Train fit that is waited for: in the main thread Ray would take Ctrl-C over, and nothing could end the wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import ray


def fit(trainer: Any, probe: Callable[[], None], every_s: float) -> Any:
    """What the trainer's fit returns or raises. `probe` is called every so many seconds, and once when it has ended.

    If `probe` raises, or Ctrl-C does, Ray is ended and the fit with it: its workers would hold what they have for ever.
    """
    outcome: Future[Any] = Future()
    threading.Thread(target=_run, args=(trainer, outcome), daemon=True, name="fit").start()
    try:
        while not wait([outcome], every_s).done:
            probe()
    except BaseException:
        ray.shutdown()
        raise
    probe()
    return outcome.result()


def _run(trainer: Any, outcome: Future[Any]) -> None:
    try:
        outcome.set_result(trainer.fit())
    except BaseException as e:  # handed to the thread that waits, whatever it is
        outcome.set_exception(e)
