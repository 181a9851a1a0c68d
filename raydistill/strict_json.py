"""JSON that somebody may have touched: size, depth and types are checked before anything is made of it."""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_BYTES = 64 * 2**20
MAX_DEPTH = 64
# A string is one token, so that its brackets do not count, also one that nothing closes: no text is read twice.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKETS = b"[]{}"
_SQUARE, _ALL_BUT_BRACKETS = bytes.maketrans(b"{}", b"[]"), bytes(set(range(256)) - set(_BRACKETS))


def parse(data: bytes, max_bytes: int = MAX_BYTES, finite: bool = True) -> Any:
    """The value of JSON text. Raises ValueError: too large, nested too deep, not JSON, not UTF-8, not finite.

    `finite` = False takes NaN and Infinity, which others write into records that hold more than what is read.
    Python's own parser recurses: a file of brackets alone would end it with a RecursionError.
    """
    if len(data) > max_bytes:
        raise ValueError(f"{len(data)} bytes are more than the {max_bytes} that such a file can have")
    _check_depth(data)
    text = data.decode("utf-8-sig")
    return json.loads(text, parse_constant=_refuse, parse_float=_finite) if finite else json.loads(text)


def _check_depth(data: bytes) -> None:
    """Raises ValueError. Pairs of brackets vanish from the inside: 100,000 keys are no loop of Python's."""
    brackets = left = _STRING.sub(b"", data).translate(_SQUARE, _ALL_BUT_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not left:
            return
        left = left.replace(b"[]", b"")
    depth = 0  # it is too deep, or its brackets are no pairs
    for bracket in brackets:
        depth += 1 if bracket == ord("[") else -1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


def mapping(data: bytes, max_bytes: int = MAX_BYTES, finite: bool = True) -> dict[str, Any]:
    """As parse, for text that must hold an object."""
    value = parse(data, max_bytes, finite)
    if not isinstance(value, dict):
        raise ValueError(f"it holds {type(value).__name__} and not an object")
    return value


def numbers(data: bytes) -> dict[str, float]:
    """As parse, for text that must hold an object of numbers: the flat numbers of a run."""
    tree = mapping(data)
    for name, value in tree.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"its {name!r} is no number")
    return tree


def strings(data: bytes) -> list[str]:
    """As parse, for text that must hold a list of strings."""
    value = parse(data)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("it holds no list of strings")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"it holds {constant}, which is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:20]}, which is no finite number")
    return value
