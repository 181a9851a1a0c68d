"""Content identity: canonical JSON, digests and fingerprints. Identity never comes from order, host or time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

FINGERPRINT_HEX = 16


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. Raises TypeError on what JSON cannot hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(data: bytes) -> str:
    """SHA-256 of bytes, as 64 hexadecimal characters."""
    return hashlib.sha256(data).hexdigest()


def fingerprint(*parts: Any) -> str:
    """Short digest of JSON-able parts; the identity of a stage and the name of its folder."""
    return digest(canonical(list(parts)).encode())[:FINGERPRINT_HEX]


def file_digest(path: str | Path) -> str:
    """SHA-256 of a local file, read once per (path, size, mtime) and process."""
    path = Path(path)
    stat = path.stat()
    return _file_digest(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_digest(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def directory_digest(directory: str | Path, names: list[str], texts: Mapping[str, str] | None = None) -> str:
    """Digest of the named files of a checkpoint directory (relative paths, sorted), by content alone.

    `texts` gives the content of those that are taken for something else than what lies there.
    """
    root, texts = Path(directory), texts or {}
    digests = [[n, digest(texts[n].encode()) if n in texts else file_digest(root / n)] for n in sorted(names)]
    return digest(canonical(digests).encode())
