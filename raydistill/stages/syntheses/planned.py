"""The units into which a plan is cut: known by reading it, which a stage that is finished has no need of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, overload

import pyarrow as pa

from raydistill.store.sealed import Sealed


class PlannedUnits(Sequence[str]):
    """Their keys, in order. The plan is read, and its file checked, when they are first asked for: before anything is
    computed from it, and not at all once everything is (of images of 256 pixels it has 49 kB a slot).

    `cut` gives, by the key of each unit, what of the plan is in it. Raises CorruptArtifact as Sealed.read does.
    """

    def __init__(self, plan: Sealed, cut: Callable[[pa.Table], dict[str, Any]]) -> None:
        self._plan, self._cut = plan, cut

    @cached_property
    def slots(self) -> pa.Table:
        return self._plan.read()

    @cached_property
    def units(self) -> dict[str, Any]:
        return self._cut(self.slots)

    @cached_property
    def _keys(self) -> list[str]:
        return list(self.units)

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, at: int) -> str: ...

    @overload
    def __getitem__(self, at: slice) -> list[str]: ...

    def __getitem__(self, at: int | slice) -> str | list[str]:
        return self._keys[at]
