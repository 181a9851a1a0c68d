"""What one tar shard of WebDataset holds: its samples, and the class of each, as a number or a text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs as pafs

from raydistill import strict_json
from raydistill.errors import BadInput, one_line
from raydistill.sources.base import ClassInfo
from raydistill.sources.layout import numbered_classes, text_classes
from raydistill.sources.tar import CONTROL, Member, ReadWindow, TarFault, members
from raydistill.store.location import Location, reason

IMAGES = ("jpg", "jpeg", "png", "webp")
MAX_LABEL = 2**20  # bytes of a .cls or .json
MAX_NAME = 256  # characters of a class id
TOP = 2**31  # labels are below
SHOWN = 12
CLASS_ARCHIVE = re.compile(r"(?P<class_id>n\d{8})\.tar")  # as ImageNet's training images are handed out


@dataclass
class Sample:
    """The files of one key that matter here: where its images are, and the content of its labels by suffix."""

    key: str
    images: list[Member] = field(default_factory=list)
    labels: dict[str, bytes] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Label:
    """The class of a sample. `kind`: number, text, or folder, whose value is the path of the folder.

    `said_by` names the file in an error; `key` is the one of its JSON that was taken without being asked for.
    """

    kind: str
    value: int | str
    said_by: str
    key: str = ""


@dataclass(frozen=True)
class Shard:
    """What one shard holds: ids, labels (N,) int64 and the tag that its images share.

    `kind` and `key` are those of its labels; the labels are numbers, or index `texts`.
    """

    name: str
    ids: pa.Array
    labels: np.ndarray
    texts: tuple[str, ...]
    kind: str
    key: str
    tag: str


def class_archive(name: str) -> bool:
    """Whether an archive is called as ImageNet's own are, by the class of its images."""
    return CLASS_ARCHIVE.fullmatch(name) is not None


def read_shard(fs: pafs.FileSystem, base: str, info: pafs.FileInfo, ahead: int, label_key: str | None) -> Shard:
    """Reads headers and labels. `label_key`: of the JSON files. Raises BadInput."""
    name = info.path[len(base) :].strip("/")
    if "#" in name:
        raise BadInput(f"source: {base}/{name}: the name of a shard may not hold #; rename it")
    archive_class = CLASS_ARCHIVE.fullmatch(info.base_name)
    ids, labels, seen = [], [], set()
    first: Label | None = None
    try:
        with fs.open_input_file(info.path) as file:
            archive = ReadWindow(file, file.size(), ahead)
            for sample in _samples(archive):
                if sample.key in seen:
                    raise TarFault(f"the key {sample.key!r} is there twice, apart; keep the files of a sample together")
                seen.add(sample.key)
                ids.append(f"{name}#{sample.key}@{_one_image(sample).start}")
                label = _label(sample, label_key, archive_class["class_id"] if archive_class else None)
                first = first or label
                _check_alike(first, label)
                labels.append(label.value)
    except TarFault as e:
        raise BadInput(f"source: {base}/{name}: {e}") from None
    except (pa.ArrowException, OSError) as e:
        raise BadInput(f"source: {base}/{name} cannot be read: {fault_text(e)}; check its permissions") from None
    texts = tuple(sorted({v for v in labels if isinstance(v, str)}))
    index: dict[int | str, int] = {t: i for i, t in enumerate(texts)}
    numbers = np.array([index[v] for v in labels] if texts else labels, np.int64)
    kind, key = (first.kind, first.key) if first else ("", "")
    return Shard(name, pa.array(ids, pa.string()), numbers, texts, kind, key, f"{info.size}:{info.mtime_ns}")


def classes_of(root: Location, shards: Sequence[Shard]) -> tuple[tuple[ClassInfo, ...], np.ndarray]:
    """The classes of a split, and the labels (N,) int32 of its shards in turn, which index them. Raises BadInput."""
    full = [s for s in shards if len(s.ids)]
    labels = np.concatenate([s.labels for s in shards])
    if not full:
        return (), labels.astype(np.int32)
    first = full[0]
    for shard in full:
        if (shard.kind, shard.key) != (first.kind, first.key):
            raise BadInput(
                f"source: {root}: {first.name} and {shard.name} say the classes in different ways "
                f"({_manner(first)} and {_manner(shard)}); write them alike"
            )
    if first.kind == "number":
        classes, index = numbered_classes(root, labels)
    else:
        folders = first.kind == "folder"
        names = _class_folders(root, {t for s in full for t in s.texts}) if folders else {}
        classes, index = text_classes(root, [(s.labels, [names.get(t, t) for t in s.texts]) for s in shards])
    if first.key and len(index) > 1 and len(np.unique(index)) == len(index):
        raise BadInput(
            f"source: {root}: the JSON files have no key 'label', and {first.key!r}, the only one that may be it, "
            f"differs in every one; if it is the class, say so with source.label_column={first.key}"
        )
    return classes, index


def _manner(shard: Shard) -> str:
    return f"the key {shard.key!r}" if shard.key else f"{shard.kind}s"


def _class_folders(root: Location, paths: set[str]) -> dict[str, str]:
    """The class id of each folder in the shards, its name. Raises BadInput where it is not plain which level is it."""
    by_name: dict[str, str] = {}
    for path in sorted(paths):
        name = path.rpartition("/")[2]
        if path.count("/") != min(paths).count("/") or name in by_name:
            other = by_name.get(name, min(paths))
            raise BadInput(
                f"source: {root}: the folders {other!r} and {path!r} of the shards cannot both be classes; pack "
                "CLASS/FILE, or give every image a KEY.cls"
            )
        by_name[name] = path
    return {path: name for name, path in by_name.items()}


