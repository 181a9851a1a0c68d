"""What a stage does with one unit, as a dataclass: its fields are all that it reads, and so its identity."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from raydistill import declared
from raydistill.declared import Aside
from raydistill.identity import fingerprint
from raydistill.store.artifact import Artifact
from raydistill.store.location import Location
from raydistill.store.rundir import RunDir

NOWHERE = Artifact(Location.of("nowhere"), "none", "none")


@dataclass(frozen=True)
class StageWork:
    """Subclass as a frozen dataclass with `load` and `open` (runner.Work), and declare every field (declared.py).

    `version` rises when other bytes come out of the same fields.
    """

    name: ClassVar[str]
    folder: ClassVar[str]  # of the stage's artifacts
    version: ClassVar[int] = 1

    artifact: Aside[Artifact] = field(default=NOWHERE, kw_only=True)

    def fingerprint(self) -> str:
        return fingerprint(self.name, self.version, *declared.parts(self))

    def within(self, run: RunDir) -> Self:
        """The same, with the place of its own under the run directory that its fingerprint names."""
        return replace(self, artifact=run.artifact(self.folder, self.fingerprint()))
