"""What an artifact holds, against its digests: every record, the manifest, every byte of data."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from pyarrow import fs as pafs

from raydistill import strict_json
from raydistill.identity import canonical, digest
from raydistill.store.artifact import Artifact, Record, sealed_body
from raydistill.store.findings import Finding, Kind
from raydistill.store.location import Location, NoFile, reason, remedy

AGAIN_S = 1.0  # until what looks damaged is looked at again
LOOKS = 10
YOUNG_S = 7200.0  # far longer than data, and then their commit, take to be written: the longest deadline by default
LEFT_ALONE = f"; left alone for {YOUNG_S / 3600:g} h: another run may be at work here"
COMMIT = re.compile(r"(?P<key>[^/]+)~(?P<stamp>[0-9a-f]{16})\.json")
DATA = re.compile(r"[^/]+-[0-9a-f]{16}\.\w+")
MANIFEST = "manifest.json"

T = TypeVar("T")
Seen = Callable[[int], None]  # is told the bytes of each file that has been read


class Text(Enum):
    """What a commit record is."""

    WHOLE = "whole"
    TORN = "torn"  # the beginning of one, or nothing that can be read
    CHANGED = "changed"  # complete, and another than its name says
    GONE = "gone"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Commit:
    """A file under commits/; `record` is None unless it is whole or foreign and could be read."""

    name: str
    key: str
    text: Text
    record: Record | None = None

    def at(self, artifact: Artifact) -> Location:
        return artifact.location / "commits" / self.name


def inspect(
    artifact: Artifact, pool: Executor, seen: Seen, looks: Callable[[], int] = lambda: 1, shared: bool = False
) -> list[Finding]:
    """Everything that is wrong with an artifact. A run that works on it meanwhile is no fault; `looks` as of `steady`.

    Of a `shared` one nobody knows who works on it: what is young there and no key yet is left alone.
    The manifest is read first and the data are listed before the commits: what comes in between is in the later one.
    """
    sealed, findings = _manifest(artifact, looks)
    try:
        files = (artifact.location / "data").infos()
        infos = sorted((artifact.location / "commits").infos(), key=lambda i: (i.mtime_ns or 0, i.base_name))
    except OSError as e:  # a file in the place of a folder, no right to read it
        return [
            Finding(Kind.DAMAGED, artifact.location, f"cannot be listed: {reason(e)}; move away what is in its place")
        ]
    names = [i.base_name for i in infos if i.type == pafs.FileType.File and COMMIT.fullmatch(i.base_name)]
    commits = list(pool.map(lambda n: _commit(artifact, n), names))
    findings += _foreign(artifact, commits)
    fresh = young([*files, *infos]) if shared and sealed is None else frozenset[str]()
    whole = [c for c in commits if c.text is Text.WHOLE]
    if sealed is not None:
        findings += _against_manifest(artifact, sealed, commits)
        standing = {r.key: r for r in sealed}
    else:
        findings += _unsealed(artifact, commits, fresh)
        standing = {}
        for c in whole:
            assert c.record is not None
            standing.setdefault(c.key, c.record)
        torn = any(f.location.name == MANIFEST for f in findings)
        if not torn and (names or files):
            text = f"{len(standing)} keys have been committed; the same command goes on"
            findings.append(Finding(Kind.UNFINISHED, artifact.location, text, part=artifact))
    findings += _second(artifact, whole, standing, sealed is not None)
    ours = {i.base_name: i.type == pafs.FileType.File for i in files}
    checked = pool.map(
        lambda r: _data(artifact, r, ours.get(r.file.removeprefix("data/"), True), seen), standing.values()
    )
    findings += [f for f in checked if f is not None]
    named = {r.file for r in standing.values()} | {c.record.file for c in whole if c.record is not None}
    known = {*names, *(f.location.name for f in findings)}
    findings += _extras(artifact, files, named, fresh)
    findings += _strangers(artifact, [i for i in infos if i.base_name not in known])
    return findings


def young(infos: Sequence[pafs.FileInfo]) -> frozenset[str]:
    """The names of files that somebody may just be writing."""
    return frozenset(i.base_name for i in infos if time.time() - (i.mtime_ns or 0) / 1e9 < YOUNG_S)


def steady(probe: Callable[[], T], is_whole: Callable[[T], bool], looks: Callable[[], int]) -> T:
    """What a look sees if it is whole, or else what so many more agree on: damage stays, what a run writes changes."""
    seen, agreed = probe(), 0
    for _ in range(LOOKS):
        if is_whole(seen) or agreed >= looks():
            break
        time.sleep(AGAIN_S)
        before, seen = seen, probe()
        agreed = agreed + 1 if seen == before else 0
    return seen


def _manifest(artifact: Artifact, looks: Callable[[], int]) -> tuple[tuple[Record, ...] | None, list[Finding]]:
    """The records of the manifest, None without one that holds; and what is wrong with it."""
    location = artifact.location / MANIFEST
    if _read(location) is None:
        return None, []
    text = steady(lambda: _read(location) or b"", lambda content: _sealed_body(content) is not None, looks)
    body = _sealed_body(text)

    def is_so() -> bool:
        return (_read(location) or text) == text

    if body is None:
        what = "is not what was sealed; sealing again gives the same bytes"
        return None, [_taken(Kind.DAMAGED, location, what, artifact, is_so)]
    try:
        belongs = f"{body['stage']}/{body['fingerprint']}"
        records = tuple(_plain(Record.of(r)) for r in body["records"])
    except (KeyError, TypeError, ValueError):
        belongs, records = "another version of raydistill", ()
    if belongs != f"{artifact.stage}/{artifact.fingerprint}":
        return None, [_taken(Kind.FOREIGN, location, f"belongs to {belongs}", artifact, is_so)]
    return records, []


def _sealed_body(text: bytes) -> dict[str, Any] | None:
    try:
        return sealed_body(text)
    except (ValueError, KeyError, TypeError):
        return None


def _plain(record: Record) -> Record:
    """A record that names a file of its artifact. Raises ValueError for one that points elsewhere, TypeError."""
    folder, _, name = record.file.partition("/")
    if folder != "data" or not DATA.fullmatch(name) or "/" in record.key:
        raise ValueError("it names no file of an artifact")
    return record


def _commit(artifact: Artifact, name: str) -> Commit:
    match = COMMIT.fullmatch(name)
    assert match is not None
    key = match["key"]
    text = _read(artifact.location / "commits" / name)
    if text is None:
        return Commit(name, key, Text.GONE)
    if digest(text)[:16] != match["stamp"]:
        return Commit(name, key, Text.CHANGED if _complete(text) else Text.TORN)
    try:
        record = _plain(Record.of(strict_json.mapping(text)))
    except (TypeError, ValueError):
        return Commit(name, key, Text.FOREIGN)
    ours = record.fingerprint == artifact.fingerprint and record.key == key
    return Commit(name, key, Text.WHOLE if ours else Text.FOREIGN, record)


def _complete(text: bytes) -> bool:
    try:
        return bool(json.loads(text))
    except (ValueError, RecursionError):
        return False


def _foreign(artifact: Artifact, commits: Sequence[Commit]) -> Iterator[Finding]:
    for c in commits:
        if c.text is Text.FOREIGN:
            of = (
                f"key {c.record.key} of artifact {c.record.fingerprint}"
                if c.record
                else "another version of raydistill"
            )
            yield _taken(
                Kind.FOREIGN, c.at(artifact), f"is a commit of {of}", artifact, partial(_is_still, artifact, c)
            )


def _taken(kind: Kind, at: Location, what: str, part: Artifact | None, is_so: Callable[[], bool]) -> Finding:
    """One that is mended by taking the file away."""
    return Finding(kind, at, what, drop=(at,), part=part, is_so=is_so)


def _is_still(artifact: Artifact, commit: Commit) -> bool:
    return _commit(artifact, commit.name) == commit


def _against_manifest(artifact: Artifact, sealed: Sequence[Record], commits: Sequence[Commit]) -> Iterator[Finding]:
    """Commits that the manifest names can be written again from it; others are of no use any more."""
    seen = {c.name: c for c in commits}
    for record in sealed:
        text = canonical(vars(record)).encode()
        name = f"{record.key}~{digest(text)[:16]}.json"
        c = seen.pop(name, None) or _commit(artifact, name)
        if c.text is Text.GONE:
            yield Finding(Kind.MISSING, c.at(artifact), f"is the commit of key {record.key}", text)
        elif c.text is not Text.WHOLE:
            yield Finding(Kind.DAMAGED, c.at(artifact), f"is not the commit of key {record.key} any more", text)
    for c in seen.values():
        if c.text in (Text.TORN, Text.CHANGED):
            yield _taken(Kind.LEFT_OVER, c.at(artifact), "is a torn commit", None, partial(_is_still, artifact, c))


def _unsealed(artifact: Artifact, commits: Sequence[Commit], fresh: frozenset[str]) -> Iterator[Finding]:
    """An interrupted write leaves the beginning of a commit: its key is computed again. Another text is damage."""
    whole = {c.key for c in commits if c.text is Text.WHOLE}
    for c in commits:
        at, is_so = c.at(artifact), partial(_is_still, artifact, c)
        if c.text is Text.TORN and c.name in fresh:
            yield Finding(Kind.LEFT_OVER, at, f"is the beginning of a commit{LEFT_ALONE}")
        elif c.text is Text.TORN or (c.text is Text.CHANGED and c.key in whole):
            yield _taken(Kind.LEFT_OVER, at, "is a torn commit", None, is_so)
        elif c.text is Text.CHANGED:
            yield _taken(Kind.DAMAGED, at, f"is not the commit of key {c.key} any more", artifact, is_so)


def _second(
    artifact: Artifact, whole: Sequence[Commit], standing: dict[str, Record], is_sealed: bool
) -> Iterator[Finding]:
    """Commits that lost to another of their key; one kind of device that disagrees with itself is a fault.

    What is sealed has been read by others and stands; otherwise nobody knows which is right, and both go.
    """
    for c in whole:
        assert c.record is not None
        first = standing.get(c.key)
        if c.record == first:
            continue
        at, file = c.at(artifact), artifact.location / c.record.file
        drop = (at, file) if first is None or first.file != c.record.file else (at,)
        if first is not None and c.record.contradicts(first):
            files = f"({first.file}, {c.record.file})"
            what = f"key {c.key} was computed twice on {first.device!r} with different bytes {files}"
            both = () if is_sealed else _names_of(artifact, first)
            part = None if is_sealed else artifact
            yield Finding(Kind.DAMAGED, at, f"{what}: report it", drop=(*both, at, file), part=part)
        else:
            yield Finding(Kind.LEFT_OVER, at, f"is a second commit of key {c.key}, which lost", drop=drop)


def _data(artifact: Artifact, record: Record, is_file: bool, seen: Seen) -> Finding | None:
    """Reads the data of a commit. To compute a key again, its stage must be open: no manifest, no commit, no data."""
    location = artifact.location / record.file

    def is_so() -> bool:
        return _data(artifact, record, is_file, lambda size: None) is not None

    finding = Finding(Kind.DAMAGED, location, "", drop=_names_of(artifact, record), part=artifact, is_so=is_so)
    if not is_file:
        return replace(finding, what=f"(key {record.key}) is no file", drop=finding.drop[:-1])
    try:
        size, sha256 = location.digest()
    except FileNotFoundError:
        return replace(finding, kind=Kind.MISSING, what=f"is the data of key {record.key}")
    except OSError as e:  # it may be whole: nothing that makes its key done goes
        return replace(finding, what=f"(key {record.key}) cannot be read: {reason(e)}; {remedy(e)}", drop=(), part=None)
    seen(size)
    if (size, sha256) == (record.bytes, record.sha256):
        return None
    return replace(
        finding, what=f"(key {record.key}) is not what was committed ({size} bytes, {record.bytes} committed)"
    )


def _names_of(artifact: Artifact, record: Record) -> tuple[Location, ...]:
    """What makes a key done, in the order in which it has to go."""
    name = f"{record.key}~{digest(canonical(vars(record)).encode())[:16]}.json"
    return artifact.location / MANIFEST, artifact.location / "commits" / name, artifact.location / record.file


def _extras(
    artifact: Artifact, files: Sequence[pafs.FileInfo], named: set[str], fresh: frozenset[str]
) -> Iterator[Finding]:
    """Data that no commit names: ours by their name, or somebody's."""
    for info in sorted(files, key=lambda i: i.base_name):
        location = artifact.location / "data" / info.base_name
        if f"data/{info.base_name}" in named:
            continue
        if info.type != pafs.FileType.File or not DATA.fullmatch(info.base_name):
            yield Finding(Kind.NOT_OURS, location, "is left alone")
        elif info.base_name in fresh:
            yield Finding(Kind.LEFT_OVER, location, f"{info.size} bytes that no commit names yet{LEFT_ALONE}")
        else:
            what = f"{info.size} bytes that no commit names"
            yield _taken(Kind.LEFT_OVER, location, what, None, partial(_is_nameless, artifact, info.base_name))


def _is_nameless(artifact: Artifact, name: str) -> bool:
    """Whether no commit names these data now."""
    start = f"{name.rpartition('-')[0]}~"
    names = [n for n in (artifact.location / "commits").list() if n.startswith(start) and COMMIT.fullmatch(n)]
    records = [c.record for c in (_commit(artifact, n) for n in names) if c.text is Text.WHOLE]
    return all(record is None or record.file != f"data/{name}" for record in records)


def _strangers(artifact: Artifact, others: Sequence[pafs.FileInfo]) -> Iterator[Finding]:
    """What somebody put among the commits, and beside them."""
    for info in sorted(others, key=lambda i: i.base_name):
        yield Finding(Kind.NOT_OURS, artifact.location / "commits" / info.base_name, "is left alone")
    for name in artifact.location.list():
        if name not in ("data", "commits", MANIFEST):
            yield Finding(Kind.NOT_OURS, artifact.location / name, "is left alone")


def _read(location: Location) -> bytes | None:
    """The bytes, None if it is not there; nothing of a folder. Raises CannotRead: nobody knows what it says."""
    try:
        return location.read()
    except FileNotFoundError:
        return None
    except NoFile:
        return b""
