"""An artifact is one stage's output under its fingerprint: data, commit records, and a manifest sealed last.

    STAGE/FINGERPRINT/data/KEY-<hash of the data>.EXT          invisible until a record names it
    STAGE/FINGERPRINT/commits/KEY~<hash of the record>.json    small, whole, checks itself: a torn record is no record
    STAGE/FINGERPRINT/manifest.json                            written by the driver when every key is there

Neither rename nor locks: names contain content hashes, so two attempts that agree write the same objects, and two that
disagree leave two records, of which the first stands and the difference is reported.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raydistill import strict_json
from raydistill.errors import CorruptArtifact, DeterminismFault, StageFailed
from raydistill.identity import canonical, digest
from raydistill.store import faults
from raydistill.store.location import Location, NoFile
from raydistill.store.tables import table_bytes

INEXACT = "inexact"  # in a record's meta: the same computation may give other bytes on the same kind of device
MAX_MANIFEST = 2**30  # bytes: some four million keys
KEPT_RECORDS = 2**17  # of manifests that a process keeps, the last one apart: some 300 MB
LISTED_LATE_S = (0.5, 1.0, 2.0, 4.0)  # between looks for a commit that a listing does not show


@dataclass(frozen=True)
class Record:
    """A commit: `key` is done and `file` (relative to the artifact) holds it. `meta` is JSON-able and deterministic."""

    key: str
    file: str
    rows: int
    bytes: int
    sha256: str
    fingerprint: str
    device: str
    meta: dict[str, Any] = field(default_factory=dict)

    def contradicts(self, other: Record) -> bool:
        """Whether one kind of device says two things of one key. Who computes inexactly promises no bytes."""
        promised = not (self.meta.get(INEXACT) and other.meta.get(INEXACT))
        return promised and self.device == other.device and self.sha256 != other.sha256

    @classmethod
    def of(cls, tree: Any) -> Record:
        """The record of what was read back. Raises ValueError or TypeError for what is none."""
        record = cls(**tree)
        texts = (record.key, record.file, record.sha256, record.fingerprint, record.device)
        if not (_are(str, *texts) and _are(int, record.rows, record.bytes) and _are(dict, record.meta)):
            raise ValueError("a field is of another type")
        return record


@dataclass(frozen=True)
class Manifest:
    """All keys of a finished stage, in key order, and a summary. `digest` identifies the content for downstream.

    `numbers` are what people want to know of the data. They follow from them, so that `digest` leaves them out.
    """

    stage: str
    fingerprint: str
    records: tuple[Record, ...]
    summary: dict[str, Any]
    digest: str
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(r.rows for r in self.records)


class Artifact:
    """The output folder of one stage under one fingerprint. Cheap to make and to send to workers."""

    def __init__(self, root: Location, stage: str, fingerprint: str) -> None:
        self.stage = stage
        self.fingerprint = fingerprint
        self.location = root / stage / fingerprint

    def commit(
        self, key: str, data: bytes, *, rows: int, device: str, ext: str = "parquet", meta: dict[str, Any] | None = None
    ) -> Record:
        """Writes the data, then the record that makes it visible. The same bytes twice are one commit."""
        sha = digest(data)
        file = f"data/{key}-{sha[:16]}.{ext}"
        record = Record(key, file, rows, len(data), sha, self.fingerprint, device, meta or {})
        name, text = commit_file(record)
        commit = self.location / "commits" / name
        if (self.location / file).size() == len(data) and _text(commit) == text:
            return record  # a second attempt rewrites nothing, so the age of a commit is that of the first attempt
        faults.reach(self.stage, "before_write", key)
        (self.location / file).write(data)
        faults.reach(self.stage, "before_commit", key)
        commit.write(text)
        faults.reach(self.stage, "after_commit", key)
        return record

    def commit_table(
        self,
        key: str,
        table: pa.Table,
        *,
        device: str,
        meta: dict[str, Any] | None = None,
        row_groups: Sequence[int] | None = None,
    ) -> Record:
        """Commits a table as Parquet; `row_groups` gives the number of rows of each row group, in order."""
        return self.commit(key, table_bytes(table, row_groups), rows=table.num_rows, device=device, meta=meta)

    def seal(
        self,
        keys: Sequence[str],
        summary: dict[str, Any] | None = None,
        numbers: dict[str, Any] | None = None,
        known: Iterable[Record] = (),
    ) -> Manifest:
        """Writes the manifest once every key is committed; `known` as in `records`. Raises StageFailed naming missing
        keys. An object store may list late what was just put: it is asked again for some seconds."""
        records = self.records(known)
        for pause_s in () if self.location.is_local else LISTED_LATE_S:
            if all(k in records for k in keys):
                break
            time.sleep(pause_s)
            records = self.records(records.values())
        missing = [k for k in keys if k not in records]
        if missing:
            raise StageFailed(
                f"{self.stage}: {len(missing)} of {len(keys)} keys have no commit (first {missing[0]}); "
                "run the same command again"
            )
        body: dict[str, Any] = {
            "stage": self.stage,
            "fingerprint": self.fingerprint,
            "summary": summary or {},
            "records": [vars(records[k]) for k in sorted(keys)],  # asdict would copy each
        }
        body["digest"] = digest(canonical(body).encode())
        if numbers:
            body |= {"numbers": numbers, "numbers_digest": _numbers_digest(body["digest"], numbers)}
        faults.reach(self.stage, "before_manifest", "manifest")
        (self.location / "manifest.json").write(canonical(body).encode())
        faults.reach(self.stage, "after_manifest", "manifest")
        return _manifest(body)

    def records(self, known: Iterable[Record] = ()) -> dict[str, Record]:
        """All valid commits by key; of several for one key, the oldest. Torn records and removed ones are ignored.

        `known` are those that somebody has just made or read: they are not read again, which on an object store is a
        request each, nor must a listing that comes late show them. Raises DeterminismFault if one kind of device
        disagrees with itself, CorruptArtifact for a foreign record.
        """
        folder = self.location / "commits"
        names = [n for n in folder.list_by_age() if n.endswith(".json") and "~" in n]
        by_name, listed = {commit_file(record)[0]: record for record in known}, set(names)
        unlisted = [name for name in by_name if name not in listed]  # too new, or taken away
        by_key: dict[str, Record] = {}
        of_device: dict[tuple[str, str], Record] = {}
        with ThreadPoolExecutor(16) as pool:
            read = pool.map(self._record, (folder / n for n in names if n not in by_name))
            again = pool.map(self._record, (folder / n for n in unlisted))
            ordered = [by_name[n] if n in by_name else next(read) for n in names]
            for record in filter(None, [*ordered, *again]):
                by_key.setdefault(record.key, record)
                other = of_device.setdefault((record.key, record.device), record)
                if record.contradicts(other):
                    raise DeterminismFault(
                        f"{self.stage}: key {record.key} was computed twice on {record.device!r} with different bytes "
                        f"({other.file}, {record.file} under {self.location}); delete {self.location} to start this "
                        "stage anew, and report it"
                    )
        return by_key

    def _record(self, location: Location) -> Record | None:
        """What a commit says; None for a torn one, or none. Raises CorruptArtifact for a foreign one."""
        key, _, stamp = location.name.removesuffix(".json").rpartition("~")
        text = _text(location)
        return None if text is None or digest(text)[:16] != stamp else self._parse(location, key, text)

    def _parse(self, location: Location, key: str, text: bytes) -> Record:
        try:
            record = Record.of(strict_json.mapping(text))
        except (TypeError, ValueError):
            raise CorruptArtifact(
                f"{self.stage}: {location} is not a commit of this version of raydistill; "
                f"delete {self.location} and run the same command again to rebuild it"
            ) from None
        if record.fingerprint != self.fingerprint or record.key != key:
            raise CorruptArtifact(
                f"{self.stage}: {location} is the commit of key {record.key} of artifact "
                f"{record.fingerprint}; it was copied here: delete it"
            )
        return record

    def manifest(self) -> Manifest | None:
        """The sealed manifest, or None. A torn one counts as none: sealing again gives the same bytes.

        Raises CorruptArtifact for one of another stage, CannotRead for a folder in its place.
        """
        try:
            manifest = _parsed((self.location / "manifest.json").read())
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        if (manifest.fingerprint, manifest.stage) != (self.fingerprint, self.stage):
            raise CorruptArtifact(
                f"{self.location}/manifest.json belongs to {manifest.stage}/{manifest.fingerprint}; "
                f"it was copied here: delete {self.location} and run the same command again"
            )
        return manifest

    def read(self, record: Record) -> bytes:
        """A committed file, checked. Raises CorruptArtifact naming the file, the key and the remedy."""
        location = self.location / record.file
        try:
            data = location.read()
        except FileNotFoundError:
            raise self._corrupt(record, "is missing") from None
        except NoFile:
            raise self._corrupt(record, "is no file") from None
        if len(data) != record.bytes or digest(data) != record.sha256:
            raise self._corrupt(record, _mismatch(len(data), record))
        return data

    def read_table(self, record: Record, row_group: int | None = None, columns: list[str] | None = None) -> pa.Table:
        """A committed Parquet file, or one of its row groups. The bytes are checked before they are parsed."""
        file = pq.ParquetFile(io.BytesIO(self.read(record)))
        return file.read(columns) if row_group is None else file.read_row_group(row_group, columns)

    def read_row_group(self, record: Record, row_group: int) -> pa.Table:
        """One row group without reading the rest of the file. Call `verify` on the record first."""
        with self._opened(record) as file:
            return file.read_row_group(row_group)

    def read_rows(self, record: Record, start: int, stop: int, columns: list[str] | None = None) -> pa.Table:
        """Some consecutive rows, from the row groups that hold them. Call `verify` on the record first."""
        with self._opened(record) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            ends = list(accumulate(sizes))
            groups = [i for i, end in enumerate(ends) if end > start and end - sizes[i] < stop]
            first = ends[groups[0]] - sizes[groups[0]] if groups else start
            return file.read_row_groups(groups, columns).slice(start - first, stop - start)

    @contextmanager
    def _opened(self, record: Record) -> Iterator[pq.ParquetFile]:
        """A committed Parquet file, read as it is needed. Raises CannotRead, FileNotFoundError."""
        location = self.location / record.file
        fs, path = location.filesystem()
        with location.reading(), pq.ParquetFile(path, filesystem=fs) as file:
            yield file

    def verify(self, records: Iterable[Record]) -> None:
        """Reads and checks every file, in pieces. Raises CorruptArtifact for the first that fails."""
        for record in records:
            try:
                size, sha256 = (self.location / record.file).digest()
            except FileNotFoundError:
                raise self._corrupt(record, "is missing") from None
            except NoFile:
                raise self._corrupt(record, "is no file") from None
            if size != record.bytes or sha256 != record.sha256:
                raise self._corrupt(record, _mismatch(size, record))

    def verify_once(self, record: Record) -> None:
        """As verify, on a process's first visit only."""
        file_version = (str(self.location), record.file, record.sha256)
        if file_version not in _verified:
            self.verify([record])
            _verified.add(file_version)

    def _corrupt(self, record: Record, what: str) -> CorruptArtifact:
        return CorruptArtifact(
            f"{self.stage}: {self.location / record.file} (key {record.key}) {what}; "
            f"delete {self.location} and run the same command again to rebuild it"
        )


