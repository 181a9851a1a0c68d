"""Two drivers on one run directory: the same configuration may, another one is told, the dead hold nothing back."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from object_store import endpoint
from running import ROOT, environment

from raydistill.errors import BadInput, StageFailed
from raydistill.store import claims, processes
from raydistill.store.claims import ASKING, FOLDER, WORKING, hold
from raydistill.store.location import Location

ONE, OTHER = "1" * 64, "2" * 64
ELSEWHERE = "0123456789ab-17-4711"  # a process of a machine that is not this one


def refused(root: Location, config: str = OTHER, alone: bool = False) -> str:
    with pytest.raises(BadInput) as caught, hold(root, "run_dir", config, alone):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left_by(root: Location, process: str, seconds_ago: float = 0, state: str = WORKING) -> Path:
    file = Path(root.uri, FOLDER, f"{ONE[:16]}~{process}~00000000.{state}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"host": "far", "pid": 17, "since": 0.5}')
    os.utime(file, (time.time() - seconds_ago,) * 2)
    return file


@pytest.fixture
def root(tmp_path: Path) -> Location:
    return Location.of(str(tmp_path / "run"))


def test_another_configuration_is_told_who_works_there_and_leaves_nothing(root: Location) -> None:
    with hold(root, "run_dir", ONE):
        before = sorted((root / FOLDER).list())
        text = refused(root)
        assert f"process {os.getpid()}, since 20" in text and f"{root} is in use by another configuration" in text
        assert "wait until it ends, stop it, or give another run_dir" in text
        assert (root / FOLDER).list() == before
    with hold(root, "run_dir", OTHER):
        pass
    assert not Path(root.uri, FOLDER).exists()


def test_the_same_configuration_may_work_twice_unless_it_must_be_alone(root: Location) -> None:
    with hold(root, "run_dir", ONE), hold(root, "run_dir", ONE):
        assert "in use by another configuration" in refused(root)
        assert "in use by another run of this training" in refused(root, ONE, alone=True)


def test_who_was_killed_on_this_machine_is_forgotten_at_once(root: Location) -> None:
    program = (
        "import sys, time; from raydistill.store.claims import *\n"
        f"with hold(Location.of(sys.argv[1]), 'run_dir', {ONE!r}): print('on', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, root.uri]
    driver = subprocess.Popen(command, env=environment(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None and driver.stdout.readline() == "on\n"
    assert f"process {driver.pid}" in refused(root)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    with hold(root, "run_dir", OTHER):
        assert all(OTHER[:16] in name for name in (root / FOLDER).list())


@pytest.mark.parametrize("state", [ASKING, WORKING])
def test_who_is_not_heard_of_from_another_machine_lapses(root: Location, state: str) -> None:
    left_by(root, ELSEWHERE, claims.LAPSE_S + 5, state)
    with hold(root, "run_dir", OTHER):
        assert all(OTHER[:16] in name for name in (root / FOLDER).list())


def test_who_is_heard_of_from_another_machine_is_named(root: Location) -> None:
    left_by(root, ELSEWHERE, claims.LAPSE_S / 2)
    assert "host far, process 17, since 1970-01-01 00:00:00 UTC" in refused(root)
    assert f"forgotten after {claims.LAPSE_S:g} s" in refused(root)


def test_a_process_of_this_machine_that_was_asleep_is_not_forgotten(root: Location) -> None:
    left_by(root, processes.mark(), 10 * claims.LAPSE_S)
    assert "host far" in refused(root)


def test_who_asks_first_by_name_waits_for_the_other_to_leave(root: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    file = left_by(root, ELSEWHERE, state=ASKING)
    assert "in use" in refused(root)  # 2 comes after 1
    file.rename(file.with_name(file.name.replace(ONE[:16], "3" * 16)))
    monkeypatch.setattr(claims, "WAIT_S", 0.001)
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            next(Path(root.uri, FOLDER).glob("3*")).unlink()

    monkeypatch.setattr(claims.time, "sleep", sleep)
    with hold(root, "run_dir", OTHER):
        assert len(waits) == 3


def test_of_many_at_the_same_moment_all_that_work_agree(root: Location) -> None:
    """No two configurations at work together, ever; and not all are sent away."""
    lock, at_work, seen = threading.Lock(), list[str](), list[set[str]]()

    def attempt(config: str, start: threading.Barrier) -> None:
        start.wait()
        try:
            with hold(root, "run_dir", config):
                with lock:
                    at_work.append(config)
                    seen.append(set(at_work))
                time.sleep(0.01)
                with lock:
                    at_work.remove(config)
        except BadInput:
            pass

    for round_ in range(30):
        before, start = len(seen), threading.Barrier(6)
        threads = [threading.Thread(target=attempt, args=(str(i % 3) * 64, start)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen) > before, round_
    assert all(len(configs) == 1 for configs in seen)


def test_who_was_taken_for_dead_is_told_before_it_writes_on(root: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.01)
    with hold(root, "run_dir", ONE) as claim:
        claim.check()
        for name in (root / FOLDER).list():
            (root / FOLDER / name).delete()
        assert claim.lost.wait(10)
        with pytest.raises(StageFailed, match="taken over"):
            claim.check()


def test_it_is_heard_of_as_long_as_it_works(root: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.01)
    with hold(root, "run_dir", ONE):
        (file,) = Path(root.uri, FOLDER).glob(f"*.{WORKING}")
        os.utime(file, (1, 1))
        while file.stat().st_mtime < 2:
            time.sleep(0.01)


def test_on_an_object_store_by_the_same_rules() -> None:
    with endpoint() as store:
        root = Location.of(store.folder())
        with hold(root, "run_dir", ONE):
            assert re.search(r"process \d+, since 20", refused(root))
            with hold(root, "run_dir", ONE):
                pass
        with hold(root, "run_dir", OTHER):
            pass
        assert (root / FOLDER).list() == []


def test_a_role_that_may_not_remove_what_it_wrote_ends_well(root: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Location) -> None:
        raise StageFailed(f"cannot remove {self.uri}: access denied")

    monkeypatch.setattr(Location, "delete", denied)
    with hold(root, "run_dir", ONE):
        pass
