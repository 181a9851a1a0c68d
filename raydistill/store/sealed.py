"""A finished stage: its artifact with the manifest that was sealed last. This is how it travels to whoever reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from raydistill.errors import StageFailed
from raydistill.store.artifact import Artifact, Manifest, Record


@dataclass(frozen=True)
class Sealed:
    """Cheap to make and to send to workers: it holds names and digests, no data.

    What reads data raises CorruptArtifact for a file that is not as it was committed.
    """

    artifact: Artifact
    manifest: Manifest

    @classmethod
    def finished(cls, artifact: Artifact) -> Sealed | None:
        """None before its stage is finished. Raises as Artifact.manifest does."""
        manifest = artifact.manifest()
        return None if manifest is None else cls(artifact, manifest)

    def identity(self) -> str:
        """What it is to whatever is made of it (declared.py)."""
        return self.manifest.digest

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def rows(self) -> int:
        return self.manifest.rows

    @property
    def records(self) -> tuple[Record, ...]:
        return self.manifest.records

    def record(self, key: str) -> Record:
        """Raises KeyError for a key that the stage has not. Records are in the order of their keys, and may be many."""
        at = bisect_left(self.records, key, key=lambda record: record.key)
        if at == len(self.records) or self.records[at].key != key:
            raise KeyError(key)
        return self.records[at]

    def table(self, key: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a key."""
        return self.artifact.read_table(self.record(key), columns=_list(columns))

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, in the order of the keys."""
        return pa.concat_tables([self.artifact.read_table(r, columns=_list(columns)) for r in self.records])

    def body(self) -> bytes:
        """The one file of a stage that makes one, such as the JSON of a measured set."""
        (record,) = self.records
        return self.artifact.read(record)

    # -- of stages whose files hold whole classes one after the other, as group's and embed's do ------------------

    def classes(self, columns: Sequence[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
        """The rows of one class after the other, by class index; a file is held at a time."""
        for record in self.records:
            table = self.artifact.read_table(record, columns=_list(columns))
            for class_index, start, count in _bounds(record):
                yield class_index, table.slice(start, count)

    def of(self, class_index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a class, without reading those of others. Raises StageFailed if it has none."""
        for record in self.records:
            for index, start, count in _bounds(record):
                if index == class_index:
                    self.artifact.verify_once(record)
                    return self.artifact.read_rows(record, start, start + count, _list(columns))
        raise StageFailed(f"{self.artifact.stage}: class {class_index} has no rows under {self.artifact.location}")


def _list(columns: Sequence[str] | None) -> list[str] | None:
    return None if columns is None else list(columns)


def _bounds(record: Record) -> Iterator[tuple[int, int, int]]:
    """Class index, first row and number of rows of each class of a file."""
    start = 0
    for class_index, count in zip(record.meta["classes"], record.meta["counts"], strict=True):
        yield class_index, start, count
        start += count
