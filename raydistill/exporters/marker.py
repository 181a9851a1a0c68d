"""What an export was made of and holds, in a file of its own: by it a flipped bit is found out, here and elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pyarrow import fs as pafs

from raydistill import strict_json
from raydistill.errors import BadInput, one_line
from raydistill.identity import canonical, digest
from raydistill.store import seals
from raydistill.store.location import Location, infos
from raydistill.store.rundir import PRODUCT
from raydistill.store.seals import State

MARKER = ".raydistill-export.json"  # hidden, so that no reader of image folders takes it for data


@dataclass(frozen=True)
class Marker:
    """The exporter's name, the identity of the product, and SHA-256 by path in the folder."""

    format: str
    product: str
    files: Mapping[str, str]

    def text(self) -> bytes:
        body = {"format": self.format, "product": self.product, "files": dict(self.files)}
        return canonical({**body, "check": digest(canonical(body).encode())}).encode()


def find(folder: Location) -> Marker | None:
    """The marker of a folder, None if it has none. Raises ValueError for one that is not as it was written."""
    try:
        body = strict_json.mapping((folder / MARKER).read())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        raise ValueError(f"{MARKER} cannot be read ({one_line(e)[:80]})") from None
    check = body.pop("check", None)
    if check is None:
        raise ValueError(f"{MARKER} is of a version that kept no digests of the files")
    if digest(canonical(body).encode()) != check:
        raise ValueError(f"{MARKER} is not what was written")
    return Marker(body["format"], body["product"], body["files"])


def changed(folder: Location, marker: Marker) -> str | None:
    """The first file that is another, is missing, or came later; None if there is none."""
    fs, base = folder.filesystem()
    files = [i for i in infos(fs, base, recursive=True) if i.type == pafs.FileType.File]
    have = {i.path[len(base) :].lstrip("/") for i in files} - {MARKER}
    for name in sorted(have ^ set(marker.files)):
        return name
    return next((n for n, sha256 in sorted(marker.files.items()) if (folder / n).digest()[1] != sha256), None)


def check_ours(folder: Location) -> None:
    """Holds an export of ours, or the product of a run, against what was written. Raises BadInput.

    Also by a folder inside of it, `train` for example. Of the folders of others nothing is known.
    """
    above = [Location(os.path.dirname(folder.uri))] if folder.is_local else []
    for candidate in (folder, *above):
        try:
            marker = find(candidate)
            name = marker and changed(candidate, marker)
        except (ValueError, OSError) as e:
            raise BadInput(f"{candidate}: {e}; export it again, or remove {MARKER} if it is meant as it is") from None
        if name:
            raise BadInput(
                f"{candidate / name} was changed since raydistill exported it; export it again, or remove {MARKER} if "
                "that is meant"
            )
    for product in (c for c in (folder, *above) if c.name == PRODUCT and c.is_local):
        run = Location(os.path.dirname(product.uri))
        for name in (n for n in seals.names(run) if n.startswith(f"{PRODUCT}/")):
            if seals.state(run, name) is not State.WHOLE:
                raise BadInput(f"{run / name} is not what was written; run the command that made it again")
