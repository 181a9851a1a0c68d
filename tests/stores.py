"""What holds of every object store, whoever stands in for it."""

from __future__ import annotations

import pytest
from pyarrow import fs as pafs

from raydistill.store.location import Location


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
