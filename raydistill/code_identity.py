"""The identity of code: what an entry of the registry is made of, so that an edited file never hands out old results.

A digest covers the file that defines an entry and what that file imports of its own package. Comments, docstrings,
imports and white space do not count. `entries.json` holds the digests with which the entries that ship were released:

    python -m raydistill.code_identity      writes it anew

Do that only after a change that leaves what the entry computes as it was, to the byte; otherwise raise its `version`.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import sys
import tokenize
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from raydistill.identity import digest

TABLE = Path(__file__).with_name("entries.json")
UNKNOWN = "no source"
NOT_CODE = {"source"}  # what a source gives is known by its listing
HEX = 16


def of(entry: Any) -> str:
    """Digest of the source that defines an entry, or UNKNOWN where Python has none (typed into an interpreter)."""
    file = getattr(sys.modules.get(entry.__module__), "__file__", None)
    if file is None or not Path(file).is_file():
        return UNKNOWN
    stat = Path(file).stat()
    return _of(file, entry.__module__, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _of(file: str, module: str, mtime_ns: int) -> str:
    files = {module: Path(file)}
    _reach(module, module.rpartition(".")[0], files)
    return digest("\0".join(bare(files[name].read_text("utf-8")) for name in sorted(files)).encode())[:HEX]


def _reach(module: str, package: str, files: dict[str, Path]) -> None:
    """Adds the modules of `package` that a module imports, and those that they import."""
    if not package:
        return
    for name in imported(files[module].read_text("utf-8"), package):
        if name not in files and name.startswith(f"{package}."):
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin and spec.origin.endswith(".py"):
                files[name] = Path(spec.origin)
                _reach(name, package, files)


def imported(source: str, package: str) -> Iterator[str]:
    """Names of modules that a source imports, or may: of `from a import b` both a and, if it is a module, a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = f"{package}.{node.module}" if node.level and node.module else node.module or package
            yield base
            if base == package:
                yield from (f"{base}.{a.name}" for a in node.names if _is_module(f"{base}.{a.name}"))


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def bare(source: str) -> str:
    """A source without comments, docstrings, imports and white space: the same under every version of Python."""
    lines = [list(line) for line in source.splitlines(keepends=True)]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row = lines[token.start[0] - 1]
            row[token.start[1] : token.end[1]] = " " * (token.end[1] - token.start[1])
    for node in ast.walk(ast.parse(source)):
        first = node.body[0] if isinstance(node, _WITH_DOCSTRING) and node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            _blank(lines, first)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            _blank(lines, node)
    return "".join("".join(map("".join, lines)).split())


_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _blank(lines: list[list[str]], node: ast.stmt) -> None:
    for number in range(node.lineno - 1, node.end_lineno or node.lineno):
        lines[number] = ["\n"]


@lru_cache(maxsize=1)
def released() -> dict[str, list[Any]]:
    """KIND/NAME -> [version, digest] of the entries that ship."""
    return json.loads(TABLE.read_text("utf-8"))


def table() -> dict[str, list[Any]]:
    """What `released` should be for the code as it is now."""
    from raydistill import registry

    digests = {}
    for kind in (k for k in registry.PACKAGES if k not in NOT_CODE):
        for name in registry.shipped(kind):
            entry = registry.entry(kind, name)
            digests[f"{kind}/{name}"] = [getattr(entry, "version", 1), of(entry)]
    return dict(sorted(digests.items()))


if __name__ == "__main__":
    TABLE.write_text(json.dumps(table(), indent=1) + "\n", "utf-8")
    print(TABLE)
