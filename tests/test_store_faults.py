"""Object storage that throttles, is late, breaks off, lists what was, or fails for good: artifacts end as on a sound
one, or say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from artifacts import KEYS, at, content, work
from faulty_store import Faults, faulty_endpoint
from object_store import Store
from tiny_run import TinyRun

from raydistill.errors import StageFailed
from raydistill.pipeline.verify import mend
from raydistill.stages import runner
from raydistill.stages.runner import serial
from raydistill.store import artifact as artifact_module
from raydistill.store.artifact import Artifact, Manifest, Record, commit_file
from raydistill.store.inspection import inspect
from raydistill.store.location import CannotRead

BIG = 12 * 2**20  # bytes: more than a part of a multi-part upload


@pytest.fixture(scope="module")
def faulty() -> Iterator[tuple[Store, Faults]]:
    with faulty_endpoint() as running:
        yield running


@pytest.fixture
def store(faulty: tuple[Store, Faults]) -> Store:
    return faulty[0]


@pytest.fixture
def faults(faulty: tuple[Store, Faults]) -> Iterator[Faults]:
    yield faulty[1]
    faulty[1].over()


@pytest.fixture
def folder(faulty: tuple[Store, Faults], faults: Faults) -> str:
    """The URI of an empty folder; `faults` begin behind it."""
    uri = faulty[0].folder()
    faults.seen.clear()
    return uri


def test_every_request_may_be_throttled_once(faults: Faults, folder: str, undisturbed: Manifest) -> None:
    """Each that reads, lists, asks or writes is refused the first time: the client asks again."""
    faults.every_one_once()
    assert work(at(folder)) == undisturbed
    verbs = {request.partition(" ")[0] for request in faults.seen}
    assert verbs == {"PUT", "GET", "HEAD"} and len(faults.seen) >= 2 * len(set(faults.seen))


@pytest.mark.parametrize("verb", ["PUT", "GET"])
def test_an_answer_that_is_late_or_breaks_off_is_asked_for_again(
    verb: str, faults: Faults, folder: str, undisturbed: Manifest
) -> None:
    faults.nth(1, verb, "late" if verb == "PUT" else "cut")
    assert work(at(folder)) == undisturbed
    faults.over()
    assert work(at(folder)) == undisturbed


@pytest.mark.parametrize("verb", ["PUT", "GET"])
def test_what_fails_for_good_ends_with_one_line_and_the_same_command_goes_on(
    verb: str, faults: Faults, folder: str, undisturbed: Manifest
) -> None:
    at(folder).commit("a", content("a"), rows=3, device="cpu", meta={"n": 1})
    faults.all_of(verb)
    with pytest.raises(StageFailed, match="then run the same command again") as caught:
        work(at(folder))
    assert "\n" not in str(caught.value)
    faults.over()
    assert work(at(folder)) == undisturbed


def test_a_large_object_whose_upload_is_torn_is_none(faults: Faults, folder: str, store: Store) -> None:
    """Parts are there, what joins them never comes: as if the writer had died there."""
    artifact = at(folder)
    faults.how, faults.which = "refuse", lambda request: request.startswith("POST") and "uploadId" in request
    with pytest.raises(StageFailed, match="cannot write"):
        artifact.commit("big", bytes(BIG), rows=1, device="cpu")
    assert any("partNumber" in request for request in faults.seen)
    assert store.files(folder) == {} and artifact.records() == {}
    faults.over()
    artifact.commit("big", bytes(BIG), rows=1, device="cpu")
    artifact.verify(artifact.records().values())


class TestWhatDoesNotAnswer:
    """It may be whole: nobody is told to delete it, and nobody does."""

    @pytest.fixture
    def made(self, faults: Faults, folder: str) -> tuple[Artifact, Record]:
        artifact = at(folder)
        table = pa.table({"x": [1, 2, 3]})
        record = artifact.commit_table("a", table, device="cpu")
        faults.how, faults.which = "refuse", lambda request: request.startswith("GET") and "/data/" in request
        return artifact, record

    @pytest.mark.parametrize(
        "read",
        [
            Artifact.read,
            lambda artifact, record: artifact.verify([record]),
            lambda artifact, record: artifact.read_rows(record, 0, 2),
            lambda artifact, record: artifact.read_row_group(record, 0),
        ],
    )
    def test_it_is_not_called_damaged(self, made: tuple[Artifact, Record], read: Callable[..., object]) -> None:
        with pytest.raises(CannotRead, match=r"cannot read .*; check the path, then run the same command again"):
            read(*made)

    def test_repair_leaves_it(self, made: tuple[Artifact, Record], faults: Faults) -> None:
        artifact, record = made
        with ThreadPoolExecutor(1) as pool:
            (finding,) = (f for f in inspect(artifact, pool, lambda size: None) if f.is_fault)
        assert "cannot be read" in finding.what and not finding.drop
        lost = mend([finding])
        assert len(lost) == 1 and "cannot be mended" in lost[0]
        faults.over()
        assert artifact.records() == {"a": record}
        artifact.verify([record])


class TestListingsThatComeLate:
    """What they do not show yet is known to who made it, or is waited for; what they still show is not there."""

    def test_a_stage_is_sealed_though_none_of_its_commits_is_listed(
        self, faults: Faults, folder: str, tmp_path: Path
    ) -> None:
        faults.list_late()
        late = runner.run(TinyRun(folder, tmp_path).stage("encode"), serial)
        assert at(folder, late.manifest.fingerprint).records() == {} and len(late.manifest.records) > 1
        assert late.manifest == runner.run(TinyRun(tmp_path / "disk").stage("encode"), serial).manifest

    def test_a_commit_of_another_process_is_waited_for(
        self, faults: Faults, folder: str, undisturbed: Manifest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(artifact_module, "LISTED_LATE_S", (0.01, 0.01, 0.01))
        faults.list_late(times=2)
        assert work(at(folder)) == undisturbed

    def test_one_that_never_comes_is_named(self, faults: Faults, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(artifact_module, "LISTED_LATE_S", (0.01,))
        made = at(folder).commit("a", content("a"), rows=3, device="cpu", meta={"n": 1})
        (at(folder).location / "commits" / commit_file(made)[0]).delete()
        with pytest.raises(StageFailed, match=r"1 of 1 keys have no commit \(first a\)"):
            at(folder).seal(["a"], known=[made])

    def test_a_commit_that_was_taken_away_and_is_still_listed_is_made_again(
        self, faults: Faults, folder: str, undisturbed: Manifest
    ) -> None:
        artifact = at(folder)
        taken = artifact.commit("b", content("b"), rows=3, device="cpu", meta={"n": 1})
        faults.list_late()
        assert list(artifact.records()) == ["b"]
        (artifact.location / "commits" / commit_file(taken)[0]).delete()
        assert artifact.records() == {}
        made = [artifact.commit(k, content(k), rows=3, device="cpu", meta={"n": 1}) for k in KEYS]
        assert artifact.seal(KEYS, {"images": 9}, known=made) == undisturbed


def test_what_its_driver_knows_is_not_asked_for_again_when_a_stage_is_sealed(faults: Faults, folder: str) -> None:
    """A request a commit, of which there may be 100,000."""
    artifact = at(folder)
    made = [artifact.commit(k, content(k), rows=3, device="cpu") for k in KEYS]
    faults.seen.clear()
    artifact.seal(KEYS, known=made[:2])
    assert [
        r.partition("commits/")[2][:2] for r in faults.seen if "GET" in r and "commits/" in r.partition("?")[0]
    ] == ["c~"]
