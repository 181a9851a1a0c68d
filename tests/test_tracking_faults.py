"""Tracking where something is wrong: a full disk, records that were cut off, an experiment that is no more."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from mlflow import MlflowClient
from spoil import fill

from raydistill.errors import BadInput, StageFailed
from raydistill.store.location import Location
from raydistill.tracking import destination, late, uploader
from raydistill.tracking.destination import Destination
from raydistill.tracking.journal import Journal
from raydistill.tracking.tracker import tracking

EXPERIMENT = "tests"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploader, "GATHER_S", 0.0)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_record_that_a_full_disk_does_not_take_is_known_and_written_with_the_next(tmp_path: Path) -> None:
    """Nothing of it is left in the file, where the next line would be taken for its end."""
    root = Location.of(str(tmp_path))
    journal = Journal(root, "k")
    journal.append({"kind": "begin", "time": 1, "id": "me", "parent": ""})
    (file,) = (tmp_path / "tracking" / "k").glob("*.jsonl")
    size, limits = file.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
    try:
        for time in (2, 3):
            with pytest.raises(StageFailed, match=r"cannot write .*\.jsonl: "):
                journal.append({"kind": "metrics", "time": time, "step": 0, "values": {"loss": 1.0}})
            assert file.stat().st_size == size
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [e["time"] for e in journal.known] == [1, 2, 3] and [e["time"] for e in journal.entries()] == [1]
    journal.append({"kind": "end", "time": 4, "status": "FINISHED"})
    assert journal.entries() == journal.known and [e["time"] for e in journal.known] == [1, 2, 3, 4]


def test_a_full_disk_stops_no_job_and_hides_no_line_of_it(
    small_disk: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow has all of the run; its folder has it once there is room."""
    root = Location.of(str(small_disk / "run"))
    with (
        pytest.raises(StageFailed, match="the line of the job"),
        tracking(Destination(uri, EXPERIMENT), root) as told,
        told.run("k", "mine") as run,
    ):
        run.metrics({"loss": 0.0}, 0)
        assert told.uploader.settle(60) == ""
        filler = fill(small_disk)
        for step in range(1, 100):
            run.metrics({"loss": float(step)}, step)
        raise StageFailed("the line of the job")
    said = capsys.readouterr().err
    assert said.count("a record could not be kept") == 1 and "No space left on device" in said
    client = MlflowClient(uri)
    (there,) = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])  # type: ignore[union-attr]
    assert there.info.status == "FAILED" and there.data.tags["raydistill.error"] == "the line of the job"
    assert len(client.get_metric_history(there.info.run_id, "loss")) == 100
    filler.unlink()
    run.journal.append({"kind": "tags", "time": 1, "values": {}})
    assert run.journal.entries() == run.journal.known


def test_a_run_that_was_killed_before_its_first_record_has_none(tmp_path: Path, uri: str) -> None:
    """Its card is there; whatever is given, it says what to do."""
    root = Location.of(str(tmp_path / "run"))
    Journal(root, "k")
    for where in (None, uri):
        with pytest.raises(BadInput, match="keeps no records of a tracked run"):
            late.track(str(root), where, None)


def finished(root: Location, uri: str) -> None:
    with tracking(Destination(uri, EXPERIMENT), root) as told, told.run("k", "mine"):
        pass


def test_a_name_of_an_experiment_that_is_too_long_is_refused(tmp_path: Path, uri: str) -> None:
    root = Location.of(str(tmp_path / "run"))
    finished(root, uri)
    with pytest.raises(BadInput, match=r"tracking\.experiment=xxx.* at most 200 characters; give a shorter one"):
        late.track(str(root), None, "x" * 201)
    assert late.track(str(root), None, "x" * 200)


def test_an_experiment_that_was_deleted_is_said_of_a_file_too(tmp_path: Path, uri: str) -> None:
    """Until it is restored, or another is named."""
    root, client = Location.of(str(tmp_path / "run")), MlflowClient(uri)
    finished(root, uri)
    number = client.get_experiment_by_name(EXPERIMENT).experiment_id  # type: ignore[union-attr]
    client.delete_experiment(number)
    for new in (True, False):
        with pytest.raises(BadInput, match=f"experiment={EXPERIMENT} was deleted in {uri}; restore it there"):
            destination.check(Destination(uri, EXPERIMENT), new)
    with pytest.raises(BadInput, match="or give another name"):
        late.track(str(root), None, None)
    assert late.track(str(root), None, "other")
    client.restore_experiment(number)
    assert destination.check(Destination(uri, EXPERIMENT), new=True) is None and late.track(str(root), None, None)
