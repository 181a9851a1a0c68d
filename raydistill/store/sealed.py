"""A finished stage, as what comes after it is given it: its artifact with the manifest that names what counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from raydistill.store.artifact import Artifact, Manifest


@dataclass(frozen=True)
class Sealed:
    """Cheap to make and to send to workers."""

    artifact: Artifact
    manifest: Manifest

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows in the order of the manifest, of some columns. Raises CorruptArtifact for a file that differs."""
        wanted = None if columns is None else list(columns)
        return pa.concat_tables([self.artifact.read_table(r, columns=wanted) for r in self.manifest.records])
