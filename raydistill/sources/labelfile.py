"""The classes of images that lie in one folder unsorted, as ImageNet's validation images do: a file beside or in it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from raydistill import strict_json
from raydistill.errors import BadInput, one_line
from raydistill.sources.order import read_order
from raydistill.store.location import Location, reason

LONGEST = 2**28  # bytes of the file; it is read whole
FILES = ("file_name", "filename", "file", "path", "image", "image_id", "imageid", "id")  # columns, lower case
CLASSES = ("label", "class", "class_id", "class_name", "wnid", "predictionstring")
BOXES = "predictionstring"  # Kaggle's column of ImageNet: a class and four numbers a box
BOX = 4


def label_file(root: Location, split: str, tables: bool) -> Location | None:
    """The file that gives the classes of a split's unsorted images, None if there is none.

    SPLIT.txt or SPLIT_labels.txt in the source's folder; or else, with `tables`, SPLIT.csv or Kaggle's
    LOC_SPLIT_solution.csv there, metadata.csv or metadata.jsonl among the images, or Tiny-ImageNet's
    SPLIT_annotations.txt.
    """
    beside = (f"{split}.csv", f"LOC_{split}_solution.csv", f"{split}/metadata.csv", f"{split}/metadata.jsonl")
    for names in ((f"{split}.txt", f"{split}_labels.txt"), (*beside, annotations_of(split)) if tables else ()):
        lists = [root / name for name in names if (root / name).size() is not None]
        if len(lists) > 1:
            raise BadInput(f"source: {lists[0]} and {lists[1]} both give the classes of {split!r}; keep one")
        if lists:
            return lists[0]
    return None


def annotations_of(split: str) -> str:
    """Where Tiny-ImageNet has the classes of the images in SPLIT/images/."""
    return f"{split}/{split.rpartition('/')[2]}_annotations.txt"


def read_labels(location: Location, names: Sequence[str], known: Sequence[str] | None) -> list[str]:
    """The class id of each image in `names`, from lines "FILE CLASS" or "FILE,CLASS", or columns with names.

    FILE may lack the suffix. Raises BadInput for an image without a line, a line without an image, and a class that is
    not in `known`.
    """
    classes = _by_image(location, _classes(location, set(names)), names)
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


def _by_image(location: Location, classes: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """The classes by the names of the images, where the file has these without their suffix."""
    stems: dict[str, str] = {}
    for name in names:
        stem = str(PurePosixPath(name).with_suffix(""))
        stems[stem] = "" if stem in stems else name  # of two images of one stem neither is meant
    there = set(names)
    by_image = {name if name in there else stems.get(name) or name: label for name, label in classes.items()}
    if len(by_image) < len(classes):
        raise BadInput(f"source: {location} names images both with and without their suffix; keep one line for each")
    return by_image


def _classes(location: Location, names: set[str]) -> dict[str, str]:
    """The class of each name in the file."""
    lines = _text(location)
    first = next((line for line in lines if line.strip()), "")
    if first and all(line.strip().isdecimal() for line in lines if line.strip()):
        return _of_numbers(location, lines, sorted(names))
    if location.uri.endswith(".jsonl"):
        rows = _of_json(location, lines)
    elif (columns := _columns(first)) and not names & set(columns):
        rows = _of_table(location, lines, columns)
    else:
        rows = _of_lines(location, lines)
    classes: dict[str, str] = {}
    for number, name, class_id in rows:
        if name in classes:
            raise BadInput(f"source: {location} line {number} names {name} a second time; keep one line")
        classes[name] = class_id
    return classes


def _of_numbers(location: Location, lines: list[str], names: Sequence[str]) -> dict[str, str]:
    """The ground truth of ImageNet's devkit: the number of a class a line, images in the order of their names."""
    order = Location.of(f"{location.uri.removesuffix('.txt')}_order.txt")
    numbers = [int(line) for line in lines if line.strip()]
    if order.size() is None:
        raise BadInput(
            f"source: {location} holds a number a line, as the ground truth of ImageNet's devkit, whose numbers follow "
            f"an order of their own and not that of the class folders; write the class ids in that order (WNID by "
            f"ILSVRC2012_ID) into {order}, one a line, number 1 first, or give lines FILE CLASS"
        )
    ids = read_order(order)
    if len(numbers) != len(names):
        raise BadInput(f"source: {location} has {len(numbers)} lines for {len(names)} images; complete one of the two")
    if not 1 <= min(numbers) <= max(numbers) <= len(ids):
        raise BadInput(
            f"source: {location} has numbers from {min(numbers)} to {max(numbers)}, and {order} {len(ids)} class ids, "
            "counted from 1; make them fit"
        )
    return {name: ids[number - 1] for name, number in zip(names, numbers, strict=True)}


