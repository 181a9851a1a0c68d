"""The registry: the only dispatch; a name has one owner, and an unknown one is answered with the nearest."""

from __future__ import annotations

import pytest

from raydistill import registry
from raydistill.errors import BadInput


@pytest.fixture(autouse=True)
def unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    registry.names("source")
    monkeypatch.setattr(registry, "_entries", {kind: dict(entries) for kind, entries in registry._entries.items()})


def test_a_file_in_the_package_registers_itself() -> None:
    assert {"digits", "imagefolder", "parquet"} <= set(registry.names("source"))


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"unknown source 'imagefoldr'; did you mean 'imagefolder'\?"):
        registry.get("source", "imagefoldr")
    with pytest.raises(BadInput, match="known: auto, digits, imagefolder, parquet"):
        registry.get("source", "xyzzy")


def test_a_name_has_one_owner() -> None:
    owner = object()
    assert registry.register("source", "mine")(owner) is owner
    registry.register("source", "mine")(owner)
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("source", "mine")(object())
    assert registry.get("source", "mine") is owner
