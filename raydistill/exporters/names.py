"""Folder names that every file system takes, one a class, whatever the class ids hold."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}(\.[A-Za-z0-9_-]{1,16})?")
TAKEN = {"metadata.jsonl", "con", "nul", "aux", "prn"}  # the file beside the folders; devices of Windows


def folder_names(class_ids: Sequence[str]) -> list[str]:
    """Plain class ids as they are; others as LABEL_ and what is plain of them, letters without their accents.

    No two alike, in upper case either.
    """
    kept = [c if PLAIN.fullmatch(c) and c.lower() not in TAKEN else None for c in class_ids]
    lower = [k.lower() for k in kept if k is not None]
    kept = [k if k is not None and lower.count(k.lower()) == 1 else None for k in kept]
    used = {k.lower() for k in kept if k is not None}
    names = []
    for label, (class_id, name) in enumerate(zip(class_ids, kept, strict=True)):
        if name is None:
            name = f"{label:05d}_" + re.sub(r"[^A-Za-z0-9-]+", "_", _unaccented(class_id))[:48].strip("_")
            while name.lower() in used:
                name += "_"
            used.add(name.lower())
        names.append(name)
    return names


def _unaccented(text: str) -> str:
    """Letters without what stands above and below them: a composed one and its parts give the same."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