def _text(location: Location) -> list[str]:
    if (location.size() or 0) > LONGEST:
        raise BadInput(f"source: {location} is too large for a list of labels; give lines FILE CLASS")
    try:
        return location.read().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise BadInput(f"source: {location} cannot be read: {reason(e)}; repair it") from None


def _columns(line: str) -> list[str]:
    """The names of the columns in lower case; none if the line does not name a column of files."""
    columns = [c.strip().lower() for c in next(csv.reader([line], delimiter="\t" if "\t" in line else ","), [])]
    return columns if len(columns) > 1 and set(columns) & set(FILES) else []


def _of_table(location: Location, lines: list[str], columns: list[str]) -> Iterator[tuple[int, str, str]]:
    files = next(i for i, c in enumerate(columns) if c in FILES)
    others = [i for i in range(len(columns)) if i != files]
    labels = others[0] if len(others) == 1 else next((i for i in others if columns[i] in CLASSES), None)
    if labels is None:
        raise BadInput(f"source: {location} has the columns {', '.join(columns)[:200]}; name that of the classes label")
    tab = "\t" in next(line for line in lines if line.strip())
    reader = csv.reader(lines, delimiter="\t" if tab else ",")
    for number, fields in enumerate(filter(None, reader)):
        if number == 0:
            continue
        cells = [c.strip() for c in fields]
        label = cells[labels] if len(cells) > max(files, labels) else ""
        if columns[labels] == BOXES:
            label = _one_class(location, cells[files], label.split())
        if not cells[files : files + 1] or not label:
            raise BadInput(f"source: {location} line {reader.line_num} lacks a file or a class; complete it")
        yield reader.line_num, cells[files], label


def _one_class(location: Location, name: str, words: Sequence[str]) -> str:
    """The class of boxes: CLASS X1 Y1 X2 Y2 for each."""
    classes = set(words[:: BOX + 1])
    if len(classes) > 1:
        raise BadInput(f"source: {location} gives {name} boxes of {len(classes)} classes; keep one")
    return words[0] if words else ""


def _of_json(location: Location, lines: list[str]) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = strict_json.mapping(line.encode())
        except ValueError as e:
            raise BadInput(f"source: {location} line {number} cannot be read: {one_line(e)}; repair it") from None
        name, label = row.get("file_name"), next((row[c] for c in CLASSES if c in row), None)
        if not isinstance(name, str) or isinstance(label, bool) or not isinstance(label, str | int):
            raise BadInput(f"source: {location} line {number} lacks file_name or label; complete it")
        yield number, name, str(label)


def _of_lines(location: Location, lines: list[str]) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        separator = "," if "," in line else " " if "\t" not in line else "\t"
        fields = line.strip().split(separator)
        if separator == "\t" and len(fields) == 2 + BOX and all(f.strip().isdigit() for f in fields[2:]):
            fields = fields[:2]
        name, class_id = separator.join(fields[:-1]).strip(), fields[-1].strip()
        if not name or not class_id:
            raise BadInput(f"source: {location} line {number} is {line[:80]!r}; write FILE CLASS or FILE,CLASS")
        yield number, name, class_id
