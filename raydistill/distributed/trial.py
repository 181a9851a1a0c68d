"""A trial of Ray Tune as it runs on a worker: it waits for what the driver measures of it, and reports that.

Nothing else is imported here, so that a worker which only waits starts fast.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray


@ray.remote(num_cpus=0)
class ResultDesk:
    """Where trials wait for their results, by their ids."""

    def __init__(self) -> None:
        self.results: dict[str, asyncio.Future[dict[str, Any]]] = {}

    def _of(self, trial_id: str) -> asyncio.Future[dict[str, Any]]:
        if trial_id not in self.results:
            self.results[trial_id] = asyncio.get_running_loop().create_future()
        return self.results[trial_id]

    async def put(self, trial_id: str, result: dict[str, Any]) -> None:
        self._of(trial_id).set_result(result)

    async def wait(self, trial_id: str) -> dict[str, Any]:
        return await self._of(trial_id)


def trial(values: dict[str, Any], board: Any) -> None:
    """What each trial runs; its values travel with it and are the driver's business."""
    from ray import tune

    tune.report(ray.get(board.wait.remote(tune.get_context().get_trial_id())))
