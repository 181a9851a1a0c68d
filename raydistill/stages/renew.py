"""Files that people read are brought to what they must hold: what was spoiled is written again, and said."""

from __future__ import annotations

from raydistill.identity import digest
from raydistill.progress import say
from raydistill.store import seals
from raydistill.store.location import Location
from raydistill.store.seals import State


def fresh(root: Location, name: str, made_from: str) -> bool:
    """Whether the file is as it was sealed, and was made from this."""
    seal = seals.find(root, name)
    return seal is not None and seal.made_from == made_from and seals.state(root, name) is State.WHOLE


def renew(root: Location, name: str, data: bytes, made_from: str = "", aside: str = "", copy: str = "") -> bool:
    """Writes and seals a file; False if it held these bytes already.

    What is there is kept as `aside`, in which {} stands for its digest; but not if it is the beginning of `data`, which
    is what an interruption leaves. Raises CannotRead or StageFailed for a folder in its place.
    """
    if not seals.holds(root, name, data):
        state = seals.state(root, name)
        kept = put_aside(root, name, aside, data) if aside and state is not State.MISSING else ""
        also = f", and what was there is kept as {kept}" if kept else ""
        if state is State.CHANGED:
            say("mended", f"{root / name} is not what was written; it is written again{also}")
        elif state is State.MISSING and seals.find(root, name) is not None:
            say("mended", f"{root / name} is missing; it is written again")
        elif state is State.UNSEALED and kept:
            say("kept", f"{root / name} was another file; it is kept as {kept}")
    return seals.write(root, name, data, made_from, copy)


def put_aside(root: Location, name: str, aside: str, data: bytes = b"") -> str:
    """Copies a file to `aside` unless `data` begin with it. Returns where it is, "" if nowhere. Raises CannotRead."""
    old = (root / name).read()
    if data.startswith(old):
        return ""
    kept = aside.format(digest(old)[:8])
    (root / kept).write(old)
    return kept
