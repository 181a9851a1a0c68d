"""Side by side (`-n 2`): which tests one process has, in which order they are taken, and what becomes of a run of which
a process dies. Hooks of conftest.py."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadGroupScheduling, LoadScopeScheduling

READERS = "raydistill/readers"  # in pytest's cache: who schedules knows node ids only, who collects knows fixtures
ENDED_S = 10.0  # how long a process that has closed its pipe may take to be gone


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


@pytest.hookimpl(tryfirst=True)  # before xdist reads it
def pytest_configure(config: pytest.Config) -> None:
    """A process that died is not replaced: xdist 3.8 hands a new one a single test, and it waits for a second for ever
    (pytest-xdist 1327, 1378)."""
    if getattr(config.option, "maxworkerrestart", "") is None:
        config.option.maxworkerrestart = "0"


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Says how a process died: Ray's native code may have ended it without a word, or the kernel. The run has failed
    then, also if the process was at no test: xdist would end it by exit code 0."""
    if not error:
        return
    manager = node.config.pluginmanager
    manager.getplugin("session").testsfailed += 1
    if terminal := manager.getplugin("terminalreporter"):
        terminal.write_line(f"[{node.gateway.id}] {how_it_ended(node)}")


def how_it_ended(node: Any) -> str:
    process = getattr(getattr(node.gateway, "_io", None), "popen", None)
    try:
        code = process.wait(ENDED_S)
    except Exception:  # not a process of ours, or it only closed its pipe
        return "how it ended is not known"
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    """`-n 2` is enough. With slow tests, hours of one file, a process takes test by test."""
    if config.option.dist != "load":
        return None
    config.option.loadscopereorder = False
    return (ByFile if "not slow" in config.option.markexpr else ByTest)(config, log)


class UntilOneDies(LoadScopeScheduling):
    """A process that died ends the run, with the name of the test it was at: the others finish what they are at, begin
    at most one more, which they know of already, and none of them is given that test."""

    def remove_node(self, node: Any) -> str | None:
        units = self.assigned_work.pop(node)
        at = next((test for unit in units.values() for test, done in unit.items() if not done), None)
        if at is not None:
            self.workqueue.clear()
            for other, units in self.assigned_work.items():
                indices = {test: i for i, test in enumerate(self.registered_collections[other])}
                for test in [test for unit in units.values() for test, done in unit.items() if not done]:
                    with contextlib.suppress(OSError):  # it has died, too
                        other.send_steal([indices[test]])  # each by itself: of several, all or none are given back
        return at

    def remove_pending_tests_from_node(self, node: Any, indices: Sequence[int]) -> None:
        """Those that it gave back."""
        for test in (self.registered_collections[node][i] for i in indices):
            del self.assigned_work[node][self._split_scope(test)][test]


class ByTest(UntilOneDies, LoadGroupScheduling):
    """The next free process takes the next test."""


class ByFile(UntilOneDies):
    """The next free process takes the next file: what a file's tests share is made once. So is the run of `reference`,
    a minute of work: one process has every file that reads it."""

    def schedule(self) -> None:
        if self.collection is None:  # at first: every process has collected
            cache = getattr(self.config, "cache", None)
            self.readers = set(cache.get(READERS, []) if cache else [])
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return "reference" if file_of(nodeid) in self.readers else file_of(nodeid)