def fault_text(e: Exception) -> str:
    """What is wrong, without the advice that a fault gives for listing."""
    if isinstance(e, TarFault):
        return str(e).rpartition("; ")[0]
    return reason(e) if isinstance(e, OSError) else one_line(e)


# ---- samples ---------------------------------------------------------------------------------------------------------


def _samples(archive: ReadWindow) -> Iterator[Sample]:
    """Neighbours of one key. Files without a suffix and hidden ones belong to no sample."""
    current: Sample | None = None
    for member in members(archive):
        key, suffix = key_of(member.name)
        if not key:
            continue
        if current is None or key != current.key:
            if current is not None:
                yield current
            current = Sample(key)
        _put(archive, current, suffix, member)
    if current is not None:
        yield current


def key_of(name: str) -> tuple[str, str]:
    """`a/b.c.JPG` to the key `a/b` and the suffix `c.jpg`; an empty key for a file that belongs to no sample."""
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    return (folder + slash + stem, suffix.lower()) if stem and dot else ("", "")


def _put(archive: ReadWindow, sample: Sample, suffix: str, member: Member) -> None:
    if suffix in IMAGES:
        sample.images.append(member)
    elif suffix not in ("cls", "json"):
        sample.others.append(member.name)
    elif suffix in sample.labels:
        raise TarFault(f"{member.name!r} is there twice; keep one")
    elif member.size > MAX_LABEL:
        raise TarFault(f"{member.name!r} has {member.size} bytes, more than the {MAX_LABEL} of a label; leave it out")
    else:
        sample.labels[suffix] = archive.read(member.data, member.size)


def _one_image(sample: Sample) -> Member:
    if len(sample.images) == 1:
        return sample.images[0]
    if sample.images:
        raise TarFault(
            f"the key {sample.key!r} has {len(sample.images)} images ({sample.images[0].name} and "
            f"{sample.images[1].name}); keep one"
        )
    inner = next((n for n in sample.others if n.endswith(".tar")), None)
    if inner:
        raise TarFault(f"it holds archives ({inner}), not images; unpack it into a folder with the name of its split")
    dotted = next((n for n in sample.others if n.lower().endswith(IMAGES)), None)
    why = f" ({dotted} is none: a key ends at the first dot of a name)" if dotted else ""
    raise TarFault(f"the key {sample.key!r} has no image ({', '.join(IMAGES)}){why}; add it or leave the sample out")


# ---- labels ----------------------------------------------------------------------------------------------------------


def _label(sample: Sample, label_key: str | None, archive_class: str | None) -> Label:
    """The class of a sample: its .cls, otherwise what its .json says, otherwise where it lies."""
    folder = sample.key.rpartition("/")[0]
    if "cls" in sample.labels:
        return _said(f"{sample.key}.cls", sample.labels["cls"])
    if "json" in sample.labels:
        return _json_label(f"{sample.key}.json", sample.labels["json"], label_key)
    if archive_class:
        return Label("text", archive_class, sample.key)
    if folder:
        return Label("folder", folder, sample.key)
    raise TarFault(
        f"the key {sample.key!r} has no label (.cls, .json with a label, or a folder); label it or leave it out"
    )


def _said(file: str, value: Any, key: str = "") -> Label:
    """A number, also one that is written as a text, or a text of one line."""
    if isinstance(value, bytes):
        try:
            value = value.decode().strip()
        except UnicodeDecodeError:
            raise TarFault(f"{file} is not UTF-8; write a whole number or the name of the class") from None
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value.strip(), re.ASCII):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < TOP:
            what = "negative, which stands for no label" if value < 0 else "too large for a class"
            raise TarFault(f"{file} is {value}, {what}; label the image or leave it out")
        return Label("number", value, file, key)
    if not isinstance(value, str) or not value.strip() or _is_float(value):
        raise TarFault(f"{file} is not a whole number or a text; number the classes from 0, or write their names")
    text = value.strip()
    if CONTROL.search(text) or len(text) > MAX_NAME:
        raise TarFault(f"{file} is not one line of at most {MAX_NAME} characters; write the name of the class alone")
    return Label("text", text, file, key)


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _json_label(file: str, text: bytes, label_key: str | None) -> Label:
    """The value of the key that was asked for, of `label`, or of the only one that can be a class."""
    try:
        tree: Any = strict_json.parse(text, finite=False)
    except ValueError:
        tree = None
    if not isinstance(tree, dict):
        raise TarFault(f"{file} is not a JSON object; write one with the key {label_key or 'label'!r}")
    fitting = [k for k, v in tree.items() if isinstance(v, int | str) and not isinstance(v, bool)]
    key = label_key or ("label" if "label" in tree else fitting[0] if len(fitting) == 1 else None)
    if key in tree:
        return _said(f"the label of {file}", tree[key], "" if key in (label_key, "label") else str(key))
    choose = f"name the one that is it with source.label_column={fitting[0]}" if fitting else "add it"
    keys = ", ".join(list(tree)[:SHOWN]) or "none"
    raise TarFault(f"{file} has no key {label_key or 'label'!r} (it has {keys}); {choose}")


def _check_alike(first: Label, label: Label) -> None:
    """Raises TarFault where a number stands beside names: a slip, or two ways to count."""
    if (first.kind, first.key) != (label.kind, label.key):
        raise TarFault(
            f"{label.said_by} says the class in another way ({label.kind}: {str(label.value)[:60]!r}) than "
            f"{first.said_by} ({first.kind}: {str(first.value)[:60]!r}); write them alike"
        )
