"""What a look at a folder finds in it, and what would mend each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from raydistill.store import seals
from raydistill.store.artifact import Artifact
from raydistill.store.location import Location


class Kind(StrEnum):
    DAMAGED = "damaged"  # it is not what was written
    MISSING = "missing"  # a record, a manifest or a seal names it, and it is not there
    FOREIGN = "foreign"  # ours, of another artifact
    LEFT_OVER = "left over"  # ours, and nothing needs it: an attempt that was interrupted or came second
    UNFINISHED = "unfinished"  # the same command goes on here
    NOT_OURS = "not ours"  # somebody put it there


FAULTS = frozenset((Kind.DAMAGED, Kind.MISSING, Kind.FOREIGN))


@dataclass(frozen=True)
class SealedFile:
    """A file under a seal; `name` is relative to the folder whose seals/ holds it."""

    root: Location
    name: str

    @property
    def location(self) -> Location:
        return self.root / self.name

    @property
    def seal(self) -> Location:
        return seals.location(self.root, self.name)


@dataclass(frozen=True)
class Finding:
    """What is wrong somewhere. To mend it, `whole` is written there and `drop` removed; what `part` then lacks, the
    run's own command makes again. `is_so` looks once more: another run may have come in between."""

    kind: Kind
    location: Location
    what: str
    whole: bytes | None = None
    drop: tuple[Location, ...] = ()
    part: Artifact | SealedFile | None = None
    is_so: Callable[[], bool] = field(default=lambda: True, compare=False, repr=False)

    @property
    def is_fault(self) -> bool:
        return self.kind in FAULTS

    @property
    def mends(self) -> bool:
        """Whether something is to be written or removed."""
        return self.whole is not None or bool(self.drop)

    def __str__(self) -> str:
        return f"{self.kind:<10} {self.location}  {self.what}"
