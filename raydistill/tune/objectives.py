"""What a sweep seeks: numbers of what was measured of a candidate, and which direction is better."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np

from raydistill import registry
from raydistill.config import Config, changed
from raydistill.errors import BadInput
from raydistill.models.classifier import ClassifierSpec
from raydistill.report.scores import Measure
from raydistill.results import statistics as st
from raydistill.results.pairing import TrainingOutcome
from raydistill.stages.evaluation import measure as measuring
from raydistill.tune.trials import Measurement

Direction = Literal["max", "min"]
PLAIN: dict[str, Direction] = {
    "accuracy": "max",
    "worst_student": "max",
    "network_calls": "min",
    "accuracy_per_call": "max",
    "seconds": "min",
    "accuracy_per_second": "max",
}
CALLS = ("network_calls", "accuracy_per_call")
SECONDS = ("seconds", "accuracy_per_second")  # planned, of a worker that draws an image


def directions(config: Config) -> dict[str, Direction]:
    """Which direction is better, by objective. Raises BadInput for one that no evaluation gives."""
    names = config.tune.objectives
    if len(set(names)) != len(names):
        raise BadInput(f"tune.objectives: {', '.join(names)} names one twice; leave it out once")
    if config.tune.search == "nsga2" and len(names) == 1:
        raise BadInput("tune.search=nsga2 is for several objectives; give two in tune.objectives, or choose tpe")
    better = measuring.better(config.metrics.names) if set(names) - set(PLAIN) else {}
    known: dict[str, Direction] = dict(PLAIN)
    known |= {name: "max" if better_is == "higher" else "min" for name, better_is in better.items() if better_is}
    spaces = spaces_of(config) if set(names) - set(PLAIN) else {}
    for name in names:
        value, _, space = name.partition("/")
        if name not in PLAIN and (value not in known or value in PLAIN or space != spaces[value]):
            alike = difflib.get_close_matches(value, list(known), n=1)
            hint = f"; did you mean {'/'.join([alike[0], *filter(None, [spaces.get(alike[0])])])!r}?" if alike else ""
            raise BadInput(
                f"tune.objectives: no evaluation gives {name!r}{hint} (known: {', '.join(PLAIN)}, and VALUE/SPACE of "
                f"metrics.names={','.join(config.metrics.names)})"
            )
    return {name: known[name if name in PLAIN else name.partition("/")[0]] for name in names}


def spaces_of(config: Config) -> dict[str, str]:
    """In which space each value of metrics.names is computed. Raises BadInput for a network that cannot be opened."""
    f = config.features
    network = ClassifierSpec(**f.model_dump(), key="features") if f.path else None
    spaces = measuring.requested_spaces(config.metrics, network)
    return {value.name: space for name, space in spaces.items() for value in registry.get("metric", name).values}


def check_calls(config: Config, methods: Collection[str]) -> None:
    """Raises BadInput for network calls as an objective where no method asks a network."""
    requested = [name for name in config.tune.objectives if name in CALLS]
    if requested and not any(registry.get("method", m).of(changed(config, {"method": m})).generates for m in methods):
        raise BadInput(
            f"tune.objectives={requested[0]}: {', '.join(methods)} asks no network; leave it out, or search a method "
            "that generates (method=mgd3)"
        )


def values(measured: Measurement, names: Sequence[str], measure: Measure) -> dict[str, float]:
    """The objectives of a candidate, means over its seeds. Raises BadInput for one that it does not have."""
    accuracy = st.mean(by_seed(measured.outcomes, measure))
    worst = min(st.mean(by_seed(outcomes, measure)) for outcomes in by_student(measured.outcomes).values())
    plain = {"accuracy": accuracy, "worst_student": worst}
    if measured.calls:
        plain |= {"network_calls": measured.calls, "accuracy_per_call": accuracy / measured.calls}
    if measured.seconds:
        plain |= {"seconds": measured.seconds, "accuracy_per_second": accuracy / measured.seconds}
    known: Mapping[str, float] = plain | dict(measured.metrics)
    for name in names:
        if name not in known:
            why = "it asks no network" if name in CALLS else "its metrics do not have it"
            raise BadInput(f"objective {name}: {why}")
    return {name: known[name] for name in names}


def by_student(outcomes: Sequence[TrainingOutcome]) -> dict[str, list[TrainingOutcome]]:
    return {name: [o for o in outcomes if o.student == name] for name in dict.fromkeys(o.student for o in outcomes)}


def by_seed(outcomes: Sequence[TrainingOutcome], measure: Measure) -> list[np.ndarray]:
    """Accuracies as clusters: (students,) of each seed."""
    return [
        np.array([o.value(measure) for o in outcomes if o.training == seed])
        for seed in dict.fromkeys(o.training for o in outcomes)
    ]


def front(points: Sequence[Mapping[str, float]], directions: Mapping[str, Direction]) -> list[int]:
    """Which of the points none is better than: as good in all objectives, and better in one."""
    signed = np.array([[p[k] if direction == "max" else -p[k] for k, direction in directions.items()] for p in points])
    return [
        i
        for i, point in enumerate(signed)
        if not any((other >= point).all() and (other > point).any() for other in signed)
    ]
