"""Nodes that are about to go: each is said once, with the time that is left, and known by its id."""

from __future__ import annotations

import time

import pytest

from raydistill.distributed import leaving, runtime
from raydistill.distributed.leaving import Leaving


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_local", False)
    monkeypatch.setattr(leaving, "PROBED_EVERY_S", 0.0)


def test_each_is_said_once(joined: None, capsys: pytest.CaptureFixture[str]) -> None:
    nodes: dict[str, int] = {}
    leaves = Leaving("sample", "it ends", lambda: nodes)
    assert not leaves.has("10.0.0.1/abc")
    nodes |= {"abc": int(1000 * (time.time() + 3600)), "0123456789abcdef": 0}
    assert leaves.has("10.0.0.1/abc") and leaves.has("10.0.0.2/0123456789abcdef") and not leaves.has("10.0.0.3/def")
    leaves.probe()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "node abc is about to go in 3" in said[0] and said[0].endswith(" s: it ends")
    assert said[1].endswith("node 0123456789ab is about to go: it ends")


def test_a_private_cluster_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_local", True)
    leaves = Leaving("sample", "it ends", lambda: pytest.fail("nobody takes its node away"))
    assert not leaves.has("10.0.0.1/abc")
