"""Arrow tables as Hugging Face's `save_to_disk` writes them: a folder a split, with state.json naming its files."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs

from raydistill import strict_json
from raydistill.errors import BadInput, one_line
from raydistill.sources.columns import Columns, Labels, Requested, columns_of, label_names, labels_of
from raydistill.store.location import Location

STATE = "state.json"
SUFFIX = ".arrow"
FILE_FORMAT = b"ARROW1"  # the beginning of Arrow's file format; datasets writes its stream format


def files(folder: Location) -> list[pafs.FileInfo]:
    """The tables that state.json names; none where there is no state.json, or it is of something else.

    Raises BadInput for one that is not there, and for a selection of rows that was not written out.
    """
    infos = {i.base_name: i for i in folder.infos() if i.type == pafs.FileType.File}
    if STATE not in infos:
        return []
    try:
        state: Any = strict_json.mapping((folder / STATE).read())
        names = [str(file["filename"]) for file in state["_data_files"]]
    except (ValueError, KeyError, TypeError):
        return []
    if state.get("_indices_data_files"):
        raise BadInput(
            f"source: {folder} holds a selection of rows beside the rows; write it anew with "
            "flatten_indices().save_to_disk()"
        )
    missing = [n for n in names if n not in infos]
    if missing:
        raise BadInput(f"source: {folder}: {missing[0]} is missing; fetch it, the set is not complete")
    if not isinstance(folder.filesystem()[0], pafs.LocalFileSystem):
        raise BadInput(
            f"source: {folder} holds Arrow tables, which are read from a disk alone; copy them to one, or write them "
            "as Parquet (to_parquet of Hugging Face datasets does)"
        )
    return [infos[n] for n in names if n.endswith(SUFFIX)]


def labelled(path: str, requested: Requested, where: str) -> tuple[Columns, Labels]:
    """The columns of a table and its labels. Raises BadInput."""
    try:
        with pa.memory_map(path) as mapped:
            table = _table(mapped)
            columns = columns_of(table.schema, requested, where)
            _checked(table, columns)
            images = columns.bytes_of(table[columns.image])
            labels = labels_of(table[columns.label], label_names(table.schema, columns.label, where), where)
    except (pa.ArrowException, OSError) as e:
        raise BadInput(f"source: {where} is not a readable Arrow table: {one_line(e)}; fetch it again") from None
    if len(images) and images.null_count == len(images):
        raise BadInput(
            f"source: {where} holds paths to images, not their bytes; write it as Parquet with push_to_hub, "
            "which embeds the files"
        )
    return columns, labels


class ArrowFile:
    """Images of one table by row, on a disk; what is not asked for is not read."""

    def __init__(self, path: str, requested: Requested) -> None:
        self.mapped = pa.memory_map(path)
        table = _table(self.mapped)
        columns = columns_of(table.schema, requested, path)
        _checked(table, columns)
        self.images = columns.bytes_of(table[columns.image])

    def image(self, row: int) -> bytes:
        """The bytes at a row, empty where there are none. Raises IndexError if there is no such row."""
        if not 0 <= row < len(self.images):
            raise IndexError(f"it has {len(self.images)} rows and no row {row}")
        return self.images[row].as_py() or b""

    def close(self) -> None:
        self.mapped.close()


def _table(mapped: pa.MemoryMappedFile) -> pa.Table:
    """Its buffers are the file's own: nothing is copied."""
    head = mapped.read_at(len(FILE_FORMAT), 0)
    if not head:
        raise pa.ArrowInvalid("it is empty")
    return (pa.ipc.open_file(mapped) if head == FILE_FORMAT else pa.ipc.open_stream(mapped)).read_all()


def _checked(table: pa.Table, columns: Columns) -> None:
    """Raises ArrowInvalid for offsets that lead out of a damaged file."""
    table.select([columns.image, columns.label]).validate(full=True)
