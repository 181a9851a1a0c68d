"""The product as exporters read it: the images of RUN/distilled/ in order, their classes, weights and soft labels."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from raydistill.errors import BadInput, CorruptArtifact, one_line
from raydistill.identity import canonical, digest
from raydistill.sources.base import ClassInfo
from raydistill.store.location import Location

CARD = "README.md"
PARQUET_SECTIONS = ("Load it", "Train on it", "Columns")  # of the card
SHARD = re.compile(r"train-\d{5}-of-(\d{5})\.parquet")
CARRIED = ("weight", "slot", "prototype_id", "method", "seed_key", "provenance", "soft_label")  # columns that travel


@dataclass(frozen=True)
class Item:
    """One image: its PNG as it was made, its label, and the columns of CARRIED that the product has."""

    label: int
    slot: int
    image: bytes
    fields: dict[str, Any]


@dataclass(frozen=True)
class Product:
    """`classes` in label order, their names different from each other; `shards` are names of files in `root`."""

    root: Location
    classes: tuple[ClassInfo, ...]
    shards: tuple[str, ...]
    metrics: dict[str, float]  # of result.json, times left out; empty before the run is evaluated

    def items(self) -> Iterator[Item]:
        """By class, then by slot. One shard is held at a time."""
        for name in self.shards:
            table = self.table(name)
            have = [c for c in CARRIED if c in table.column_names]
            for row in table.select(["image", "label", *have]).to_pylist():
                fields = {k: row[k] for k in have}
                yield Item(row["label"], row["slot"], row["image"]["bytes"], fields)

    def table(self, name: str) -> pa.Table:
        """A shard. Raises CorruptArtifact."""
        try:
            return pq.read_table(io.BytesIO((self.root / name).read()))
        except (pa.ArrowException, OSError) as e:
            raise CorruptArtifact(
                f"export: {self.root / name} cannot be read ({one_line(e)}); run the command that made it again"
            ) from None

    def card(self) -> str:
        return (self.root / CARD).read().decode()

    def class_list(self, folders: Sequence[str] | None = None) -> bytes:
        """classes.json as raydistill's sources read it: "dirs" (`folders`, or the class ids) and "names", by label.

        "class_ids" gives the ids where folders had to be named otherwise.
        """
        ids = [c.class_id for c in self.classes]
        tree = {"dirs": list(folders or ids), "names": [c.class_name for c in self.classes], "class_ids": ids}
        return (json.dumps(tree, indent=1) + "\n").encode()


class Exporter(Protocol):
    def __call__(self, product: Product) -> Iterator[tuple[str, bytes]]:
        """Every file of the export: its path in the folder and its bytes, which depend on the product alone."""
        ...


def open_product(run: Location) -> Product:
    """The product of a run directory. Raises BadInput for a run that has none, or one that is not whole."""
    root = run / "distilled"
    found = {name: match for name in root.list() if (match := SHARD.fullmatch(name))}
    if not found:
        raise BadInput(f"--run {run}: it has no images in distilled/; run distill (or sample) to its end first")
    shards = sorted(found)
    totals = {match[1] for match in found.values()}
    if len(totals) > 1 or len(shards) != int(totals.pop()) or not (root / CARD).exists():
        raise BadInput(f"--run {run}: distilled/ is not whole; run the command that made it again")
    product = Product(root, (), tuple(shards), _metrics(run))
    return Product(root, _classes(product.table(shards[0]).schema, root), product.shards, product.metrics)


def _classes(schema: pa.Schema, root: Location) -> tuple[ClassInfo, ...]:
    """Class ids and names from the metadata that raydistill and datasets keep in the schema."""
    kept = schema.metadata or {}
    try:
        ids = json.loads(kept[b"raydistill"])["class_ids"]
        names = json.loads(kept[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, ValueError):
        raise BadInput(
            f"{root} does not say which classes it has: an older version made it; "
            "run the command that made it again, which takes seconds"
        ) from None
    return tuple(ClassInfo(i, n) for i, n in zip(ids, names, strict=True))


def _metrics(run: Location) -> dict[str, float]:
    try:
        flat = json.loads((run / "result.json").read())
    except (FileNotFoundError, ValueError):
        return {}
    return {k: v for k, v in sorted(flat.items()) if not k.startswith("time/")}


def identity(product: Product) -> str:
    """Digest of all that an export is made from."""
    parts = [digest((product.root / name).read()) for name in (*product.shards, CARD)]
    return digest(canonical([parts, product.metrics]).encode())


def plain_card(product: Product) -> bytes:
    """The card without its front matter and the sections on the Parquet layout: provenance and terms travel."""
    first, *sections = product.card().split("---\n", 2)[-1].lstrip("\n").split("\n## ")
    kept = [s for s in sections if s.partition("\n")[0] not in PARQUET_SECTIONS]
    return "\n## ".join([first, *kept]).encode()
