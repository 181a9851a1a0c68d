"""Class ids in the order of numbers that others gave the classes: a text file, an id a line, that the user writes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from raydistill.errors import BadInput
from raydistill.store.location import Location, reason

ORDER = "order.txt"  # beside folders that are numbered from 0
NUMBERED = re.compile(r"(?:new)?(\d{1,9})", re.ASCII)  # RDED's 00000, SRe2L's new000


def read_order(location: Location) -> list[str]:
    """The class ids. Raises BadInput if the file cannot be read or names one twice."""
    try:
        ids = [line.strip() for line in location.read().decode("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"{location} cannot be read: {reason(e)}; give a class id a line") from None
    twice = next((i for i in ids if ids.count(i) > 1), None)
    if twice is not None or not ids:
        raise BadInput(
            f"{location} {f'names {twice!r} twice' if twice else 'is empty'}; give each class id once, a line"
        )
    return ids


def numbered(folders: Sequence[str]) -> list[int] | None:
    """The number of each folder of RDED or SRe2L, None if these are other names."""
    matches = [NUMBERED.fullmatch(name) for name in folders]
    return [int(m[1]) for m in matches if m] if all(matches) else None


def by_folder(location: Location, folders: Sequence[str]) -> dict[str, str]:
    """Folder -> class id by the number of the folder, the first line being 0. Raises BadInput if they do not fit."""
    ids, numbers = read_order(location), numbered(folders)
    if numbers is None:
        raise BadInput(f"{location} orders folders like 00000 or new000, and there are others; remove it")
    if sorted(numbers) != list(range(len(ids))):
        raise BadInput(
            f"{location} has {len(ids)} class ids, for folders numbered 0 to {len(ids) - 1}; there are {len(numbers)} "
            f"from {min(numbers)} to {max(numbers)}; make them fit"
        )
    return {folder: ids[number] for folder, number in zip(folders, numbers, strict=True)}
