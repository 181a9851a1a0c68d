"""Object storage that throttles, is late, breaks off, or fails for good: artifacts end as on a sound one, or say so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from artifacts import at, content, work
from faulty_store import Faults, faulty_endpoint
from object_store import Store

from raydistill.errors import StageFailed
from raydistill.store.artifact import Manifest

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
    faults.which = lambda request: request.startswith("POST") and "uploadId" in request
    with pytest.raises(StageFailed, match="cannot write"):
        artifact.commit("big", bytes(BIG), rows=1, device="cpu")
    assert any("partNumber" in request for request in faults.seen)
    assert store.files(folder) == {} and artifact.records() == {}
    faults.over()
    artifact.commit("big", bytes(BIG), rows=1, device="cpu")
    artifact.verify(artifact.records().values())
