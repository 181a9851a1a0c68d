"""Computes cells: samples what they ask for, and trains on the sets of all that differ in their rows alone in one fit.

Finished cells are left alone. Of an interrupted fit the finished trainings are found again by their fingerprints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from raydistill.config import Config, load
from raydistill.distributed.failures import keep_traceback
from raydistill.errors import RaydistillError, StageFailed
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.pipeline.steps import Steps
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.evaluation.trainings import redundancy_parts
from raydistill.state import Prepared, Results
from raydistill.store.location import Location
from raydistill.tune.cells import DIVERGED, WHOLE, Cell, write
from raydistill.tune.kept import numbers


@dataclass(frozen=True)
class Sampled:
    """A cell that has its set, and what its run made on the way to it."""

    cell: Cell
    done: Results
    ref: SetRef

    @property
    def refs(self) -> list[SetRef]:
        """The set, and its parts where redundancy is asked for."""
        config = self.done.prepared.config
        return [self.ref, *(redundancy_parts(config, [self.ref]) if config.evaluate.redundancy_parts else [])]

    @property
    def training_seeds(self) -> range:
        """Those that belong to its generation seed, the same for all sets of that seed."""
        trainings = self.done.prepared.config.evaluate.seeds
        return range(self.cell.seed * trainings, (self.cell.seed + 1) * trainings)


@dataclass(frozen=True)
class Study:
    """Cells of one configuration, a preset or a YAML file, each in a run directory of its own under `work`.

    They share stage outputs in `artifacts`, so that what their rows do not change is computed once. `overrides` are of
    all cells; source.search_split among them scores on training images held out, and not on the test images.
    """

    config: str
    work: Path
    artifacts: Path
    out: Path  # where cells are kept
    overrides: tuple[str, ...] = ()
    training_seeds: int = 1

    def configured(self, cell: Cell, run_dir: Path | None = None, artifacts: Path | None = None) -> Config:
        """A row wins over what all cells have. Raises BadInput."""
        return load(
            self.config,
            [
                f"evaluate.seeds={self.training_seeds}",
                *self.overrides,
                *cell.row.overrides,
                *([f"evaluate.protocol.name={cell.protocol}"] if cell.protocol else []),
                f"ipc={cell.ipc}",
                f"seed={cell.seed}",
                "evaluate.baselines=[]",
                "evaluate.full=false",
                f"artifact_dir={artifacts or self.artifacts}",
                f"run_dir={run_dir or self.work / cell.path(self.out).stem}",
            ],
        )

    def compute(
        self, cells: Iterable[Cell], more: Callable[[Results], dict[str, Any]] = lambda done: {}
    ) -> Iterator[tuple[Cell, dict[str, Any]]]:
        """Brings the cells to disk and gives each that was not there with what it keeps; `more` adds numbers of a run.

        In their order, but that all of a fit come together. Raises what the pipeline raises, whose whole story is then
        in logs/error.txt of `work`; the rest is for next time.
        """
        try:
            yield from self._compute(cells, more)
        except RaydistillError:
            keep_traceback(Location(str(self.work)))
            raise

    def _compute(
        self, cells: Iterable[Cell], more: Callable[[Results], dict[str, Any]]
    ) -> Iterator[tuple[Cell, dict[str, Any]]]:
        for _, group in groupby(cells, lambda c: (c.ipc, c.protocol, c.seed)):
            left = [c for c in group if not c.path(self.out).exists()]
            ready = [(c, prepare(self.configured(c))) for c in left]
            fits: dict[str, list[Sampled]] = {}
            for cell, p in ready:
                try:
                    sampled = sample(cell, p)
                except StageFailed as e:
                    if "non-finite" not in str(e):
                        raise
                    yield cell, self.keep(cell, {DIVERGED: str(e)})
                else:
                    fits.setdefault(fit_of(p.config), []).append(sampled)
            for fit in fits.values():
                for cell, done in together(fit):
                    yield cell, self.keep(cell, numbers(done) | more(done))

    def keep(self, cell: Cell, results: dict[str, Any]) -> dict[str, Any]:
        write(cell.path(self.out), kept := cell.about() | results)
        return kept


def sample(cell: Cell, p: Prepared) -> Sampled:
    """A cell with the set that it trains on. Raises StageFailed."""
    if cell.row.name in WHOLE:
        job.start_run(p)
        return Sampled(cell, Results(p), SetRef.full(p.splits.train, p.config.evaluate.full_epochs))
    done = job.run(p, "sample")
    return Sampled(cell, done, SetRef.of(p.config.method, done.syntheses[p.config.method]))


def fit_of(config: Config) -> str:
    """What a fit has one of: where these differ (another number of training seeds, say) trainings need another fit."""
    return config.model_dump_json(include={"ipc", "source", "evaluate", "teacher", "label"})


def together(fit: Sequence[Sampled]) -> Iterator[tuple[Cell, Results]]:
    """Trains on all sets, and on their parts where redundancy is asked for, in one fit; sets that rows have made alike
    are trained on once."""
    steps = Steps(fit[0].done.prepared)
    of_cells = [[(ref, seed) for ref in s.refs for seed in s.training_seeds] for s in fit]
    trained = iter(steps.paired([pair for pairs in of_cells for pair in pairs]))
    for s, pairs in zip(fit, of_cells, strict=True):
        every = [t for _ in pairs for t in next(trained)]
        s.done.trainings = [t for t in every if t.set.redundancy_part is None]
        s.done.on_parts = [t for t in every if t.set.redundancy_part is not None]
        job.judge(steps.beside(s.done.prepared), s.done)
        yield s.cell, s.done
