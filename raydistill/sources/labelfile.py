"""The classes of images that lie in one folder unsorted, as ImageNet's validation images do: a text file beside it."""

from __future__ import annotations

from collections.abc import Sequence

from raydistill.errors import BadInput
from raydistill.store.location import Location, reason

LONGEST = 2**28  # bytes of the file; it is read whole


def label_file(root: Location, split: str) -> Location | None:
    """SPLIT.txt or SPLIT_labels.txt in the source's folder, None if neither is there."""
    lists = [root / name for name in (f"{split}.txt", f"{split}_labels.txt") if (root / name).size() is not None]
    if len(lists) > 1:
        raise BadInput(f"source: {lists[0]} and {lists[1]} both give the classes of {split!r}; keep one")
    return lists[0] if lists else None


def read_labels(location: Location, names: Sequence[str], known: Sequence[str] | None) -> list[str]:
    """The class id of each image in `names`, from lines "FILE CLASS" or "FILE,CLASS".

    Raises BadInput for an image without a line, a line without an image, and a class that is not in `known`.
    """
    classes = _lines(location)
    for what, missing in (
        ("has no line for the image", set(names) - classes.keys()),
        ("names an image that is not there", classes.keys() - set(names)),
    ):
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise BadInput(f"source: {location} {what}: {min(missing)}{more}; complete one of the two")
    if known is not None:
        for strange in sorted(set(classes.values()) - set(known)):
            image = next(n for n in names if classes[n] == strange)
            raise BadInput(
                f"source: {location} gives {image} the class {strange!r}, which is none of the known ones "
                f"({', '.join(sorted(known)[:12])}...); give the names of the training class folders"
            )
    return [classes[n] for n in names]


def _lines(location: Location) -> dict[str, str]:
    if (location.size() or 0) > LONGEST:
        raise BadInput(f"source: {location} is too large for a list of labels; give lines FILE CLASS")
    try:
        lines = location.read().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"source: {location} cannot be read: {reason(e)}; repair it") from None
    classes: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, separator, class_id = line.strip().rpartition("," if "," in line else " " if "\t" not in line else "\t")
        name, class_id = name.strip(), class_id.strip()
        if not separator or not name or not class_id:
            raise BadInput(f"source: {location} line {number} is {line[:80]!r}; write FILE CLASS or FILE,CLASS")
        if name in classes:
            raise BadInput(f"source: {location} line {number} names {name} a second time; keep one line")
        classes[name] = class_id
    return classes
