"""logs/costs.json: what each stage has cost over all runs of a run directory.

Nothing could make it again, so its seal holds a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from raydistill import strict_json
from raydistill.errors import CorruptArtifact
from raydistill.identity import canonical
from raydistill.progress import Event, Finished, Listener, say
from raydistill.stages.renew import put_aside
from raydistill.store import seals
from raydistill.store.location import Location
from raydistill.store.seals import State

NAME = "logs/costs.json"
LARGEST = 1e15


@dataclass(frozen=True)
class Cost:
    seconds: float
    units: int
    unit: str

    @classmethod
    def of(cls, tree: object) -> Cost:
        """Raises ValueError or TypeError for what is none."""
        if not isinstance(tree, dict):
            raise ValueError("a cost is no object")
        cost = cls(**tree)
        if type(cost.seconds) not in (int, float) or type(cost.units) is not int or type(cost.unit) is not str:
            raise ValueError("a field is of another type")
        if not (0 <= cost.seconds < LARGEST and 0 <= cost.units < LARGEST):
            raise ValueError("a cost is negative, or larger than any")
        return cost


def read(root: Location) -> dict[str, Cost]:
    """By stage; empty where nobody has counted or the file cannot be trusted, which `settle` mends."""
    try:
        return _parse(seals.read(root, NAME, ""))
    except (CorruptArtifact, ValueError, TypeError):
        return {}


def listener(root: Location) -> Listener:
    """Adds what every stage that comes to its end has cost, if it did anything."""

    def record(event: Event) -> None:
        if isinstance(event, Finished) and event.whole and event.units:
            add(root, event.stage, event.seconds, event.units, event.unit)

    return record


def add(root: Location, stage: str, seconds: float, units: int, unit: str) -> None:
    costs = read(root)
    old = costs.get(stage, Cost(0.0, 0, unit))
    _write(root, costs | {stage: Cost(round(old.seconds + seconds, 3), old.units + units, unit)})


def settle(root: Location) -> bool:
    """Mends the file before a run counts on; True if it had to. Raises CannotRead for a folder in its place.

    It comes back from its seal. Without one it is sealed if it can be read, as that of an older version; if not, it is
    kept aside and starts anew.
    """
    state, seal = seals.state(root, NAME), seals.find(root, NAME)
    if state is State.WHOLE or (state is State.MISSING and seal is None):
        return False
    if seal is not None and seal.copy:
        what = "is missing" if state is State.MISSING else "is not what was written"
        _write(root, _parse(seal.copy.encode()))
        say("mended", f"{root / NAME} {what}; it is written again")
        return True
    try:
        _write(root, _parse((root / NAME).read()))
    except (ValueError, TypeError):
        kept = put_aside(root, NAME, "logs/costs-{}.json") or "nothing"
        say("mended", f"{root / NAME} cannot be read (kept as {kept}); what stages cost is counted anew")
        _write(root, {})
        return True
    return False


def _parse(data: bytes) -> dict[str, Cost]:
    return {name: Cost.of(cost) for name, cost in strict_json.mapping(data).items()}


def _write(root: Location, costs: Mapping[str, Cost]) -> None:
    text = canonical({name: asdict(cost) for name, cost in costs.items()})
    seals.write(root, NAME, text.encode(), copy=text)