def commit_file(record: Record) -> tuple[str, bytes]:
    """The name and the text of a record's commit."""
    text = canonical(vars(record)).encode()
    return f"{record.key}~{digest(text)[:16]}.json", text


_known: dict[str, Manifest] = {}  # by the digest of its text, what was asked for last behind the others
_verified: set[tuple[str, str, str]] = set()  # files that this process has found as they were committed


def _mismatch(size: int, record: Record) -> str:
    return f"does not match its commit ({size} bytes, expected {record.bytes})"


def _text(location: Location) -> bytes | None:
    """The bytes of an object, None if it is not there (any more)."""
    try:
        return location.read()
    except FileNotFoundError:
        return None


def sealed_body(text: bytes) -> dict[str, Any]:
    """What a manifest's text holds. Raises KeyError, TypeError or ValueError for what is not as it was sealed."""
    body = strict_json.mapping(text, MAX_MANIFEST)
    content = {name: value for name, value in body.items() if name not in ("digest", "numbers", "numbers_digest")}
    claimed, numbers = body["digest"], body.get("numbers")
    if digest(canonical(content).encode()) != claimed:
        raise ValueError("its content is another")
    if body.get("numbers_digest") != (None if numbers is None else _numbers_digest(claimed, numbers)):
        raise ValueError("its numbers are others")
    return body


def _parsed(text: bytes) -> Manifest:
    """A manifest by its text: what this process has read and checked before is not parsed again (17 us a key)."""
    key = digest(text)
    manifest = _known.pop(key, None) or _manifest(sealed_body(text))
    _known[key] = manifest
    kept = 0
    for other, m in reversed(list(_known.items())):
        if (kept := kept + len(m.records)) > KEPT_RECORDS and other != key:
            _known.pop(other, None)
    return manifest


def _numbers_digest(content: str, numbers: dict[str, Any]) -> str:
    return digest(canonical([content, numbers]).encode())


def _manifest(body: dict[str, Any]) -> Manifest:
    """Raises KeyError, TypeError or ValueError for what is none."""
    records = tuple(Record.of(r) for r in body["records"])
    numbers = body.get("numbers", {})
    if not (_are(str, body["stage"], body["fingerprint"]) and _are(dict, body["summary"], numbers)):
        raise ValueError("a field is of another type")
    return Manifest(body["stage"], body["fingerprint"], records, body["summary"], body["digest"], numbers)


def _are(kind: type, *values: Any) -> bool:
    return all(type(v) is kind for v in values)
