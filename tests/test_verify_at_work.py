"""verify beside a run that works: what it leaves at any moment is no fault."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from artifacts import at, content
from spoil import STAGE, commit, cut, data, findings, manifest, small_run, told

from raydistill import cli
from raydistill.errors import BadInput
from raydistill.pipeline.verify import mend
from raydistill.store import inspection, seals
from raydistill.store.claims import hold
from raydistill.store.findings import Kind
from raydistill.store.location import Location
from raydistill.store.rundir import PROBE, RunDir

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


class TestMendingBesideWork:
    """What --repair takes away is of no use when it goes, and not only when it was looked at."""

    def test_data_that_were_committed_since_they_were_looked_at_stay(self, run: Path) -> None:
        manifest(run).unlink()
        commit(run, "c").unlink()
        before = findings(run)
        assert any(f.drop for f in before)
        at(run).commit("c", content("c"), rows=3, device="cpu")
        mend(before)
        assert data(run, "c").exists() and [f.kind for f in findings(run)] == [Kind.UNFINISHED]

    def test_what_was_written_whole_since_it_was_looked_at_stays(self, run: Path) -> None:
        for file in (manifest(run), commit(run), data(run)):
            whole = file.read_bytes()
            cut(file)
            before = findings(run)
            file.write_bytes(whole)
            mend(before)
            assert findings(run) == [], file.name

    def test_what_another_run_is_just_writing_in_shared_artifacts_stays(self, run: Path, tmp_path: Path) -> None:
        shared = tmp_path / "shared"
        RunDir(str(shared)).claim()
        shutil.move(run / "encode", shared / "encode")
        seals.write(Location.of(str(run)), "config.yaml", f"artifact_dir: {shared}\n".encode())
        manifest(shared).unlink()
        commit(shared, "c").unlink()
        cut(commit(shared, "b"))
        (shared / f"{PROBE}abc").write_text("secret")
        unnamed = [data(shared, "b"), data(shared, "c"), commit(shared, "b"), shared / f"{PROBE}abc"]
        for place in (run, shared):
            mend(findings(place))
            assert all(file.exists() for file in unnamed)
        for file in unnamed:
            os.utime(file, (time.time() - inspection.YOUNG_S - 60,) * 2)
        mend(findings(run))
        assert not any(file.exists() for file in unnamed) and data(shared).exists()

    def test_a_run_that_somebody_works_on_is_not_even_looked_at(
        self, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (run / "result.json").write_text("spoiled")
        with hold(Location.of(str(run)), "run_dir", "0" * 16):
            assert cli.main(["verify", str(run), "--repair"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and "is in use by another configuration" in err

    def test_nobody_begins_to_work_while_it_looks(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        refused = list[str]()

        def begin(seconds: float) -> None:
            with pytest.raises(BadInput) as refusal, hold(Location.of(str(run)), "run_dir", "0" * 16):
                pass
            refused.append(str(refusal.value))

        seals.write(Location.of(str(run)), "config.yaml", b"ipc: 2\n", copy="ipc: 2\n")
        (run / "config.yaml").write_text("ipc: 3\n")
        monkeypatch.setattr(inspection.time, "sleep", begin)
        assert cli.main(["verify", str(run), "--repair"]) == 0
        assert len(refused) == 1 and "is in use by another configuration" in refused[0]
        assert (run / "config.yaml").read_text() == "ipc: 2\n"
