"""Who listens to a run while it goes on, beside the terminal: its costs, news and log, and Ray's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from raydistill.distributed import metrics
from raydistill.outlook import Expected
from raydistill.progress import listening
from raydistill.results import costs, events, news
from raydistill.store.location import Location


@contextmanager
def heard(
    root: Location,
    expect: Callable[[], Sequence[Expected]] = tuple,
    title: str = "",
    price: float | None = None,
) -> Iterator[None]:
    """Within, whatever goes on in this thread is told to all of them.

    `expect` counts what the run has to do; `title` and `price` (of an hour of all machines) are news of it.
    """
    with (
        listening(costs.listener(root)),
        listening(metrics.listener(str(root))),
        news.reporting(root, expect, title, price),
        events.keeping(root),
    ):
        yield
