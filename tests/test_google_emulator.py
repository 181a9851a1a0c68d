"""On gs:// by an emulator that others wrote: sources, run directories, whole runs, and the n-th request that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from artifacts import at, content, work
from google_emulator import BUCKET, KINDS, Emulator, emulator, kind
from running import product
from samples import config, write_folder
from stores import (
    Reference,
    assert_a_run_on_ray_ends_with_a_report,
    assert_it_ends_when_every_write_was_interrupted_once,
    assert_it_holds_what_was_written,
)
from test_object_store import SETS
from tiny_run import TinyRun

from raydistill import cli
from raydistill import config as configuration
from raydistill.errors import BadInput, StageFailed
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.sources.base import open_source
from raydistill.stages.runner import serial
from raydistill.store.artifact import Manifest
from raydistill.store.location import Location
from raydistill.store.rundir import MARKER, RunDir

BIG = 20 * 2**20  # bytes: more than Arrow's client sends at once


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with emulator() as it:
        yield it


@pytest.fixture
def store(running: Emulator) -> Iterator[Emulator]:
    running.wrong()
    yield running
    running.wrong()


@pytest.fixture
def folder(store: Emulator) -> str:
    return store.folder()


def test_locations_hold_what_was_written(folder: str) -> None:
    assert_it_holds_what_was_written(folder)


def test_a_browser_is_told_which_objects_are_pages(store: Emulator, folder: str) -> None:
    (Location.of(folder) / "logs/status.html").write(b"<p>")
    name = quote(f"{store.path(folder)}/logs/status.html".partition("/")[2], safe="")
    with urlopen(f"http://127.0.0.1:{store.port}/storage/v1/b/{BUCKET}/o/{name}") as answer:
        assert json.loads(answer.read())["contentType"] == "text/html; charset=utf-8"


def test_run_directories_are_claimed_and_those_of_others_refused(store: Emulator, folder: str) -> None:
    RunDir(folder).check()
    RunDir(folder).claim()
    RunDir(folder).check()
    assert list(store.files(folder)) == [MARKER]
    theirs = store.folder()
    (Location.of(theirs) / "thesis.tex").write(b"")
    with pytest.raises(BadInput, match=r"holds 'thesis.tex' and is not a raydistill run directory"):
        RunDir(theirs).check()
    with pytest.raises(BadInput, match="in a bucket that does not exist; make it or correct its name"):
        RunDir(folder.replace("@bucket/", "@nobodys/")).check()


@pytest.mark.parametrize("name", SETS)
def test_a_source_lists_and_reads_as_on_a_disk(name: str, store: Emulator, tmp_path: Path) -> None:
    local = SETS[name](tmp_path / "set")
    here, there = (open_source(config(name, root)) for root in (local, store.upload(local)))
    for split in ("train", "val"):
        a, b = here.list(split), there.list(split)
        assert (a.classes, a.ids.to_pylist(), a.labels.tolist()) == (b.classes, b.ids.to_pylist(), b.labels.tolist())
        ids = a.ids.to_pylist()[::-1]
        assert list(there.read(split, ids)) == list(here.read(split, ids))
        assert there.list(split).digest == b.digest, "the same objects are the same listing"


class TestFaults:
    @pytest.mark.parametrize("nth", [0, 1, 3])
    @pytest.mark.parametrize("which", KINDS)
    def test_the_nth_of_a_kind_is_asked_for_again(
        self, which: str, nth: int, store: Emulator, folder: str, undisturbed: Manifest
    ) -> None:
        at(folder).commit("a", content("a"), rows=3, device="cpu", meta={"n": 1})
        store.wrong(which, nth)
        assert work(at(folder)) == undisturbed
        at(folder).verify(undisturbed.records)
        assert sum(kind(request) == which for request in store.seen()) > (nth if which != "list" else 0)
        store.wrong()
        assert work(at(folder)) == undisturbed

    @pytest.mark.parametrize("nth", [0, 2])
    def test_an_answer_that_breaks_off_is_asked_for_again(
        self, nth: int, store: Emulator, folder: str, undisturbed: Manifest
    ) -> None:
        work(at(folder))
        store.wrong("read", nth, "cut")
        assert work(at(folder)) == undisturbed
        at(folder).verify(undisturbed.records)

    @pytest.mark.parametrize("how", ["refuse", "deny"])
    @pytest.mark.parametrize("which", KINDS)
    def test_what_fails_for_good_ends_with_one_line_and_the_same_command_goes_on(
        self, which: str, how: str, store: Emulator, folder: str, undisturbed: Manifest
    ) -> None:
        at(folder).commit("a", content("a"), rows=3, device="cpu", meta={"n": 1})
        store.wrong(which, how=how)
        with pytest.raises(StageFailed, match="then run the same command again") as caught:
            work(at(folder))
        assert "\n" not in str(caught.value)
        store.wrong()
        assert work(at(folder)) == undisturbed

    def test_an_upload_in_pieces_that_is_torn_is_no_object(self, store: Emulator, folder: str) -> None:
        artifact = at(folder)
        artifact.commit("big", bytes(BIG), rows=1, device="cpu")
        pieces = [request for request in store.seen() if request.startswith("PUT") and "upload_id" in request]
        artifact.verify(artifact.records().values())
        other = at(store.folder())
        store.wrong("put", how="refuse")
        with pytest.raises(StageFailed, match="cannot write"):
            other.commit("big", bytes(BIG), rows=1, device="cpu")
        store.wrong()
        assert len(pieces) > 1 and other.records() == {} and not (other.location / "data").list()


class TestRuns:
    def test_leave_the_same_product(self, store: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Images from gs:// into a run directory on gs://, against both on a disk; and verify reads it."""
        local = write_folder(tmp_path / "set", {"train": 4, "val": 2})
        runs = []
        for source, run in ((str(local), str(tmp_path / "run")), (store.upload(local), store.folder())):
            overrides = [
                "source.kind=imagefolder", f"source.path={source}", f"run_dir={run}", "method=kmeans", "ipc=2",
                "encode.chunk=5", "encode.batch=4", "evaluate.baselines=[]",
            ]  # fmt: skip
            prepared = prepare(configuration.load("quickstart", overrides), evaluate=False)
            assert job.run(prepared, "sample", lambda stage, todo: serial(stage, todo)).computed
            assert not job.run(prepared, "sample", lambda stage, todo: serial(stage, todo)).computed
            runs.append(run)
        files = store.files(runs[1])
        there = {k.removeprefix("distilled/"): v for k, v in files.items() if k.startswith("distilled/")}
        assert there == product(Path(runs[0]))
        assert cli.main(["verify", runs[1]]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == runs[1] and store.files(runs[1]) == files

    @pytest.mark.slow
    @pytest.mark.timeout(1800)
    def test_end_as_on_a_disk_when_every_write_was_interrupted_once(
        self, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = TinyRun(tmp_path / "disk" / "run").finish()
        assert_it_ends_when_every_write_was_interrupted_once(folder, whole, tmp_path, monkeypatch)

    @pytest.mark.slow
    @pytest.mark.ray
    @pytest.mark.timeout(900)
    def test_on_ray_end_with_a_report(self, store: Emulator, tmp_path: Path, reference: Reference) -> None:
        assert_a_run_on_ray_ends_with_a_report(store, tmp_path, reference)
