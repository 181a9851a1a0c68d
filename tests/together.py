"""Side by side (`-n 2`): which tests one process has, and in which order they are taken. Hooks of conftest.py."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadGroupScheduling, LoadScopeScheduling

READERS = "raydistill/readers"  # in pytest's cache: who schedules knows node ids only, who collects knows fixtures


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


@pytest.hookimpl(trylast=True)  # after -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """First the files that read the run of `reference`, then what else starts Ray: it takes longest, and nothing waits
    for it in the end."""
    if not hasattr(config, "workerinput"):
        return
    readers = {file_of(i.nodeid) for i in items if "watched_reference" in getattr(i, "fixturenames", ())}
    on_ray = {file_of(i.nodeid) for i in items if i.get_closest_marker("ray")}
    items.sort(key=lambda i: (file_of(i.nodeid) not in readers, file_of(i.nodeid) not in on_ray))
    if config.workerinput["workerid"] == "gw0" and hasattr(config, "cache"):
        config.cache.set(READERS, sorted(readers))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """`-n 2` is enough. With slow tests, hours of one file, a process takes test by test."""
    if config.option.dist != "load":
        return None
    config.option.loadscopereorder = False
    return (ByFile if "not slow" in config.option.markexpr else LoadGroupScheduling)(config, log)


class ByFile(LoadScopeScheduling):
    """The next free process takes the next file: what a file's tests share is made once. So is the run of `reference`,
    a minute of work: one process has every file that reads it."""

    def schedule(self) -> None:
        if self.collection is None:  # at first: every process has collected
            cache = getattr(self.config, "cache", None)
            self.readers = set(cache.get(READERS, []) if cache else [])
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return "reference" if file_of(nodeid) in self.readers else file_of(nodeid)
