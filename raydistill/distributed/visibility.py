"""What a node has to see, and how it proves that it does: a token exchanged, images and weights compared.

Pure: no Ray here, so that a test can tell the check to look elsewhere. `distributed/nodes.py` runs it on every node.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from raydistill.config import SourceConfig
from raydistill.errors import RaydistillError, StageFailed
from raydistill.identity import digest
from raydistill.models.checkpoint import PIPELINE
from raydistill.sources.base import Listing, open_source
from raydistill.store.location import Location
from raydistill.store.rundir import PROBE, RunDir

SAMPLE = 2**20  # bytes compared at each end of a file: whole weights on every node would cost minutes


@dataclass(frozen=True)
class Token:
    """A file that the driver puts into a folder: who reads `secret` there and answers beside it shares the folder."""

    what: str
    folder: Location
    name: str
    secret: str

    def answer(self, node: str) -> tuple[Location, bytes]:
        """Where a node answers, and what."""
        return self.folder / f"{self.name}-{node}", digest(f"{self.secret} {node}".encode()).encode()


@dataclass(frozen=True)
class Image:
    """An image of the source by the digest of its encoded bytes."""

    split: str
    image_id: str
    sha256: str


@dataclass(frozen=True)
class File:
    """A file of a model's directory: `what` is the configuration key, `sample` the digest of its size and both ends."""

    what: str
    path: str
    sample: str


@dataclass(frozen=True)
class Needs:
    """All that a node must see. Small: it travels to every node."""

    tokens: tuple[Token, ...]
    source: SourceConfig
    images: tuple[Image, ...]
    files: tuple[File, ...]


def needs(run: RunDir, source: SourceConfig, listings: Sequence[Listing], models: dict[str, Path]) -> Needs:
    """What the driver sees: both ends of each listing, and the files of `models` (key -> file or directory).

    Tokens are new ones, which `laid_out` puts down.
    """
    places = {run.artifacts: "artifact_dir"} | {run.root: "run_dir"}  # one and the same place is called run_dir
    tokens = [Token(what, folder, f"{PROBE}{uuid.uuid4().hex}", uuid.uuid4().hex) for folder, what in places.items()]
    images = [
        Image(listing.split, image_id, digest(data))
        for listing in listings
        for image_id, data in _ends(source, listing)
    ]
    files = [
        File(what, str(path), sample_of(path))
        for what, folder in models.items()
        for path in ([folder] if folder.is_file() else _of_model(folder))
    ]
    return Needs(tuple(tokens), source, tuple(images), tuple(files))


def _of_model(folder: Path) -> list[Path]:
    """What a model's directory holds, and not what lies there for others."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix in (".json", ".safetensors"))
    return [p for p in files if p.relative_to(folder).parts[0] != PIPELINE]


def _ends(source: SourceConfig, listing: Listing) -> Iterator[tuple[str, bytes]]:
    """The first and the last image: a copy that stopped half-way holds only one of them."""
    ids = list(dict.fromkeys([listing.ids[0].as_py(), listing.ids[-1].as_py()]))
    yield from zip(ids, open_source(source).read(listing.split, ids), strict=True)


def sample_of(path: str | Path) -> str:
    """Digest of a file's size, first and last MiB. Raises OSError."""
    with open(path, "rb") as f:
        size = f.seek(0, os.SEEK_END)
        f.seek(0)
        head = f.read(SAMPLE)
        f.seek(max(0, size - SAMPLE))
        return digest(str(size).encode() + b"\n" + head + f.read(SAMPLE))


def probe(wanted: Needs, node: str) -> list[str]:
    """What `node`, on which this runs, does not see, in the user's words; empty if it sees everything.

    Answers each token that it finds. Where it finds none it writes nothing.
    """
    blind = [_token(t, node) for t in wanted.tokens]
    blind.append(_images(wanted.source, wanted.images))
    for what in dict.fromkeys(f.what for f in wanted.files):
        blind.append(_files([f for f in wanted.files if f.what == what]))
    return list(filter(None, blind))


def _token(token: Token, node: str) -> str:
    try:
        if (token.folder / token.name).read() != token.secret.encode():
            return f"{token.what} {token.folder}"
    except (OSError, RaydistillError):
        return f"{token.what} {token.folder}"
    try:
        answer, text = token.answer(node)
        answer.write(text)
    except StageFailed:
        return f"{token.what} {token.folder} for writing"
    return ""


def _images(source: SourceConfig, images: Sequence[Image]) -> str:
    for image in images:
        try:
            (data,) = open_source(source).read(image.split, [image.image_id])
        except Exception:  # readers of others raise what they like; whatever it is, the image is not seen
            data = b""
        if digest(data) != image.sha256:
            return f"source.path {source.path or source.kind} (split {image.split}, {image.image_id})"
    return ""


def _files(files: Sequence[File]) -> str:
    """The first file of a model that is not seen, and how many more."""
    missing = list(filter(None, map(_file, files)))
    more = f" and {len(missing) - 1} more of its files" if len(missing) > 1 else ""
    return missing[0] + more if missing else ""


def _file(file: File) -> str:
    try:
        seen = sample_of(file.path)
    except OSError:
        return f"{file.what} {file.path}"
    return "" if seen == file.sample else f"{file.what} {file.path} (it has another file there)"


def unanswered(wanted: Needs, node: str) -> list[str]:
    """The folders in which the driver does not find the answer of a node that says it saw everything."""
    missing = []
    for token in wanted.tokens:
        answer, text = token.answer(node)
        try:
            seen = answer.read() == text
        except OSError:
            seen = False
        if not seen:
            missing.append(f"{token.what} {token.folder}")
    return missing


@contextmanager
def laid_out(wanted: Needs, nodes: Sequence[str]) -> Iterator[None]:
    """Puts the tokens down, and takes them, the answers of `nodes` and the folders made for them away again."""
    folders: list[str] = []
    try:
        for token in wanted.tokens:
            folders += _missing_folders(token.folder)
            (token.folder / token.name).write(token.secret.encode())
        yield
    finally:
        for token in wanted.tokens:
            for location in [token.folder / token.name, *(token.answer(node)[0] for node in nodes)]:
                with suppress(OSError, StageFailed):  # a role may be allowed to write and not to remove
                    location.delete()
        for folder in sorted(set(folders), key=len, reverse=True):
            with suppress(OSError):  # not empty: somebody else has begun to use it
                os.rmdir(folder)


def _missing_folders(folder: Location) -> list[str]:
    """The local folders that writing into `folder` makes."""
    path, missing = folder.uri, []
    while folder.is_local and not os.path.exists(path):
        missing.append(path)
        path = os.path.dirname(path)
    return missing
