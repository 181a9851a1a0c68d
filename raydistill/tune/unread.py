"""Knobs by which no two trials would differ, refused before a sweep as a run refuses such keys of its command line."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from itertools import islice, product
from typing import Any

from raydistill.config import changed
from raydistill.errors import BadInput, RaydistillError
from raydistill.pipeline import unread
from raydistill.pipeline.tracked import RESOURCES
from raydistill.pipeline.varied import varied
from raydistill.state import Prepared
from raydistill.tune.space import METHOD, Knob, Space

MOST = 200  # settings of the other knobs that are tried until one reads a knob


def check(space: Space, p: Prepared) -> None:
    """Raises BadInput for a knob that is a resource, or that is read in no trial whatever the other knobs say."""
    for knob in space.knobs:
        section, _, name = knob.key.rpartition(".")
        if section and name in RESOURCES:
            raise BadInput(
                f"tune.space.{knob.key}: it says with how much is computed, and changes no result; leave the knob out, "
                f"and give one value for all trials ({knob.key}=...)"
            )
        if knob.key != METHOD:
            _check_read(knob, space, p)


def _check_read(knob: Knob, space: Space, p: Prepared) -> None:
    """What fails for another reason than the knob itself is left to the trials, each of which says its own."""
    why: BadInput | None = None
    others = list(islice(_others(knob, space), MOST + 1))
    for values, value in product(others, ends(knob)):
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # news of settings that may be no trial's
                trial = varied(p, changed(p.config, {**values, knob.key: value}))
        except BadInput as e:
            if not str(e).startswith(knob.key):
                return
            why = why or e
            continue
        except RaydistillError:
            return
        try:
            unread.check(trial, [knob.key])
        except BadInput as e:
            why = why or e
        else:
            return
    if why is not None and len(others) <= MOST:
        raise BadInput(f"tune.space.{why}")


def _others(knob: Knob, space: Space) -> Iterator[dict[str, Any]]:
    """Settings of the other knobs of the methods that read this one: all names that decide what is read, beside numbers
    as the configuration has them, and beside the largest."""
    methods = next((k.choices for k in space.knobs if k.key == METHOD), (space.method,))
    for method in methods:
        mine = space.of(method)
        if knob in mine:
            rest = [k for k in mine if k != knob]
            names = [k for k in rest if not _of_numbers(k)]
            largest = {k.key: ends(k)[-1] for k in rest if _of_numbers(k)}
            for chosen in product(*(k.choices for k in names)):
                named = {METHOD: method, **dict(zip((k.key for k in names), chosen, strict=True))}
                yield named
                if largest:
                    yield named | largest


def _of_numbers(knob: Knob) -> bool:
    return all(type(v) in (int, float, type(None)) for v in knob.choices)


def ends(knob: Knob) -> list[Any]:
    """The values of a list, nothing last of all; the bounds of a range."""
    if not knob.choices:
        return [int(v) if knob.whole else v for v in (knob.low, knob.high)]
    values = [v for v in knob.choices if v is not None]
    return sorted(values) if values and _of_numbers(knob) else values or [None]
