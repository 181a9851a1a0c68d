"""Calls that a unit of work hands on: one after the other here, or as the executor of this process spreads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

FanOut = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]], float], Iterator[Any]]  # (function, calls, num_cpus)


def one_by_one(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], num_cpus: float) -> Iterator[Any]:
    """function(*call) for every call, in order, one after the other."""
    return (function(*call) for call in calls)


_current: list[FanOut] = [one_by_one]


def use(fan_out: FanOut) -> None:
    """From now on calls of this process go through it. It must answer in the order of the calls."""
    _current[0] = fan_out


def run(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], num_cpus: float) -> Iterator[Any]:
    """function(*call) for every call, in order; each call may reserve `num_cpus` elsewhere."""
    return _current[0](function, calls, num_cpus)
