"""On gs:// as on a disk: locations, artifacts, stages, throttling, late listings, and a store that is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from artifacts import KEYS, at, content, work
from google_store import GoogleStore, google_endpoint
from stores import assert_it_holds_what_was_written
from tiny_run import TinyRun

from raydistill.errors import CorruptArtifact, StageFailed
from raydistill.store import location as locations
from raydistill.store.artifact import Manifest
from raydistill.store.location import Location
from raydistill.store.rundir import MARKER, RunDir

SOME = ("encode", "group", "cluster", "plan mgd3")


@pytest.fixture(scope="module")
def running() -> Iterator[GoogleStore]:
    with google_endpoint() as store:
        yield store


@pytest.fixture
def store(running: GoogleStore) -> Iterator[GoogleStore]:
    running.set()
    yield running


@pytest.fixture
def folder(store: GoogleStore, request: pytest.FixtureRequest) -> str:
    return store.folder(request.node.name.partition("[")[0])


def test_locations_hold_what_was_written(folder: str) -> None:
    assert_it_holds_what_was_written(folder)


def test_artifacts_hold_as_disks_do(folder: str, undisturbed: Manifest) -> None:
    assert at(folder).records() == {} and at(folder).manifest() is None
    assert work(at(folder)) == work(at(folder)) == undisturbed
    at(folder).verify(undisturbed.records)
    (at(folder).location / undisturbed.records[0].file).delete()
    with pytest.raises(CorruptArtifact, match="is missing"):
        at(folder).verify(undisturbed.records)


def test_stages_give_the_manifests_of_a_disk(folder: str, tmp_path: Path) -> None:
    run = RunDir(folder)
    run.check()
    run.claim()
    assert Location.of(folder).list() == [MARKER]
    assert TinyRun(folder, tmp_path).finish(SOME) == TinyRun(tmp_path / "disk").finish(SOME)


def test_a_folder_is_listed_in_pages(store: GoogleStore, folder: str, undisturbed: Manifest) -> None:
    store.set(page=2)
    assert work(at(folder)) == undisturbed and list(at(folder).records()) == list(KEYS)
    assert any("pageToken=test_" in request for request in store.seen())


def test_who_is_refused_asks_again(store: GoogleStore, folder: str) -> None:
    store.set(refused="once")
    made = at(folder).commit("a", content("a"), rows=3, device="cpu")
    assert at(folder).records() == {"a": made}
    asked = [request for request in store.seen() if "alt=media" in request or request.startswith("POST")]
    assert len(asked) > len(set(asked)) >= 3


def test_a_store_that_is_gone_ends_with_one_line(
    store: GoogleStore, folder: str, undisturbed: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(folder).commit("a", content("a"), rows=3, device="cpu", meta={"n": 1})
    store.set(refused="all")
    with pytest.raises(StageFailed, match="then run the same command again") as caught:
        at(folder).records()
    assert "\n" not in str(caught.value)
    store.set()
    assert work(at(folder)) == undisturbed


def test_who_asks_waits_for_a_minute_unless_the_address_says_otherwise() -> None:
    """The client itself would go on for fifteen."""
    opened = locations._object_store("gs", "anonymous@bucket", "")
    assert "retry_limit_seconds=60" in locations.with_defaults("gs", "") and opened.type_name == "gcs"
    assert locations.with_defaults("gs", "retry_limit_seconds=3") == "retry_limit_seconds=3"


def test_a_listing_that_comes_late_keeps_nobody_up(store: GoogleStore, folder: str, undisturbed: Manifest) -> None:
    store.set(listing=[])
    artifact = at(folder)
    made = [artifact.commit(k, content(k), rows=3, device="cpu", meta={"n": 1}) for k in KEYS]
    assert artifact.records() == {} and artifact.seal(KEYS, {"images": 9}, known=made) == undisturbed
