"""A stage as small as can be: three commits and a manifest. Imports nothing of pytest: killed processes run it too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raydistill.store.artifact import Artifact, Manifest
from raydistill.store.location import Location

KEYS = ("a", "b", "c")
FINGERPRINT = "0123456789abcdef"


def at(root: Path | str, fingerprint: str = FINGERPRINT) -> Artifact:
    return Artifact(Location.of(str(root)), "encode", fingerprint)


def content(key: str) -> bytes:
    return f"data of {key}".encode() * 20


def work(artifact: Artifact, keys: Sequence[str] = KEYS) -> Manifest:
    """What every stage does: commit what is not there, then seal."""
    done = artifact.records()
    for key in keys:
        if key not in done:
            artifact.commit(key, content(key), rows=3, device="cpu", meta={"n": 1})
    return artifact.manifest() or artifact.seal(keys, {"images": 9})
