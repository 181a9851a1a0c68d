"""What another process makes or removes between two looks: each race is forced here at its one bad moment."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from artifacts import at, work
from pyarrow import fs as pafs
from test_exporters import contents, run  # noqa: F401  a finished run

from raydistill.errors import BadInput
from raydistill.exporters.write import MARKER as EXPORT
from raydistill.exporters.write import export as write_export
from raydistill.sources import tree
from raydistill.stages.evaluation.checkpoint import TrainingState
from raydistill.store import location, processes, seals
from raydistill.store.artifact import Manifest
from raydistill.store.location import Location, infos
from raydistill.store.rundir import RunDir
from raydistill.store.unfinished import PARTIAL


class Disk:
    """A disk on which `meanwhile` happens after pyarrow's first look, which found nothing."""

    type_name = "local"

    def __init__(self, meanwhile: Callable[[], Any]) -> None:
        self.disk, self.meanwhile = pafs.LocalFileSystem(), [meanwhile]

    def get_file_info(self, selector: pafs.FileSelector) -> Any:
        if self.meanwhile:
            self.meanwhile.pop()()
            raise FileNotFoundError(2, "No such file or directory")
        return self.disk.get_file_info(selector)


def before(do: Callable[[], Any], then: Callable[..., Any], times: int = 1) -> Callable[..., Any]:
    """`then`, before whose first calls `do` happens."""
    left = [do] * times

    def call(*args: Any, **kwargs: Any) -> Any:
        if left:
            left.pop()()
        return then(*args, **kwargs)

    return call


def test_a_folder_that_appears_between_two_looks_is_listed(tmp_path: Path) -> None:
    def appear() -> None:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "file").touch()

    assert [i.base_name for i in infos(Disk(appear), f"{tmp_path}/new")] == ["file"]


def test_what_goes_while_it_is_listed_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow lists the names first and then asks what they are."""
    (tmp_path / "stays").touch()

    class Going(Disk):
        def get_file_info(self, selector: pafs.FileSelector) -> Any:
            gone = self.disk.get_file_info(f"{selector.base_dir}/gone")
            assert gone.type == pafs.FileType.NotFound
            return [gone, *self.disk.get_file_info(selector)]

    monkeypatch.setattr(Location, "filesystem", lambda self: (Going(lambda: None), self.uri))
    assert Location.of(str(tmp_path)).list() == ["stays"]


@pytest.mark.parametrize("times", [1, 3])
def test_a_folder_that_is_taken_away_before_the_file_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    folder = tmp_path / "a" / "b"
    monkeypatch.setattr(location.os, "open", before(folder.rmdir, os.open, times))
    Location.of(str(folder / "file")).write(b"x")
    assert (folder / "file").read_bytes() == b"x"


def test_a_commit_that_is_removed_after_it_was_listed_is_none(
    tmp_path: Path, undisturbed: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = at(tmp_path / "undisturbed")
    victim = next(Path(artifact.location.uri, "commits").glob("b~*"))
    listed = Location.list_by_age
    monkeypatch.setattr(Location, "list_by_age", lambda self: (listed(self), victim.unlink())[0])
    assert sorted(artifact.records()) == ["a", "c"]
    monkeypatch.undo()
    (tmp_path / "undisturbed" / "encode" / artifact.fingerprint / "manifest.json").unlink()
    assert work(artifact) == undisturbed


def test_a_state_that_another_attempt_forgets_after_it_was_listed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = TrainingState(Location.of(str(tmp_path)))
    state.save(1, {"step": torch.tensor(1)})
    earlier = {p: p.read_bytes() for p in tmp_path.iterdir()}
    state.save(2, {"step": torch.tensor(2)})
    (later,) = tmp_path.iterdir()
    for path, data in earlier.items():
        path.write_bytes(data)
    listed = Location.list
    monkeypatch.setattr(Location, "list", lambda self: (listed(self), later.unlink())[0])
    assert state.load() == {"step": torch.tensor(1)}


def test_a_run_directory_that_another_check_is_writing_to_is_still_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a disk has no nameless files, the file that is tried is seen by others."""
    named = tempfile.NamedTemporaryFile
    checked: list[int] = []

    def visible(**kwargs: Any) -> Any:
        file = named(**kwargs)
        monkeypatch.setattr(tempfile, "TemporaryFile", named)
        RunDir(str(tmp_path)).check()
        checked.append(len(os.listdir(tmp_path)))
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", visible)
    RunDir(str(tmp_path)).check()
    assert checked == [1]


def test_a_run_directory_that_goes_while_it_is_checked_is_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(tempfile, "TemporaryFile", before((tmp_path / "run").rmdir, tempfile.TemporaryFile))
    RunDir(str(tmp_path / "run")).check()
    assert not (tmp_path / "run").exists()


def test_an_image_that_goes_while_its_folder_is_listed_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.png").touch()
    with os.scandir(tmp_path) as entries:
        (entry,) = entries
    (tmp_path / "1.png").unlink()
    with pytest.raises(BadInput, match=r"1\.png was listed and cannot be seen: No such file"):
        tree._file(entry, "1.png")


def test_two_drivers_that_write_different_reports_leave_one_of_them_whole(tmp_path: Path) -> None:
    root, texts = Location.of(str(tmp_path)), [b"first " * 5000, b"the second " * 9000]
    for attempt in range(60):
        name, start = f"report-{attempt}.html", threading.Barrier(2)

        def written(text: bytes, name: str = name, start: threading.Barrier = start) -> None:
            start.wait()
            seals.write(root, name, text)

        together = [threading.Thread(target=written, args=(text,)) for text in texts]
        for thread in together:
            thread.start()
        for thread in together:
            thread.join()
        assert seals.read(root, name, "") in texts


class TestExports:
    def test_at_the_same_time_are_one_export(self, tmp_path: Path, run: Path) -> None:  # noqa: F811
        write_export(str(run), "imagefolder", str(tmp_path / "alone"))
        for attempt in range(5):
            out = tmp_path / f"out-{attempt}"
            ended: list[tuple[str, int]] = []

            def attempted(out: Path = out, ended: list[tuple[str, int]] = ended) -> None:
                ended.append(write_export(str(run), "imagefolder", str(out)))

            together = [threading.Thread(target=attempted) for _ in range(4)]
            for thread in together:
                thread.start()
            for thread in together:
                thread.join()
            assert [folder for folder, _ in ended] == [str(out)] * 4 and sum(n > 0 for _, n in ended) == 1
            assert contents(out) == contents(tmp_path / "alone")
        assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]

    def test_what_a_killed_one_left_is_removed_and_what_a_living_one_writes_is_not(
        self,
        tmp_path: Path,
        run: Path,  # noqa: F811
    ) -> None:
        program = "from raydistill.store import processes; print(processes.mark())"
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        left, living = (tmp_path / f".out.{PARTIAL}-{mark}-1234" for mark in (ended.stdout.strip(), processes.mark()))
        for folder in (left, living):
            folder.mkdir()
        write_export(str(run), "hf", str(tmp_path / "out"))
        assert EXPORT in contents(tmp_path / "out") and living.is_dir() and not left.exists()
