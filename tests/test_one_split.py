"""The val splits of several folders as one, for tables that need more test images."""

from __future__ import annotations

from pathlib import Path

import one_split
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydistill.config import load
from raydistill.sources.base import open_source


def folder(path: Path, shards: dict[str, list[int]]) -> Path:
    path.mkdir()
    for name, labels in shards.items():
        images = [{"bytes": b"image %d" % i, "path": None} for i in range(len(labels))]
        pq.write_table(pa.table({"image": images, "label": labels}), path / name)
    (path / "classes.json").write_text('{"dirs": ["a", "b"], "names": ["A", "B"]}')
    return path


def test_the_shards_of_all_folders_are_one_split_and_the_training_images_those_of_the_first(tmp_path: Path) -> None:
    first = folder(
        tmp_path / "first", {"train-00000-of-00001.parquet": [0, 1, 1], "val-00000-of-00001.parquet": [0, 1]}
    )
    rest = {f"val-0000{i}-of-00002.parquet": [i, 1, 1] for i in range(2)}
    second = folder(tmp_path / "second", rest | {"train-00000-of-00001.parquet": [0]})
    assert one_split.main([str(first), str(second), "--out", str(tmp_path / "out")]) == 0
    source = open_source(load("quickstart", ["source.kind=parquet", f"source.path={tmp_path / 'out'}"]).source)
    assert source.list("train").labels.tolist() == [0, 1, 1]
    assert source.list("val").labels.tolist() == [0, 1, 0, 1, 1, 1, 1, 1], "those of the first folder stand first"
    assert not any(p.is_file() and not p.is_symlink() for p in (tmp_path / "out").iterdir()), "nothing is copied"


@pytest.mark.parametrize("wrong", ["no shards", "there already"])
def test_what_cannot_be_one_split_is_refused_in_a_line(
    tmp_path: Path, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = folder(tmp_path / "first", {"val-00000-of-00001.parquet": [0, 1]})
    second = folder(tmp_path / "second", {} if wrong == "no shards" else {"val-00000-of-00001.parquet": [1]})
    out = tmp_path / "out"
    if wrong == "there already":
        out.mkdir()
    assert one_split.main([str(first), str(second), "--out", str(out)]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    assert ("give folders of Parquet shards" if wrong == "no shards" else "give a new folder") in line
    assert not list(out.iterdir()) if out.exists() else True
