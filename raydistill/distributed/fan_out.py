"""Calls that a unit of work hands on, as Ray tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import ray

from raydistill.distributed.resources import SCHEDULING


@cache
def _remote(function: Callable[..., Any]) -> Any:
    """Sent to the cluster once, not with every pass over the points."""
    return ray.remote(function)


def over_tasks(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], num_cpus: float, helpers: int = 0
) -> Iterator[Any]:
    """function(*call) for every call, in order. Called within a task, whose CPU Ray lends out while it waits.

    At most so many `helpers` are out at once; 0 = as many as the cluster has room for, and as many again.
    """
    remote = _remote(function).options(num_cpus=num_cpus, max_retries=3, scheduling_strategy=SCHEDULING)
    ahead = helpers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting, running = deque(calls), deque[Any]()
    while waiting or running:
        while waiting and len(running) < ahead:
            running.append(remote.remote(*waiting.popleft()))
        yield ray.get(running.popleft())
