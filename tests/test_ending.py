"""Ray ended while the process lives on: nothing of Ray's is dropped by the collector while Ray goes down."""

from __future__ import annotations

import gc
import weakref

import pytest
import ray

from raydistill.distributed import ending


class Reference:
    """In a cycle, as what a caught exception holds with its frames."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize("collects", [True, False])
def test_what_lies_in_cycles_is_dropped_before_and_nothing_meanwhile(
    collects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, meanwhile = weakref.ref(Reference()), []

    def shutdown() -> None:
        assert before() is None
        meanwhile.append(gc.isenabled())
        raise RuntimeError("it went down otherwise")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", shutdown)
    if not collects:
        gc.disable()
    try:
        with pytest.raises(RuntimeError):
            ending.shutdown()
        assert meanwhile == [False] and gc.isenabled() is collects, "afterwards it is as it was"
    finally:
        gc.enable()
