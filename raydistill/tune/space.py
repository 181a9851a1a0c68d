"""Where a sweep looks: knobs with their ranges or lists, and which of them a method reads."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Protocol

from pydantic import TypeAdapter, ValidationError

from raydistill import registry
from raydistill.config import (
    Config,
    Search,
    Section,
    changed,
    nearest_key,
    search_space,
)
from raydistill.config.loading import field_of, flat_kinds, written
from raydistill.config.reads import SHORTER, length_before
from raydistill.errors import BadInput, one_line
from raydistill.evaluation.recipe import Setting, resolve, students_of
from raydistill.methods.reads import is_read, readers, sections

METHOD = "method"
RANGE = re.compile(r"(uniform|loguniform)\(\s*([^,\s]+)\s*,\s*([^,\s]+)\s*\)$")
NAMED = {  # keys whose values are entries of a kind
    METHOD: "method",
    "cluster.algorithm": "clustering",
    "sampler.name": "sampler",
    "evaluate.protocol.name": "protocol",
}
ALWAYS = ("weights", "evaluate.protocol", "evaluate.width")  # what a sweep may vary whatever the method


class Asked(Protocol):
    """Optuna's trial."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class Knob:
    """A configuration key with its range, or with the values of a list (`choices`)."""

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Asked) -> Any:
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)

    def __str__(self) -> str:
        if self.choices:
            return f"{self.key} of {', '.join(map(written, self.choices))}"
        return f"{self.key} from {self.low:g} to {self.high:g}{' (log)' if self.log else ''}"


@dataclass(frozen=True)
class Space:
    """Knobs, `method` among them or not, and the prefixes of the keys that each method reads."""

    knobs: tuple[Knob, ...]
    method: str  # where it is no knob
    reads: Mapping[str, tuple[str, ...]]

    def of(self, method: str) -> list[Knob]:
        """The knobs that are asked for in a trial of a method."""
        return [k for k in self.knobs if k.key != METHOD and is_read(k.key, self.reads[method])]

    def suggest(self, trial: Asked) -> None:
        """Asks a trial of Optuna for every knob that its method reads."""
        methods = [k for k in self.knobs if k.key == METHOD]
        method = methods[0].suggest(trial) if methods else self.method
        for knob in self.of(method):
            knob.suggest(trial)

    def cells(self) -> Iterator[dict[str, Any]]:
        """Those of the grid, each once."""
        for method, knobs in self._grids():
            named = {METHOD: method} if METHOD in {k.key for k in self.knobs} else {}
            for values in product(*(k.choices for k in knobs)):
                yield named | dict(zip((k.key for k in knobs), values, strict=True))

    def size(self) -> int:
        """How many cells the grid has, without making them."""
        return sum(math.prod(len(k.choices) for k in knobs) for _, knobs in self._grids())

    def _grids(self) -> Iterator[tuple[str, list[Knob]]]:
        methods = next((k.choices for k in self.knobs if k.key == METHOD), (self.method,))
        return ((method, self.of(method)) for method in methods)


def space(config: Config) -> Space:
    """That of `tune.space`, or what the method, its guidance and its sampler declare. Raises BadInput."""
    asked_for = dict(_flattened(config.tune.space))
    if config.tune.space and not asked_for:
        raise BadInput("tune.space is empty; give tune.space.KEY=uniform(a,b), or leave it out")
    knobs = [_knob(key, value) for key, value in asked_for.items()]
    methods = next((k.choices for k in knobs if k.key == METHOD), (config.method,))
    reads = {name: read_by(changed(config, {METHOD: name})) for name in methods}
    if not knobs:
        knobs = declared(reads[config.method])
        if not knobs:
            raise BadInput(
                f"tune.space is empty: method {config.method} declares no knobs; give tune.space.KEY=uniform(a,b), "
                "or another method"
            )
    for knob in knobs:
        _check_read(knob.key, reads)
        _check_length(knob, knobs, config)
    _check_norm(knobs, config)
    searched = Space(tuple(knobs), config.method, reads)
    _check_grid(searched, config)
    return searched


def declared(sections: Sequence[str]) -> list[Knob]:
    """What stands beside the fields of these sections."""
    known = {**{k: f.annotation for k, f in Config.model_fields.items()}, **registry.sections()}
    return [
        _ranged(f"{key}.{name}", search)
        for key in sections
        if isinstance(known.get(key), type) and issubclass(known[key], Section)
        for name, search in search_space(known[key]).items()
    ]


def read_by(config: Config) -> tuple[str, ...]:
    """The sections and keys that the method of a configuration reads, among those that a sweep may vary."""
    return (METHOD, *ALWAYS, *sections(config))


def _flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _ranged(key: str, search: Search) -> Knob:
    return Knob(key, search.low, search.high, search.log, float not in flat_kinds(field_of(key).annotation))


