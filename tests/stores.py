"""What holds of every object store, whoever stands in for it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Protocol

import pytest
from pyarrow import fs as pafs
from running import finish, product
from tiny_run import TinyRun

from raydistill.store import faults
from raydistill.store.artifact import Manifest
from raydistill.store.location import Location

Reference = tuple[Path, subprocess.CompletedProcess[str]]


class Interrupted(Exception):
    """Raised where a process would have been killed."""


class Store(Protocol):
    """A stand-in of an object store, with a bucket."""

    def folder(self) -> str: ...

    def files(self, uri: str) -> dict[str, bytes]: ...


def files_below(fs: pafs.FileSystem, base: str) -> dict[str, bytes]:
    """Every object below, by its path."""
    infos = fs.get_file_info(pafs.FileSelector(base, recursive=True, allow_not_found=True))
    return {
        i.path.removeprefix(f"{base}/"): fs.open_input_stream(i.path).read()
        for i in infos
        if i.type == pafs.FileType.File
    }


def assert_it_holds_what_was_written(folder: str) -> None:
    location = Location.of(folder)
    assert location.list() == [] and not (location / "a").exists() and (location / "a").size() is None
    for name in ("a", "b/c", "with space", "per%cent", "plus+"):
        (location / name).write(name.encode())
        assert (location / name).read() == name.encode() and (location / name).size() == len(name)
    assert location.list() == ["a", "b", "per%cent", "plus+", "with space"] and location.has_bucket()
    (location / "a").delete()
    (location / "a").delete()
    with pytest.raises(FileNotFoundError):
        (location / "a").read()


def assert_it_ends_when_every_write_was_interrupted_once(
    folder: str, whole: dict[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`whole`: the manifests of a run on a disk."""
    reached: set[tuple[str, str, str]] = set()

    def interrupt(*where: str) -> None:
        if where not in reached:
            reached.add(where)
            raise Interrupted(where)

    monkeypatch.setattr(faults, "hook", interrupt)
    tiny, sealed = TinyRun(folder, tmp_path), None
    while sealed is None:
        try:
            sealed = tiny.finish()
        except Interrupted:
            continue
    assert sealed == whole
    assert {point for _, point, _ in reached} == set(faults.POINTS) and len(reached) > 50


def assert_a_run_on_ray_ends_with_a_report(store: Store, tmp_path: Path, reference: Reference) -> None:
    """With the product of a run on a disk; given once more it finds it, without Ray."""
    uri = store.folder()
    done = finish(tmp_path / "unused", f"run_dir={uri}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [uri]
    there = store.files(uri)
    assert {"report.html", "result.json", "config.yaml"} <= set(there)
    distilled = {k.removeprefix("distilled/"): v for k, v in there.items() if k.startswith("distilled/")}
    assert distilled == product(reference[0])
    assert finish(tmp_path / "unused", f"run_dir={uri}", RAY_ADDRESS="127.0.0.1:9").returncode == 0
