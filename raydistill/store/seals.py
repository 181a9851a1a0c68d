"""Seals: what the files that people read held when the program wrote them.

    RUN/seals/NAME.json      one a file, "/" in NAME written as "%2F"; it checks itself: a torn seal is no seal

What stages read has commits; result.json, config.yaml, report.html, logs/costs.json and distilled/ have seals. A file
is written first and sealed next, so an interruption leaves a file that does not match, which is written again.
"""

from __future__ import annotations

import random
import time
from dataclasses import asdict, dataclass
from enum import Enum
from urllib.parse import quote, unquote

from raydistill import strict_json
from raydistill.errors import CorruptArtifact
from raydistill.identity import canonical, digest
from raydistill.store.location import LOOKS, Location, NoFile

FOLDER = "seals"
MAX_BYTES = 2**16  # of a seal
PAUSE_S = 0.005  # the longest before a file is written again, doubled each time
MAX_COPY = 2**14  # characters of a file that a seal holds


@dataclass(frozen=True)
class Seal:
    """`name` is relative to the run directory; `made_from` is the identity of what the file was made from, or "".

    `copy` is the text of a small file that nothing could make again, "" for others.
    """

    name: str
    bytes: int
    sha256: str
    made_from: str
    copy: str = ""


class State(Enum):
    WHOLE = "whole"
    MISSING = "missing"  # sealed, but not there
    CHANGED = "changed"  # it is not what was sealed, or no file
    UNSEALED = "unsealed"  # there, without a seal that can be read


def write(root: Location, name: str, data: bytes, made_from: str = "", copy: str = "") -> bool:
    """Writes the file, then its seal, each if it is another; True if the file was. Raises StageFailed.

    Another driver of the same run may write its own at the same moment: who finds a mixture of both writes again, so
    that in the end one of them stands whole. Each waits for a time of its own before: in step they would spoil each
    other's every attempt.
    """
    seal = Seal(name, len(data), digest(data), made_from, copy)
    changed = _write(root, seal, data)
    for attempt in range(LOOKS):
        if not changed or state(root, name) is State.WHOLE:
            break
        time.sleep(random.uniform(0, PAUSE_S * 2**attempt))
        _write(root, seal, data)
    return changed


def _write(root: Location, seal: Seal, data: bytes) -> bool:
    name = seal.name
    changed = not holds(root, name, data)
    if changed:
        (root / name).write(data)
    if find(root, name) != seal:
        body = asdict(seal)
        location(root, name).write(canonical({**body, "check": digest(canonical(body).encode())}).encode())
    return changed


def holds(root: Location, name: str, data: bytes) -> bool:
    """Whether the file has these bytes, whatever its seal says."""
    try:
        return (root / name).size() == len(data) and (root / name).digest()[1] == digest(data)
    except OSError:
        return False


def find(root: Location, name: str) -> Seal | None:
    """The seal of a file; None if there is none that is whole."""
    try:
        body = strict_json.mapping(location(root, name).read(), MAX_BYTES)
        check = body.pop("check")
        seal = Seal(**body)  # its types are those of `write`: nothing else has this check
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return seal if digest(canonical(body).encode()) == check and seal.name == name else None


def state(root: Location, name: str) -> State:
    """What has become of a file since it was sealed; its bytes are read."""
    return probe(root, name)[0]


def probe(root: Location, name: str) -> tuple[State, Seal | None, tuple[int, str] | None]:
    """As state; also the seal if it is whole, and the size and SHA-256 of the file if it can be read."""
    seal = find(root, name)
    try:
        size_and_sha256 = (root / name).digest()
    except FileNotFoundError:
        return State.MISSING, seal, None
    except OSError:  # a folder in its place, no right to read it
        return State.CHANGED, seal, None
    if seal is None:
        return State.UNSEALED, seal, size_and_sha256
    return State.WHOLE if size_and_sha256 == (seal.bytes, seal.sha256) else State.CHANGED, seal, size_and_sha256


def read(root: Location, name: str, remedy: str) -> bytes:
    """The bytes of a file as they were sealed. Raises CorruptArtifact, a line that ends with the remedy; CannotRead."""
    try:
        data = (root / name).read()
    except FileNotFoundError:
        raise CorruptArtifact(f"{root / name} is missing; {remedy}") from None
    except NoFile:
        raise CorruptArtifact(f"{root / name} is no file; {remedy}") from None
    seal = find(root, name)
    if seal is None:
        raise CorruptArtifact(f"{root / name} has no seal, so nobody knows whether it is whole; {remedy}")
    if (len(data), digest(data)) != (seal.bytes, seal.sha256):
        raise CorruptArtifact(
            f"{root / name} is not what was written ({len(data)} bytes, {seal.bytes} sealed); {remedy}"
        )
    return data


def names(root: Location) -> list[str]:
    """The files that have a seal, whole or not. Raises CannotRead where the seals' folder belongs and none is."""
    return [unquote(n.removesuffix(".json")) for n in (root / FOLDER).list() if n.endswith(".json")]


def remove(root: Location, name: str) -> None:
    """Takes the seal away; no error if there is none."""
    location(root, name).delete()


def location(root: Location, name: str) -> Location:
    """Where the seal of a file is."""
    return root / FOLDER / f"{quote(name, safe='')}.json"
