"""Writes an export so that its folder appears whole or not at all, and never over anything else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from raydistill import registry
from raydistill.errors import BadInput, StageFailed, one_line
from raydistill.exporters import marker
from raydistill.exporters.base import Exporter, identity, open_product
from raydistill.exporters.marker import MARKER, Marker
from raydistill.identity import digest
from raydistill.store import faults, unfinished
from raydistill.store.location import Location, check_lasting, reason, remedy


def export(run: str, form: str, out: str) -> tuple[str, int]:
    """Exports the product of `run` into the folder `out`. Returns the folder and the files written, 0 if it was there.

    The files are written beside it under a hidden name, which is renamed last. Raises BadInput for a target that holds
    anything but this very export.
    """
    exporter: Exporter = registry.get("exporter", form)
    if "://" in out:
        raise BadInput(f"--out {out}: give a local folder; it appears by a rename, which object stores do not have")
    check_lasting("--out", out, uris=False)
    product = open_product(Location.of(run))
    target = Path(os.path.abspath(os.path.expanduser(out)))
    if target.is_relative_to(Path(product.root.uri)):
        raise BadInput(f"--out {out} is inside the product itself; choose a folder elsewhere")
    made_of = identity(product, registry.identity("exporter", form))
    if _is_there(target, form, made_of):
        return str(target), 0
    partial = unfinished.beside(target)
    try:
        unfinished.sweep(target)
        files = dict(_write(partial, exporter(product)))
        (partial / MARKER).write_bytes(Marker(form, made_of, files).text())
        faults.reach("export", "before_manifest", form)
        os.rename(partial, target)  # over an empty folder, or this fails
    except OSError as e:
        if _is_there(target, form, made_of):  # another export of the same was faster
            return str(target), 0
        raise StageFailed(
            f"export: cannot write {target}: {reason(e)}; {remedy(e)}, then run the same command again"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return str(target), len(files)


def _write(folder: Path, files: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, str]]:
    """Each file with its SHA-256."""
    for name, data in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        faults.reach("export", "before_write", name)
        with open(path, "xb") as file:  # x: two files of one name would lose one
            file.write(data)
        yield name, digest(data)


def _is_there(target: Path, form: str, made_of: str) -> bool:
    """Whether exactly this export is there, whole. Raises BadInput if something else is."""
    try:
        names = sorted(os.listdir(target))
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise BadInput(f"--out {target} is a file; choose a new folder") from None
    except OSError as e:
        raise BadInput(f"--out {target} cannot be listed: {reason(e)}; choose a new folder") from None
    if not names:
        return False
    root = Location.of(str(target))
    try:
        existing = marker.find(root)
        if existing is None:
            raise BadInput(f"--out {target} holds {names[0]!r} and is no export; choose an empty or new folder")
        if (existing.format, existing.product) != (form, made_of):
            raise BadInput(
                f"--out {target} holds another export ({existing.format}, or of another product); "
                "remove it or choose another folder"
            )
        odd = marker.changed(root, existing)
    except (OSError, ValueError) as e:
        raise BadInput(f"--out {target} cannot be checked: {one_line(e)}; remove it or choose another folder") from None
    if odd is not None:
        raise BadInput(f"--out {target} was changed since it was exported ({odd}); remove it or choose another folder")
    return True
