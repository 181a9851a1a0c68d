"""Sections of the configuration that an entry brings with it: parsed like those that ship, part of what used them."""

from __future__ import annotations

import pickle
from typing import Annotated, ClassVar

import pytest
from pydantic import Field

from raydistill import registry
from raydistill.config import Search, Section, build, describe, load, search_space
from raydistill.errors import BadInput
from raydistill.guidance.mode import Mode
from raydistill.methods.mgd3 import Mgd3
from raydistill.methods.resolve import resolve


class WideConfig(Section):
    width: Annotated[float, Field(gt=0, le=4, description="how wide"), Search(0.1, 2.0, log=True)] = 1.0
    name: Annotated[str, Field(description="what to call it")] = "plain"


class Wide(Mode):
    section: ClassVar[tuple[str, type[Section]] | None] = ("wide", WideConfig)


class WideMethod(Mgd3):
    summary = "wide"
    guidance = "wide"


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in registry.PACKAGES:
        registry.names(kind)
    monkeypatch.setattr(registry, "_entries", {kind: dict(e) for kind, e in registry._entries.items()})
    registry.register("guidance", "wide")(Wide)
    registry.register("method", "wide")(WideMethod)


def test_it_is_read_from_overrides_and_reaches_the_guidance() -> None:
    asked = load("quickstart", ["method=wide", "wide.width=0.5", "wide.name=007"])
    guidance = resolve(asked).sampling.guidance
    assert guidance.settings == WideConfig(width=0.5, name="007") and guidance.make().settings.width == 0.5
    assert resolve(load("quickstart", ["method=wide"])).sampling.guidance.settings == WideConfig()


def test_it_is_kept_with_the_configuration() -> None:
    asked = load("quickstart", ["method=wide", "wide.width=0.5"])
    assert asked.tree()["wide"] == {"width": 0.5, "name": "plain"} and "brought" not in asked.yaml()
    assert build(asked.tree()) == asked == pickle.loads(pickle.dumps(asked))
    assert "wide" not in load("quickstart").tree()


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("wide.widht=1", "unknown configuration key 'wide.widht'"),
        ("wide.width=9", r"configuration key wide\.width: Input should be less than or equal to 4 \(got"),
        ("wide.width=no", r"configuration key wide\.width"),
        ("wide=3", "configuration key wide: "),
        ("brought.wide=3", "unknown configuration key 'brought.wide'"),
        ("narrow.width=1", "unknown configuration key 'narrow.width'"),
    ],
)
def test_it_is_as_strict_as_those_that_ship(override: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        load("quickstart", [override])


def test_the_help_knows_it() -> None:
    assert "wide.width=1.0" in describe() and "how wide" in describe()


def test_two_entries_cannot_share_a_key() -> None:
    other = type("Other", (Wide,), {"section": ("wide", type("OtherConfig", (WideConfig,), {}))})
    registry.register("guidance", "other")(other)
    with pytest.raises(BadInput, match="declares section 'wide', which another entry has"):
        load("quickstart", ["wide.width=1"])


class TestSearch:
    def test_a_section_says_where_to_look(self) -> None:
        assert search_space(WideConfig) == {"width": Search(0.1, 2.0, log=True)}

    @pytest.mark.parametrize("key", [k for k, s in registry.sections().items() if search_space(s)])
    def test_every_range_lies_within_its_field(self, key: str) -> None:
        kind = registry.sections()[key]
        for name, search in search_space(kind).items():
            for bound in (search.low, search.high):
                whole = kind.model_fields[name].annotation is int
                kind.__pydantic_validator__.validate_assignment(
                    kind.model_construct(), name, int(bound) if whole else bound
                )

    def test_a_range_is_a_range(self) -> None:
        for low, high, log in ((1, 1, False), (2, 1, False), (0, 1, True)):
            with pytest.raises(ValueError, match="is none"):
                Search(low, high, log)
