"""verify beside a run that works: what it leaves at any moment is no fault."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from artifacts import at
from spoil import STAGE, commit, cut, data, findings, manifest, small_run, told

from raydistill import cli
from raydistill.store import inspection, seals
from raydistill.store.claims import hold
from raydistill.store.findings import Kind
from raydistill.store.location import Location

AGAIN_S = inspection.AGAIN_S


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "AGAIN_S", 0.0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return small_run(tmp_path / "run")


class TestWorkInProgress:
    """What a run that works leaves at any moment is no fault, and the exit code says so."""

    def test_a_stage_without_a_manifest(self, run: Path) -> None:
        manifest(run).unlink()
        commit(run, "c").unlink()
        assert told(run) == [("unfinished", STAGE), ("left over", data(run, "c").relative_to(run).as_posix())]
        assert cli.main(["verify", str(run)]) == 0

    def test_the_beginning_of_a_commit(self, run: Path) -> None:
        manifest(run).unlink()
        cut(commit(run, "c"))
        kinds = [kind for kind, _ in told(run)]
        assert kinds == ["left over", "unfinished", "left over"]

    def test_a_file_whose_seal_comes_while_it_is_looked_at(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = Location.of(str(run))
        (run / "result.json").write_text('{"a": 1}')
        assert told(run) == [("damaged", "result.json")]
        monkeypatch.setattr(inspection.time, "sleep", lambda s: seals.write(root, "result.json", b'{"a": 1}'))
        assert told(run) == []

    def test_a_driver_at_work_may_stand_still_between_a_file_and_its_seal(
        self, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root, looks = Location.of(str(run)), list[float]()

        def sleeps(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 5:
                seals.write(root, "result.json", b'{"a": 1}')

        monkeypatch.setattr(inspection.time, "sleep", sleeps)
        (run / "result.json").write_text('{"a": 1}')
        with hold(root, "run_dir", "0" * 16):
            assert told(run) == [] and len(looks) == 5
        (run / "result.json").write_text('{"a": 2}')
        assert told(run) == [("damaged", "result.json")] and len(looks) == 6, "of a run that nobody works on at once"
        with hold(root, "run_dir", "0" * 16):
            assert told(run) == [("damaged", "result.json")], "damage stays"

    def test_a_manifest_that_is_being_written(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = manifest(run).read_bytes()
        cut(manifest(run))
        monkeypatch.setattr(inspection.time, "sleep", lambda s: manifest(run).write_bytes(whole))
        assert told(run) == []

    def test_a_run_that_works_is_never_called_damaged(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inspection, "AGAIN_S", AGAIN_S)
        busy, keys = at(run, "fedcba9876543210"), [f"key-{i:03d}" for i in range(60)]
        unfinished = threading.Event()

        def work_on() -> None:
            with hold(Location.of(str(run)), "run_dir", "0" * 16):
                for n, key in enumerate(keys):
                    busy.commit(key, b"x" * n, rows=1, device="cpu")
                    seals.write(Location.of(str(run)), "result.json", key.encode())
                unfinished.wait(60)  # a look that began before the first commit may last until here
                busy.seal(keys)

        worker = threading.Thread(target=work_on)
        worker.start()
        faults = []
        while worker.is_alive():
            found = findings(run)
            faults += [str(f) for f in found if f.is_fault]
            if any(f.kind is Kind.UNFINISHED for f in found):
                unfinished.set()
        assert faults == [] and unfinished.is_set() and findings(run) == []

    def test_one_kind_of_device_that_disagrees_with_itself_is_a_fault(self, run: Path) -> None:
        manifest(run).unlink()
        at(run).commit("a", b"other bytes", rows=3, device="cpu")
        faults = [f for f in findings(run) if f.is_fault]
        assert len(faults) == 1 and "was computed twice on 'cpu' with different bytes" in faults[0].what
