"""Writes an export so that its folder appears whole or not at all, and never over anything else."""

from __future__ import annotations

import glob
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from raydistill import registry
from raydistill.errors import BadInput, StageFailed
from raydistill.exporters.base import Exporter, identity, open_product
from raydistill.identity import canonical
from raydistill.store import faults, processes
from raydistill.store.location import Location, reason, remedy

MARKER = ".raydistill-export.json"  # hidden, so that no reader of image folders takes it for data
PARTIAL = "raydistill-partial"


def export(run: str, form: str, out: str) -> tuple[str, int]:
    """Exports the product of `run` into the folder `out`. Returns the folder and the files written, 0 if it was there.

    The files are written beside it under a hidden name, which is renamed last. Raises BadInput for a target that holds
    anything but this very export.
    """
    exporter: Exporter = registry.get("exporter", form)
    if "://" in out:
        raise BadInput(f"--out {out}: give a local folder; it appears by a rename, which object stores do not have")
    product = open_product(Location.of(run))
    place = Path(os.path.abspath(os.path.expanduser(out)))
    if place.is_relative_to(Path(product.root.uri)):
        raise BadInput(f"--out {out} is inside the product itself; choose a folder elsewhere")
    stamp = {"format": form, "product": identity(product, registry.identity("exporter", form))}
    if _is_there(place, stamp):
        return str(place), 0
    partial = place.with_name(f".{place.name}.{PARTIAL}-{processes.mark()}-{uuid.uuid4().hex[:8]}")
    try:
        _sweep(place)
        sizes = dict(_write(partial, exporter(product)))
        (partial / MARKER).write_text(canonical({**stamp, "files": sizes}))
        faults.reach("export", "before_manifest", form)
        os.rename(partial, place)  # over an empty folder, or this fails
    except OSError as e:
        if _is_there(place, stamp):  # another export of the same was faster
            return str(place), 0
        raise StageFailed(
            f"export: cannot write {place}: {reason(e)}; {remedy(e)}, then run the same command again"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return str(place), len(sizes)


def _sweep(place: Path) -> None:
    """Removes what exports to this place that were killed have left; a folder that may be somebody's work stays."""
    for folder in place.parent.glob(glob.escape(f".{place.name}.{PARTIAL}") + "*"):
        mark = folder.name.rpartition(f"{PARTIAL}-")[2].rpartition("-")[0]
        if processes.lives(mark) is False:
            shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, files: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, int]]:
    for name, data in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        faults.reach("export", "before_write", name)
        with open(path, "xb") as file:  # x: two files of one name would lose one
            file.write(data)
        yield name, len(data)


def _is_there(place: Path, stamp: dict[str, str]) -> bool:
    """Whether exactly this export is there, whole. Raises BadInput if something else is."""
    try:
        names = sorted(os.listdir(place))
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise BadInput(f"--out {place} is a file; choose a new folder") from None
    except OSError as e:
        raise BadInput(f"--out {place} cannot be listed: {reason(e)}; choose a new folder") from None
    if not names:
        return False
    try:
        found = json.loads((place / MARKER).read_text())
        files = found.pop("files")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise BadInput(f"--out {place} holds {names[0]!r} and is no export; choose an empty or new folder") from None
    if found != stamp:
        raise BadInput(
            f"--out {place} holds another export ({found.get('format')}, or of another product); "
            "remove it or choose another folder"
        )
    try:
        have = {str(p.relative_to(place)): p.stat().st_size for p in place.rglob("*") if p.is_file()}
    except OSError as e:
        raise BadInput(f"--out {place} is being changed ({reason(e)}); choose another folder") from None
    have.pop(MARKER, None)
    if have != files:
        odd = min(set(have.items()) ^ set(files.items()))[0]
        raise BadInput(f"--out {place} was changed since it was exported ({odd}); remove it or choose another folder")
    return True
