"""Ray Tune as it searches: its searchers suggest, its trials wait for what the driver measures of them.

The work of a trial is not done where the trial runs: the driver does it for several trials together, so that they share
what can be shared. Suggestions come in rounds: those of a round are made before any of it is known, and what came of
them is told in their order. So they depend on seed and results alone, and a sweep that is run again makes the same.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
import ray
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydistill.config import RayConfig
from raydistill.distributed import ending
from raydistill.distributed.failures import last_line
from raydistill.distributed.fits import run
from raydistill.distributed.runtime import ensure_ray
from raydistill.distributed.trial import ResultDesk, trial
from raydistill.errors import StageFailed
from raydistill.store.location import Location

FAILED = "failed"  # in place of objectives: why there are none
SHARE = 0.0001  # of a CPU that a trial reserves, which only waits: the least that Ray counts
PROBE_S = 0.2
OPTUNA_SEEDS = 2**32  # that its samplers take
Kind = Literal["tpe", "random", "nsga2"]
Direction = Literal["max", "min"]
Values = dict[str, Any]


@dataclass(frozen=True)
class Proposal:
    """What a searcher suggests: values by dotted keys."""

    number: int
    trial_id: str
    values: Values


@dataclass
class _Round:
    proposals: list[Proposal] = field(default_factory=list)
    ended: set[str] = field(default_factory=set)  # trial ids


def optunas(
    kind: Kind, suggest: Callable[[Any], None], objectives: Mapping[str, Direction], seed: int, samples: int
) -> Searcher:
    """Optuna's searcher of a kind; `suggest` asks its trials for values. TPE draws a third of `samples` at random."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    start, seed = max(4, min(10, samples // 3)), seed % OPTUNA_SEEDS
    samplers: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, n_startup_trials=start),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, samples // 5)),
    }
    return OptunaSearch(
        space=suggest, metric=list(objectives), mode=list(objectives.values()), sampler=samplers[kind]()
    )


class Listed(Searcher):
    """Suggests these, one after the other."""

    def __init__(self, cells: Iterable[Values]) -> None:
        super().__init__()
        self.left = list(cells)[::-1]

    def suggest(self, trial_id: str) -> Values | str | None:
        return self.left.pop() if self.left else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass


class Rounds(Searcher):
    """Lets `inner` suggest `width` trials, and no other before all of them are known.

    What they came to is told as the driver measured it (`measured`): a trial whose node is lost while it waits has
    failed for Tune, and its result is there all the same.
    """

    def __init__(self, inner: Searcher, width: int, total: int) -> None:
        super().__init__()
        self.inner, self.width, self.total = inner, width, total
        self.suggested, self.ended = 0, False
        self.measured: dict[str, Mapping[str, Any]] = {}  # by trial id; filled by whoever measures, before a trial ends
        self.round = _Round()
        self.full: queue.SimpleQueue[list[Proposal]] = queue.SimpleQueue()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune keeps its tuner in a file; a sweep goes on by its own results

    def save(self, checkpoint_path: str) -> None:
        raise NotImplementedError  # as Tune wants it of a searcher without a state

    def suggest(self, trial_id: str) -> Values | str | None:
        self._tell()
        if self.ended or self.suggested == self.total:
            return Searcher.FINISHED
        if len(self.round.proposals) == self.width:
            return None  # until they are known
        values = self.inner.suggest(trial_id)
        if values == Searcher.FINISHED:
            self.ended = True
            if self.round.proposals:
                self.full.put(list(self.round.proposals))
            return Searcher.FINISHED
        assert isinstance(values, dict)
        self.round.proposals.append(Proposal(self.suggested, trial_id, values))
        self.suggested += 1
        if len(self.round.proposals) == self.width or self.suggested == self.total:
            self.full.put(list(self.round.proposals))
        return values

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        pass

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.round.ended.add(trial_id)
        self._tell()

    def _tell(self) -> None:
        """Tells `inner` of the round, once Tune is through with all of its trials and all are measured."""
        proposals = self.round.proposals
        if not proposals or (len(proposals) < min(self.width, self.total - proposals[0].number) and not self.ended):
            return
        if not all(p.trial_id in self.round.ended and p.trial_id in self.measured for p in proposals):
            return
        for p in proposals:
            result = self.measured[p.trial_id]
            lost = FAILED in result
            self.inner.on_trial_complete(p.trial_id, None if lost else dict(result), error=lost)
        self.round = _Round()


Measure = Callable[[Sequence[Proposal]], Sequence[Mapping[str, Any]]]


@contextmanager
def searched(
    inner: Searcher, width: int, total: int, measure: Measure, config: RayConfig, storage: Location
) -> Iterator[None]:
    """Runs `total` trials, `width` of them together. `measure` gives the objectives of each, or FAILED: why.

    What is done within overlaps with the end of Tune's trials. Raises what `measure` raises, and StageFailed when the
    cluster itself is gone; then Ray is ended, and the trials with it, which would wait for ever.
    """
    ensure_ray(config)
    # Only hard affinity: Ray places what reserves nothing on any node otherwise, and that may go.
    beside_driver = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    os.environ.update(RAY_AIR_NEW_OUTPUT="0", TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1", TUNE_WARN_THRESHOLD_S="3600")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    board = ResultDesk.options(max_concurrency=1000, scheduling_strategy=beside_driver).remote()  # type: ignore[attr-defined]
    rounds = Rounds(inner, width, total)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, board=board), {"cpu": SHARE}),
        tune_config=tune.TuneConfig(search_alg=rounds, num_samples=total, reuse_actors=True),
        run_config=tune.RunConfig(name="tune", storage_path=str(storage), verbose=0),
    )
    outcome: Future[Any] = Future()
    threading.Thread(target=run, args=(tuner, outcome), daemon=True, name="tune").start()
    try:
        left = total
        while left and (proposals := _next(rounds, outcome)) is not None:
            for p, result in zip(proposals, measure(proposals), strict=True):
                rounds.measured[p.trial_id] = dict(result)
                ray.get(board.put.remote(p.trial_id, dict(result)))
            left -= len(proposals)
        yield
        outcome.result()
    except ray.exceptions.RayError as e:
        ending.shutdown()
        raise StageFailed(
            f"tune: Ray failed: {last_line(e)}; run the same command again (finished trials are kept)"
        ) from e
    except BaseException:  # Ctrl-C too: Tune would go on, and its trials hold what they have for ever
        ending.shutdown()
        raise


def _next(rounds: Rounds, outcome: Future[Any]) -> list[Proposal] | None:
    """The next round; None when Tune has ended."""
    while True:
        try:
            return rounds.full.get(timeout=PROBE_S)
        except queue.Empty:
            if outcome.done():
                return None
