"""The section of a sweep: where it looks, how, how often, and by what it judges."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from raydistill.config.base import Section


class TuneConfig(Section):
    """Used by tune alone."""

    space: Annotated[
        dict[str, Any],
        Field(
            description=(
                "knobs by their keys: uniform(a,b), loguniform(a,b) or a list of values; {} = what the method declares"
            )
        ),
    ] = {}
    search: Annotated[
        Literal["tpe", "random", "grid", "nsga2"],
        Field(description="what suggests trials: Optuna's TPE, uniformly, every cell of lists, or NSGA-II"),
    ] = "tpe"
    samples: Annotated[int, Field(ge=1, le=100_000, description="trials; of a grid, the most it may have")] = 12
    seeds: Annotated[
        int, Field(ge=1, le=100, description="seeds a trial, the same for all: each draws a set and trains on it")
    ] = 2
    objectives: Annotated[
        list[str],
        Field(
            min_length=1,
            max_length=4,
            description=(
                "what is sought: accuracy, worst_student, network_calls, accuracy_per_call, seconds or "
                "accuracy_per_second (planned, to draw an image), or VALUE/SPACE of metrics.names; several make a "
                "Pareto front, the first chooses its winner"
            ),
        ),
    ] = ["accuracy"]
    rates: Annotated[
        str | None,
        Field(
            description=(
                "of seconds: FILE of `plan --write-rates` or, of a GPU, benchmarks/gpu.py; null = cores are measured "
                "once as the sweep begins, GPUs by their peak"
            )
        ),
    ] = None
    scheduler: Annotated[
        Literal["none", "asha"],
        Field(description="asha: trials that are behind at a rung are trained no further; the best few are, in full"),
    ] = "none"
    rungs: Annotated[int, Field(ge=1, le=10, description="of asha: how often it looks at a training on its way")] = 1
    reduction: Annotated[
        int, Field(ge=2, le=16, description="of asha: one in so many goes on, for so many times as long")
    ] = 2
    together: Annotated[
        int,
        Field(ge=1, le=256, description="trials suggested before any of them is known; their students share a fit"),
    ] = 4
    finalists: Annotated[
        int, Field(ge=1, le=100, description="best trials that are measured again with seeds no trial has seen")
    ] = 3
    final_seeds: Annotated[
        int, Field(ge=2, le=100, description="those seeds; and as many others again on the test images")
    ] = 5
    price_per_hour: Annotated[
        float | None, Field(gt=0, le=1e6, description="what an hour of all machines costs; null = say nothing of money")
    ] = None
    budget: Annotated[
        float | None,
        Field(gt=0, le=1e9, description="what may be spent; what is left is shown, nothing is stopped"),
    ] = None
