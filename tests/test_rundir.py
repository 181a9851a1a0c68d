"""The run directory: ours, new or empty, and writable; anything else is refused before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raydistill.errors import BadInput
from raydistill.store.location import Location
from raydistill.store.rundir import MARKER, RunDir


def refused(root: Path | str, artifacts: Path | str | None = None) -> str:
    with pytest.raises(BadInput) as caught:
        RunDir(str(root), None if artifacts is None else str(artifacts)).check()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_new_or_empty_folder_is_accepted_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "new", "new/deep/er"):
        RunDir(str(tmp_path / folder)).check()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["empty"]


def test_claiming_is_idempotent_and_makes_the_folder_ours(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / "run"), str(tmp_path / "shared"))
    run.claim()
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob(MARKER)}
    run.claim()
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.rglob(MARKER)} == before and len(before) == 2
    (tmp_path / "run" / "more").write_text("x")
    run.check()


@pytest.mark.parametrize("shared", [False, True])
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path, shared: bool) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("x")
    text = refused(tmp_path / "run", tmp_path / "thesis") if shared else refused(tmp_path / "thesis")
    assert "'chapter1.tex'" in text and "not a raydistill run directory" in text
    assert os.listdir(tmp_path / "thesis") == ["chapter1.tex"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused(tmp_path / "file")
    assert f"{tmp_path / 'file'} is a file" in refused(tmp_path / "file" / "below" / "it")


def test_a_place_that_cannot_be_written_is_refused() -> None:
    if not os.path.isdir("/proc/self"):
        pytest.skip("no /proc to fail to write to")
    assert "not writable" in refused("/proc/raydistill/run")


def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "locked").mkdir(mode=0o555)
    assert "not writable" in refused(tmp_path / "locked")


def test_an_unknown_kind_of_uri_is_refused() -> None:
    assert "nosuch://bucket/run" in refused("nosuch://bucket/run")


def test_artifacts_live_in_the_run_or_where_several_runs_share_them(tmp_path: Path) -> None:
    alone, sharing = RunDir(str(tmp_path / "r")), RunDir(str(tmp_path / "r"), str(tmp_path / "s"))
    assert alone.artifact("encode", "f").location == Location(f"{tmp_path}/r/encode/f")
    assert sharing.artifact("encode", "f").location == Location(f"{tmp_path}/s/encode/f")


def test_a_relative_path_is_made_absolute_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDir("runs/mine")
    monkeypatch.chdir("/")
    assert run.root.uri == str(tmp_path / "runs" / "mine")
