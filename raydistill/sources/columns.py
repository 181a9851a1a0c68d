"""Which columns of a table hold the images and the labels, and which classes the labels mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydistill import strict_json
from raydistill.errors import BadInput, one_line
from raydistill.sources.base import ClassInfo
from raydistill.sources.layout import in_range, numbered_classes, text_classes, told_classes
from raydistill.store.location import Location

USUAL = ("image", "label")  # the names of the Hugging Face image layout
SHOWN = 12


@dataclass(frozen=True)
class Requested:
    """`source.image_column` and `source.label_column`; None is whatever column fits."""

    image: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Columns:
    """The two columns by name. `in_struct`: the image is struct<bytes, path>, otherwise plain binary.

    `guessed` says that nobody named the label column, and that it is not called `label`.
    """

    image: str
    label: str
    in_struct: bool
    guessed: bool

    @property
    def leaf(self) -> str:
        """The image's bytes by their path in a Parquet schema."""
        return f"{self.image}.bytes" if self.in_struct else self.image

    @property
    def tag(self) -> str:
        """Part of an image's content tag: which of several images a row means, nothing for the usual column."""
        return "" if self.image == USUAL[0] else f":{self.image}"

    def bytes_of(self, images: Any) -> Any:
        """The encoded images of a column, an Array or ChunkedArray of binary."""
        return pc.struct_field(images, "bytes") if self.in_struct else images


@dataclass(frozen=True)
class Labels:
    """What the label column of one file says: numbers (N,) int64 that index `names`, or are classes themselves.

    `text`: the column holds the names, which are those of this file alone.
    """

    numbers: np.ndarray
    names: tuple[str, ...] | None
    text: bool = False


def columns_of(schema: pa.Schema, requested: Requested, where: str) -> Columns:
    """The columns that the configuration names, those with the usual names, or the only ones that fit.

    Raises BadInput naming the columns that there are, and the key that chooses one.
    """
    shown = f"it has the columns {', '.join(schema.names[:SHOWN]) or 'none'}"
    image = _column(schema, "image", requested.image, is_image, where, shown)
    others = schema.remove(schema.get_field_index(image))  # labels are in another column
    named_classes = [n for n in others.names if _class_label(schema, n)]
    label = requested.label
    if label is None and USUAL[1] not in others.names and len(named_classes) == 1:
        label = named_classes[0]
    label = _column(others, "label", label, is_label, where, shown)
    guessed = requested.label is None and label != USUAL[1] and label not in named_classes
    return Columns(image, label, pa.types.is_struct(schema.field(image).type), guessed)


def is_image(kind: pa.DataType) -> bool:
    """Binary, or a struct whose field `bytes` is."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _binary(kind.field("bytes").type)
    return _binary(kind)


def is_label(kind: pa.DataType) -> bool:
    """Whole numbers or texts, plain or as a dictionary of them."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_integer(kind) or _text(kind)


def _binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _column(
    schema: pa.Schema, what: str, requested: str | None, fits: Callable[[pa.DataType], bool], where: str, columns: str
) -> str:
    """The column of images or labels; `columns` says in an error which ones there are."""
    key = f"source.{what}_column"
    fitting = [n for n in schema.names if schema.names.count(n) == 1 and fits(schema.field(n).type)]
    usual = what if what in schema.names else None
    chosen = requested or usual or (fitting[0] if len(fitting) == 1 else None)
    if chosen in fitting:
        return str(chosen)
    choose = f"name another with {key}={fitting[0]}" if fitting else _RIGHT[what]
    if chosen is None and fitting:
        several = " and ".join(map(repr, fitting[:SHOWN]))
        raise BadInput(
            f"source: {where}: column {what!r} is missing, and {several} may each hold the {what}s; "
            f"name the one that does with {key}={fitting[0]}"
        )
    if chosen is None:
        raise BadInput(f"source: {where}: column {what!r} is missing; {columns}, none of which can be it; {choose}")
    if chosen not in schema.names:
        raise BadInput(f"source: {where}: there is no column {chosen!r} ({key}); {columns}; {choose}")
    kind = "there twice" if schema.names.count(chosen) > 1 else one_line(schema.field(chosen).type)
    raise BadInput(f"source: {where}: column {chosen!r} is {kind}, not {_WRONG[what]}; {choose}")


_WRONG = {
    "image": "struct<bytes: binary, path: string> or binary",
    "label": "an integer or text",
}
_RIGHT = {
    "image": "store the encoded files as Hugging Face datasets does",
    "label": "number the classes from 0, or write their names",
}


# ---- labels ----------------------------------------------------------------------------------------------------------


def _class_label(schema: pa.Schema, column: str) -> bool:
    """Whether the schema's features give the column ClassLabel names; damaged ones are told of by `label_names`."""
    try:
        features: Any = strict_json.mapping((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return isinstance(features[column]["names"], list)
    except (ValueError, KeyError, TypeError):
        return False


def label_names(schema: pa.Schema, column: str, where: str) -> tuple[str, ...] | None:
    """The ClassLabel names that Hugging Face datasets writes into the schema, or None."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        label: Any = strict_json.mapping(text)["info"]["features"][column]
        names = label.get("names")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(
            f"source: {where}: the huggingface features in its schema cannot be read; "
            "write the file again with datasets, or without this metadata"
        ) from None
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len(set(names)) != len(names):
        raise BadInput(f"source: {where}: ClassLabel names must be a list of different texts; write the file again")
    return tuple(names)


def labels_of(column: pa.ChunkedArray, names: tuple[str, ...] | None, where: str) -> Labels:
    """Of one file. Raises BadInput, with its row, for a label that is no class."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise BadInput(f"source: {where}: row {row} has no label (null); label it or remove it")
    if _text(column.type):
        encoded = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
        texts = encoded.dictionary.to_pylist()
        if "" in texts:
            row = pc.index(encoded.indices, texts.index("")).as_py()
            raise BadInput(f"source: {where}: row {row} has an empty label; label it or remove it")
        return Labels(encoded.indices.to_numpy().astype(np.int64), tuple(texts), text=True)
    labels = column.to_numpy()
    top = len(names) if names is not None else 2**31
    wrong = np.flatnonzero((labels < 0) | (labels >= top))
    if len(wrong):
        label = labels[wrong[0]]
        what = "negative, which stands for no label" if label < 0 else f"outside the {top} classes of the schema"
        raise BadInput(f"source: {where}: row {wrong[0]} has the label {label}, {what}; label it or remove it")
    return Labels(labels.astype(np.int64), names)


def classes_of(root: Location, parts: Sequence[Labels]) -> tuple[tuple[ClassInfo, ...], np.ndarray]:
    """The classes of a split, and the labels (N,) int32 of its files in turn, which index them."""
    if parts[0].text:
        return text_classes(root, [(p.numbers, p.names or ()) for p in parts])
    labels = np.concatenate([p.numbers for p in parts])
    if parts[0].names is None:
        return numbered_classes(root, labels)
    classes = told_classes(root, parts[0].names, "of the Parquet schema")
    return classes, in_range(root, labels, len(classes))


def check_repeats(labels: np.ndarray, columns: Columns, where: str) -> None:
    """Raises BadInput for a label column that nobody named and that is another in every row: texts about the images,
    or their numbers."""
    if columns.guessed and len(labels) > 1 and len(np.unique(labels)) == len(labels):
        raise BadInput(
            f"source: {where}: column 'label' is missing, and {columns.label!r}, the only one that may hold labels, "
            f"differs in every row; if it holds the classes, say so with source.label_column={columns.label}"
        )
