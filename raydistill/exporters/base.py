"""The product as exporters read it: the images of RUN/distilled/ in order, their classes, weights and soft labels."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from raydistill import strict_json
from raydistill.config.text import read
from raydistill.errors import BadInput, CorruptArtifact
from raydistill.identity import canonical, digest
from raydistill.progress import say
from raydistill.report import front
from raydistill.sources.base import ClassInfo
from raydistill.store import seals
from raydistill.store.location import Location
from raydistill.store.rundir import BEST, CONFIG, PRODUCT, RESULT, STUDY

CARD = "README.md"
AGAIN = "run the command that made it again, which takes seconds"
DATA = "data"  # the folder of the shards; an older version's lie beside the card
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
    """`classes` in label order, their names different from each other; `shards` are paths of files in `root`.

    Of what lies in `root` only what raydistill has sealed is read, and only as it was sealed.
    """

    run: Location
    classes: tuple[ClassInfo, ...]
    shards: tuple[str, ...]
    metrics: dict[str, float]  # of result.json, times left out; empty before the run is evaluated

    @property
    def root(self) -> Location:
        return self.run / PRODUCT

    def items(self) -> Iterator[Item]:
        """By class, then by slot. One shard is held at a time."""
        for name in self.shards:
            table = self.table(name)
            have = [c for c in CARRIED if c in table.column_names]
            for row in table.select(["image", "label", *have]).to_pylist():
                fields = {k: row[k] for k in have}
                yield Item(row["label"], row["slot"], row["image"]["bytes"], fields)

    def read(self, name: str) -> bytes:
        """A file of the product. Raises CorruptArtifact."""
        return seals.read(self.run, f"{PRODUCT}/{name}", AGAIN)

    def table(self, name: str) -> pa.Table:
        """A shard. Raises CorruptArtifact."""
        return pq.read_table(io.BytesIO(self.read(name)))

    def card(self) -> str:
        return self.read(CARD).decode()

    def dataset_info(self) -> dict[str, Any]:
        """Columns and size as `datasets` knows them."""
        tables = [pq.read_metadata(io.BytesIO(self.read(name))) for name in self.shards]
        return front.dataset_info(tables[0].schema.to_arrow_schema(), sum(t.num_rows for t in tables))

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
    """The product of a run directory. Raises BadInput for a run that has none, CorruptArtifact for a spoiled one."""
    names = shards(run)
    if not names:
        raise BadInput(f"--run {run}: it has no images in {PRODUCT}/; {_remedy(run)}")
    flat = (
        {k: v for k, v in sorted(numbers(run).items()) if not k.startswith("time/")} if _judged(run, names[0]) else {}
    )
    product = Product(run, (), names, flat)
    for name in (*names, CARD):
        product.read(name)
    return Product(run, _classes(product.table(names[0]).schema, product.root), names, flat)


def _remedy(run: Location) -> str:
    """What to do where a run has no product: one that judged a folder, or searched, never has any."""
    with contextlib.suppress(OSError, ValueError):
        tree = read((run / CONFIG).read().decode())
        images = tree.get("evaluate", {}).get("images") if isinstance(tree, dict) else None
        if images is not None:
            return f"it judges those of {images}, which lie there; export a run that made its own"
        if (run / STUDY).exists():
            return f"it is a sweep; distil with `--config {run / BEST}`, and export that run"
    return "run distill (or sample) to its end first"


def _judged(run: Location, shard: str) -> bool:
    """Whether result.json is of the product that lies there now, and not of one that `sample` has replaced since."""
    result, product = seals.find(run, RESULT), seals.find(run, f"{PRODUCT}/{shard}")
    if result is None or product is None:
        return True
    judged, lies = (seal.made_from.partition("-")[0] for seal in (result, product))  # the set alone
    if judged in ("", lies):
        return True
    say("export", f"{run / RESULT} is of an earlier product and is left out; run distill to its end to judge this one")
    return False


def shards(run: Location) -> tuple[str, ...]:
    """The paths of the shards in order, none if a run has no product. Raises CorruptArtifact if some are not there.

    One without a seal counts, so that it is named when it is read.
    """
    sealed = {n.removeprefix(f"{PRODUCT}/") for n in seals.names(run) if n.startswith(f"{PRODUCT}/")}
    matches: dict[str, re.Match[str]] = {}
    root = run / PRODUCT
    for where, folder in ((root / DATA, f"{DATA}/"), (root, "")):
        present = {i.base_name for i in where.infos() if i.type == pafs.FileType.File}
        names = present | {n.removeprefix(folder) for n in sealed if n.startswith(folder)}
        matches = {f"{folder}{name}": match for name in names if (match := SHARD.fullmatch(name))}
        if matches:
            break
    totals = {match[1] for match in matches.values()}
    if matches and (len(totals) > 1 or len(matches) != int(totals.pop())):
        raise CorruptArtifact(f"{run / PRODUCT} is not whole; {AGAIN}")
    return tuple(sorted(matches))


def tables(run: Location) -> Iterator[pa.Table]:
    """The shards of a run one by one. Raises CorruptArtifact."""
    for name in shards(run):
        yield Product(run, (), (), {}).table(name)


def _classes(schema: pa.Schema, root: Location) -> tuple[ClassInfo, ...]:
    """Class ids and names from the metadata that raydistill and datasets keep in the schema."""
    kept = schema.metadata or {}
    try:
        ids = strict_json.mapping(kept[b"raydistill"])["class_ids"]
        names = strict_json.mapping(kept[b"huggingface"])["info"]["features"]["label"]["names"]
    except (KeyError, ValueError):
        raise BadInput(f"{root} does not say which classes it has: an older version made it; {AGAIN}") from None
    return tuple(ClassInfo(i, n) for i, n in zip(ids, names, strict=True))


def numbers(run: Location) -> dict[str, float]:
    """What result.json holds; nothing before a run is evaluated. Raises CorruptArtifact."""
    if seals.find(run, RESULT) is None and not (run / RESULT).exists():
        return {}
    try:
        return strict_json.numbers(seals.read(run, RESULT, AGAIN))
    except ValueError as e:
        raise CorruptArtifact(f"{run / RESULT} does not hold the numbers of a run: {e}; {AGAIN}") from None


def identity(product: Product, code: Sequence[Any] = ()) -> str:
    """Digest of all that an export is made from; `code` is the exporter's own identity."""
    parts = [digest(product.read(name)) for name in (*product.shards, CARD)]
    return digest(canonical([parts, product.metrics, *code]).encode())
