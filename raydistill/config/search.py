"""Where a sweep looks for a number unless it is told otherwise: declared beside the field, so it travels with it."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel


@dataclass(frozen=True)
class Search:
    """A range of a numeric field, uniform or, with `log`, log-uniform. Stands in the field's annotation."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"a search from {self.low} to {self.high}{' in logarithms' if self.log else ''} is none")


def search_space(section: type[BaseModel]) -> dict[str, Search]:
    """The fields of a section that can be searched, by name."""
    space = {}
    for name, field in section.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, Search):
                space[name] = mark
    return space
