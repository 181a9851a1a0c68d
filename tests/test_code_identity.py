"""The identity of code: an edited entry is another entry, whoever wrote it; a comment changes nothing."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from raydistill import code_identity, registry

METHOD = """
from raydistill.methods.dit import Unguided
from raydistill.registry import register
{more}

@register("method", "mine_{name}")
class Mine(Unguided):
    summary = "mine"
    number = {number}
"""


def test_entries_that_ship_are_as_they_were_released() -> None:
    """Otherwise raise the version of each entry whose results changed, then `python -m raydistill.code_identity`."""
    assert code_identity.table() == code_identity.released()


@pytest.mark.parametrize("kind", [k for k in registry.PACKAGES if k not in code_identity.NOT_CODE])
def test_as_released_and_at_version_1_an_entry_adds_nothing(kind: str) -> None:
    for name in registry.names(kind):
        version = getattr(registry.get(kind, name), "version", 1)
        assert registry.identity(kind, name) == ([] if version == 1 else [version])


def test_what_does_not_compute_does_not_count() -> None:
    plain = "import a\nX = 'a # b'\ndef f(x):\n    'doc'\n    return x + 1\n"
    told = '"""Doc."""\nfrom b import (\n    c,\n)\nX = \'a # b\'  # why\n\n'
    told += 'def f( x ):\n    """Other."""\n\n    return x+1\n'
    assert code_identity.bare(plain) == code_identity.bare(told) == "X='a#b'deff(x):returnx+1"
    assert code_identity.bare(plain) != code_identity.bare(plain.replace("1", "2"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a module of a package `theirs` and gives the identity of the method that it registers."""
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.names("method")
    monkeypatch.setattr(registry, "_entries", {kind: dict(e) for kind, e in registry._entries.items()})
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("")

    def identity(
        number: int, helper: str = "Y = 1", more: str = "from theirs.helper import Y", name: str = "a"
    ) -> list:
        (tmp_path / "theirs" / "helper.py").write_text(helper)
        (tmp_path / "theirs" / "method.py").write_text(METHOD.format(number=number, more=more, name=name))
        for module in [m for m in sys.modules if m.startswith("theirs")]:
            del sys.modules[module]
        importlib.invalidate_caches()
        code_identity._of.cache_clear()
        registry._entries["method"].pop(f"mine_{name}", None)
        importlib.import_module("theirs.method")
        return registry.identity("method", f"mine_{name}")

    return identity


def test_ones_own_entry_is_known_by_its_version_and_its_source(package) -> None:
    first = package(1)
    assert first[0] == 1 and len(first[1]) == code_identity.HEX
    assert package(1) == first and package(2) != first


def test_and_by_what_it_imports_of_its_own_package(package) -> None:
    first = package(1)
    assert package(1, helper="Y = 2") != first
    assert package(1, helper="Y = 1  # the same") == first
    assert package(1, helper="Y = 2", more="") == package(1, helper="Y = 3", more="")


def test_an_entry_without_a_source_says_so() -> None:
    kind = type("Typed", (), {"__module__": "nowhere"})
    assert code_identity.of(kind) == code_identity.UNKNOWN
