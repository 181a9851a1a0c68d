"""A finished stage as it travels: what is read of it, whole or class by class."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raydistill.errors import CorruptArtifact, StageFailed
from raydistill.store import artifact as artifacts
from raydistill.store.artifact import Artifact, Record
from raydistill.store.location import Location
from raydistill.store.sealed import Sealed

CLASSES = {"bucket-000": {4: 3, 0: 2}, "bucket-001": {1: 4}}  # class index -> images, in the order of their rows


@pytest.fixture
def grouped(tmp_path: Path) -> Sealed:
    """Images numbered through over both buckets."""
    artifact, first = Artifact(Location.of(str(tmp_path)), "classes", "0" * 16), 0
    for key, counts in CLASSES.items():
        rows = sum(counts.values())
        table = pa.table(
            {"image_id": range(first, first + rows), "class_index": np.repeat([*counts], [*counts.values()])}
        )
        meta = {"classes": [*counts], "counts": [*counts.values()]}
        artifact.commit_table(key, table, device="cpu", meta=meta, row_groups=meta["counts"])
        first += rows
    return Sealed(artifact, artifact.seal([*CLASSES]))


def test_it_is_there_once_its_stage_is_finished(grouped: Sealed, tmp_path: Path) -> None:
    assert Sealed.finished(grouped.artifact) == grouped
    assert Sealed.finished(Artifact(Location.of(str(tmp_path)), "classes", "1" * 16)) is None
    assert (grouped.rows, grouped.digest) == (9, grouped.manifest.digest)


def test_a_manifest_is_parsed_once_a_process_and_read_each_time(
    grouped: Sealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    whole = artifacts.sealed_body
    monkeypatch.setattr(artifacts, "sealed_body", lambda text: whole(text) if not parsed.append(text) else None)
    monkeypatch.setattr(artifacts, "_known", {})
    assert grouped.artifact.manifest() == grouped.artifact.manifest() == grouped.manifest and len(parsed) == 1
    file = grouped.artifact.location / "manifest.json"
    text = file.read()
    file.write(text[:-1])
    assert grouped.artifact.manifest() is None and len(parsed) == 2
    file.write(text)
    assert grouped.artifact.manifest() == grouped.manifest and len(parsed) == 2


def test_of_many_manifests_the_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "_known", {})
    monkeypatch.setattr(artifacts, "KEPT_RECORDS", 5)
    for i in range(4):
        artifact = Artifact(Location.of(str(tmp_path)), "plan", f"{i:016d}")
        keys = [f"key-{n}" for n in range(2)]
        for key in keys:
            artifact.commit(key, b"data", rows=1, device="cpu")
        artifact.seal(keys)
        assert artifact.manifest() is artifact.manifest()
    assert [m.fingerprint for m in artifacts._known.values()] == [f"{i:016d}" for i in (2, 3)]


def test_a_key_among_a_hundred_thousand_is_found_by_a_few_looks(grouped: Sealed) -> None:
    """A scan for each of them made the cold start of a run of that size take minutes."""

    class Counted(tuple[Record, ...]):
        looks = 0

        def __getitem__(self, at: Any) -> Any:
            Counted.looks += 1
            return super().__getitem__(at)

        def __iter__(self) -> Any:
            raise AssertionError("scanned")

    record = grouped.records[0]
    many = Counted([replace(record, key=f"batch-{i:06d}") for i in range(100_000)])
    sealed = Sealed(grouped.artifact, replace(grouped.manifest, records=many))
    assert sealed.record("batch-099999").key == "batch-099999" and sealed.record("batch-000000").key == "batch-000000"
    for unknown in ("a", "batch-05", "z"):
        with pytest.raises(KeyError):
            sealed.record(unknown)
    assert 5 < Counted.looks < 150


def test_it_is_read_whole_in_the_order_of_the_keys(grouped: Sealed) -> None:
    table = pickle.loads(pickle.dumps(grouped)).read(["image_id"])
    assert table.column_names == ["image_id"] and table["image_id"].to_pylist() == list(range(9))
    assert grouped.table("bucket-001")["image_id"].to_pylist() == [5, 6, 7, 8]
    with pytest.raises(KeyError):
        grouped.record("bucket-002")


def test_it_is_read_class_by_class(grouped: Sealed) -> None:
    """All of them one after the other, or one alone; every row is of its class."""
    seen = {c: table for c, table in grouped.classes(["image_id", "class_index"])}
    assert {c: len(table) for c, table in seen.items()} == {4: 3, 0: 2, 1: 4}
    for class_index, table in seen.items():
        assert set(table["class_index"].to_pylist()) == {class_index}
        assert grouped.of(class_index, ["image_id", "class_index"]).equals(table)


def test_a_class_that_it_has_not_is_told(grouped: Sealed) -> None:
    with pytest.raises(StageFailed, match="classes: class 2 has no rows under "):
        grouped.of(2)


def test_a_spoiled_file_is_named(grouped: Sealed) -> None:
    spoiled = grouped.records[0]
    path = Path(grouped.artifact.location.uri, spoiled.file)
    path.write_bytes(path.read_bytes()[:-1])
    for read in (grouped.read, lambda: grouped.of(4), lambda: list(grouped.classes())):
        with pytest.raises(CorruptArtifact, match=spoiled.file):
            read()
    assert len(grouped.of(1)) == 4, "the other is whole"