def _knob(key: str, value: Any) -> Knob:
    """One that was written: a list, or a range in words."""
    field = field_of(key)
    if field is None:
        alike = nearest_key(key)
        raise BadInput(f"tune.space.{key}: unknown key" + (f"; did you mean {alike!r}?" if alike else ""))
    if isinstance(value, list):
        if not value:
            raise BadInput(f"tune.space.{key} is an empty list; give values, or leave the knob out")
        for v in value:
            _check_value(key, v)
        return Knob(key, choices=tuple(dict.fromkeys(value)))
    word = RANGE.match(value) if isinstance(value, str) else None
    if word is None:
        raise BadInput(
            f"tune.space.{key}={written(value)} is neither uniform(a,b), loguniform(a,b) nor a list; for one value "
            f"give {key}={written(value)}"
        )
    kinds = flat_kinds(field.annotation)
    if not kinds & {int, float}:
        raise BadInput(f"tune.space.{key}: a key without numbers has no range; give a list of values")
    low, high = (_number(key, text) for text in word.groups()[1:])
    _check_bounds(key, low, high, word[1] == "loguniform")
    for bound in (low, high):
        if float not in kinds and bound != int(bound):
            raise BadInput(f"tune.space.{key}: {bound:g} is no whole number, and {key} is one; round it")
        _check_value(key, bound if float in kinds else int(bound))
    return Knob(key, low, high, word[1] == "loguniform", float not in kinds)


def _number(key: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"tune.space.{key}: {text[:60]!r} is no number; write a range as uniform(0.1,0.5)")
    return number


def _check_bounds(key: str, low: float, high: float, log: bool) -> None:
    if low == high:
        raise BadInput(f"tune.space.{key}: both bounds are {low:g}; for one value give {key}={low:g}")
    if low > high:
        raise BadInput(f"tune.space.{key}: the bounds {low:g} and {high:g} are reversed; write the lower one first")
    if log and low <= 0:
        raise BadInput(f"tune.space.{key}: a logarithmic scale has no {low:g}; raise it above 0, or write uniform")


def _check_value(key: str, value: Any) -> None:
    """Raises BadInput for a value that the key may not have."""
    if key in NAMED and value is not None:
        registry.get(NAMED[key], str(value))
    field = field_of(key)
    try:
        kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as e:
        raise BadInput(f"tune.space.{key}: {value!r}: {one_line(e.errors()[0]['msg'])}") from None


def _check_length(knob: Knob, knobs: Sequence[Knob], config: Config) -> None:
    """Refuses a length of trainings in whose place another one counts, unless that is searched too."""
    value = next((v for v in knob.choices or (knob.high, knob.low) if v not in (None, 1)), None)
    if knob.key not in SHORTER or value is None:
        return
    length = length_before(knob.key, changed(config, {knob.key: int(value) if knob.whole else value}))
    if length is not None and length.partition("=")[0] not in {k.key for k in knobs}:
        raise BadInput(
            f"tune.space.{knob.key}: {length} says how long a student is trained; leave the knob out, or give "
            f"{length.partition('=')[0]}=null as well"
        )


def _check_norm(knobs: Sequence[Knob], config: Config) -> None:
    """Refuses norms of weights where none matters: they differ by a factor of the loss, which Adam divides out."""
    e = config.evaluate
    searched = {k.key for k in knobs}
    if "weights.norm" not in searched or "evaluate.protocol.name" in searched:
        return
    setting = Setting(config.ipc, 2, e.protocol.image_size, students_of(e)[0])
    if (optimiser := resolve(e.protocol, setting).optimiser) != "sgd":
        raise BadInput(
            f"tune.space.weights.norm: norms differ by a factor of the loss, which cancels under {optimiser} "
            f"(evaluate.protocol.name={e.protocol.name}); leave it out, or choose a protocol of SGD "
            "(evaluate.protocol.name=hard)"
        )


def _check_read(key: str, reads: Mapping[str, tuple[str, ...]]) -> None:
    if any(is_read(key, prefixes) for prefixes in reads.values()):
        return
    theirs = readers(key)
    who = f"method{'s' if len(reads) > 1 else ''} {', '.join(reads)}"
    if theirs:
        raise BadInput(f"tune.space.{key}: {who} do{'' if len(reads) > 1 else 'es'} not read it, {theirs[0]} does")
    alike = difflib.get_close_matches(key, [k.key for k in declared(next(iter(reads.values())))], n=1)
    raise BadInput(
        f"tune.space.{key}: a sweep does not vary it, only what method, guidance, sampler and student read"
        + (f"; did you mean {alike[0]!r}?" if alike else "")
    )


def _check_grid(grid: Space, config: Config) -> None:
    if config.tune.search != "grid":
        return
    for knob in grid.knobs:
        if not knob.choices:
            raise BadInput(
                f"tune.space.{knob.key}: a grid is of lists, and this is a range; write [{knob.low:g},{knob.high:g}], "
                "or choose tune.search=tpe"
            )
    if grid.size() > config.tune.samples:
        raise BadInput(
            f"tune.space is a grid of {grid.size():,} cells, and tune.samples={config.tune.samples}; shorten the "
            "lists, raise tune.samples, or choose tune.search=random"
        )
