"""The bytes of tables as Parquet; the same tables and library versions give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq


def table_bytes(table: pa.Table, row_groups: Sequence[int] | None = None) -> bytes:
    """Of a table; `row_groups` gives the number of rows of each row group, in order."""
    sizes = row_groups if row_groups is not None else [table.num_rows]
    ends = accumulate(sizes)
    return joined_bytes((table.slice(end - n, n) for end, n in zip(ends, sizes, strict=True)), table.schema)


def joined_bytes(tables: Iterable[pa.Table], schema: pa.Schema) -> bytes:
    """Of tables one after the other, a row group each, of which one is held at a time."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd", write_statistics=False) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(table.num_rows, 1))
    return sink.getvalue()
