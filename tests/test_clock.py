"""A clock that is wrong: no byte is of a time, and what came first is asked of the store."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from tiny_run import STAGES, TinyRun, watched

DAY_S = 86_400


def test_wrong_clocks_change_no_byte_and_cost_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the run three days ahead, half of it three behind; then every file is of another day."""
    whole = TinyRun(tmp_path / "whole").finish()
    run, clock, days = TinyRun(tmp_path / "run"), time.time, iter([3, -3] * len(STAGES))
    for name in STAGES:
        ahead = next(days) * DAY_S
        monkeypatch.setattr(time, "time", lambda ahead=ahead: clock() + ahead)
        assert run.finish([name])[name] == whole[name]
    days_off = random.Random(0)
    for path in (tmp_path / "run").rglob("*"):
        at = clock() + days_off.randint(-3, 3) * DAY_S
        os.utime(path, (at, at))
    for manifest in (tmp_path / "run").glob("*/*/manifest.json"):
        manifest.unlink()
    for name in STAGES:
        outcome, calls = watched(run.stage(name))
        assert outcome.manifest == whole[name] and calls.finished == []
