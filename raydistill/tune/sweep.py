"""The job of a sweep: Ray Tune suggests, the driver measures, the best few are measured again, and one is tested.

What is expensive lies in artifacts by fingerprint, and suggestions depend on seed and results alone: a sweep that was
killed and is run again makes the same suggestions and finds what was finished.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from raydistill.config import Config
from raydistill.distributed.failures import keep_traceback
from raydistill.errors import BadInput, RaydistillError, StageFailed
from raydistill.identity import canonical, fingerprint
from raydistill.pipeline import beforehand, job, trained, unread
from raydistill.pipeline import tracked as pipeline_tracked
from raydistill.pipeline.heard import heard
from raydistill.pipeline.preflight import absolute, prepare
from raydistill.pipeline.spreading import nodes_of
from raydistill.pipeline.steps import Steps
from raydistill.progress import Tried, say, tell
from raydistill.stages.renew import renew
from raydistill.state import title
from raydistill.store.claims import Claim
from raydistill.store.rundir import BEST, CONFIG, STUDY, STUDY_PAGE
from raydistill.tracking.destination import Destination
from raydistill.tune import objectives, page, result, seconds, tracked, verdict
from raydistill.tune import unread as read_knobs
from raydistill.tune.drawing import Candidate
from raydistill.tune.findings import Findings, TrialRow
from raydistill.tune.grids import best_and_worst, trial_pages
from raydistill.tune.live import LiveTable, after, shown, values_of
from raydistill.tune.plan import (
    SweepPlan,
    best_yaml,
    check_keys,
    check_seeds,
    check_students,
    check_teacher,
    leading,
    searching,
    testing,
)
from raydistill.tune.rungs import Halving, rungs
from raydistill.tune.space import space
from raydistill.tune.trials import Measurement, Trials
from raydistill.tune.verdict import AGAIN, SEARCH, TEST

if TYPE_CHECKING:
    from raydistill.planning.pace import Pace

FILES = (STUDY, BEST, STUDY_PAGE)
VERSION = 2  # of what a study holds
DEFAULT = "default"


class Sweep:
    """A sweep as it goes on. `checks` are made before anything is computed; by `pace` seconds are counted."""

    def __init__(
        self,
        plan: SweepPlan,
        checks: Sequence[Callable[[], None]] = (),
        tracker: tracked.TrackedSweep | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.config, self.space, self.tune, self.tracker = plan.config, plan.space, plan.config.tune, tracker
        directions, held_out = objectives.directions(plan.config), plan.held_out
        metrics = bool(set(directions) - set(objectives.PLAIN))
        self.search_steps = Steps(held_out, None, nodes_of(held_out), *checks)
        self.trials = Trials(searching(plan.config), self.search_steps, metrics, pace)
        self.tests = Trials(testing(plan.config), Steps(plan.tested, None, nodes_of(plan.tested), *checks))
        self.halving = Halving(plan.rungs) if plan.rungs else None
        self.study = Findings(directions, leading(held_out))
        self.total, self.every = plan.trials, plan.sets
        self.live = LiveTable(held_out.run.root, self.study, self.tune, self.total)
        self.sets = 0  # that are drawn, and trained on

    def run(self) -> Findings:
        """All of it. Raises StageFailed where no trial gave anything."""
        from raydistill.distributed import search as tuning

        t, root = self.tune, self.trials.steps.prepared.run.root
        self.search_steps.classes()  # what fails here is no fault of a trial
        self._count(0)
        if t.search == "grid":
            inner: Any = tuning.Listed(self.space.cells())
        else:
            directions = self.study.directions
            inner = tuning.optunas(t.search, self.space.suggest, directions, self.config.seed, t.samples)
        with tuning.searched(inner, t.together, self.total, self._round, self.config.ray, root / "checkpoints"):
            self._finals()
        self.live.keep_seconds(self.computed)
        return self.study

    @property
    def computed(self) -> bool:
        """Whether anything was done."""
        return self.search_steps.computed or self.tests.steps.computed

    def _round(self, proposals: Sequence[Any]) -> list[dict[str, Any]]:
        """Measures trials that were suggested together; the default with the first of them."""
        seeds = range(self.tune.seeds)
        named = [Candidate(f"trial {p.number}", p.values, p.number) for p in proposals]
        extra = [Candidate(DEFAULT)] if self.study.default is None else []
        self.live.show(len(named))
        measured = self.trials.measure([*extra, *named], seeds, self.halving)
        if extra:
            self.study.default = measured.pop(0)
            if self.study.default.failed:
                raise StageFailed(f"tune: the configuration as it is cannot be measured: {self.study.default.failed}")
        rows = [self._row(p.number, m) for p, m in zip(proposals, measured, strict=True)]
        self.study.rows += rows
        self._count(self.tune.seeds * (len(named) + len(extra)))
        self._tell(rows)
        return [dict(r.values) if not r.failed else {"failed": r.failed} for r in rows]

    def _count(self, sets: int) -> None:
        """So many sets more are known."""
        self.sets += sets
        tell(Tried(len(self.study.rows), self.total, self.sets, self.every))

    def _row(self, number: int, measured: Measurement) -> TrialRow:
        if measured.failed:
            return TrialRow(number, measured, failed=measured.failed)
        try:
            values = objectives.values(measured, list(self.study.directions), self.study.measure)
            return TrialRow(number, measured, values)
        except BadInput as e:
            return TrialRow(number, measured, failed=str(e))

    def _tell(self, rows: Sequence[TrialRow]) -> None:
        for r in rows:
            what = r.failed or ", ".join(f"{k} {v:.4g}" for k, v in r.values.items()) + after(r.measured)
            say("tune", f"trial {r.number}: {what} at {shown(r.candidate)}")
            if self.tracker is not None:
                self.tracker.trial(r)
        best, done = self.study.ranked(), len(self.study.rows)
        if best and self.tracker is not None:
            self.tracker.best(best[0], done)
        if done == self.total:
            self.live.show(0)

    def _finals(self) -> None:
        """The best few and the default by new seeds; the winner and the default on the test images by newer ones."""
        t, study = self.tune, self.study
        distinct = {canonical(dict(r.candidate.values)): r for r in reversed(study.ranked())}
        best = [r for r in study.ranked() if distinct[canonical(dict(r.candidate.values))] is r][: t.finalists]
        if not best:
            raise StageFailed(
                f"tune: none of {len(study.rows)} trials can be measured; the first: {study.rows[0].failed}"
            )
        best = self._in_full(best)
        default = Candidate(DEFAULT)
        say("tune", f"the best {len(best)} and the default again, by {t.final_seeds} seeds that no trial has seen")
        unseen = range(t.seeds, t.seeds + t.final_seeds)
        again, *study.again = self.trials.measure([default, *(r.candidate for r in best)], unseen)
        if again.failed or all(m.failed for m in study.again):
            raise StageFailed(f"tune: {again.failed or study.again[0].failed}")
        self._count((1 + len(best)) * t.final_seeds)
        self.live.keep_seconds()
        study.winner = self._winner(study.again)
        winner = study.again[study.winner]
        say("tune", f"{winner.candidate.name} and the default once on the test images")
        further = range(t.seeds + t.final_seeds, t.seeds + 2 * t.final_seeds)
        tested = self.tests.measure([winner.candidate, default], further)
        if lost := [m.failed for m in tested if m.failed]:
            raise StageFailed(f"tune: {lost[0]}")
        searched = next(r.measured for r in best if r.candidate == winner.candidate)
        assert study.default is not None
        pairs = {SEARCH: (searched, study.default), AGAIN: (winner, again), TEST: (tested[0], tested[1])}
        study.stands = {where: verdict.stand(where, *pair, study.measure) for where, pair in pairs.items()}

    def _in_full(self, best: Sequence[TrialRow]) -> list[TrialRow]:
        """The best few as they are when they are trained to the end, also those that were stopped."""
        short = [r.candidate for r in best if r.measured.stopped]
        whole = {m.candidate.name: m for m in self.trials.measure(short, range(self.tune.seeds))} if short else {}
        return [
            replace(r, measured=whole[r.candidate.name]) if r.candidate.name in whole else r
            for r in best
            if not (r.candidate.name in whole and whole[r.candidate.name].failed)
        ]

    def _winner(self, finalists: Sequence[Measurement]) -> int:
        """By the first objective."""
        first, direction = next(iter(self.study.directions.items()))
        sign = 1 if direction == "max" else -1
        values = [
            -math.inf if m.failed else sign * objectives.values(m, [first], self.study.measure)[first]
            for m in finalists
        ]
        return values.index(max(values))


def main(config: Config, command_keys: Sequence[str] = ()) -> str:
    """Entry of the command line: returns the run directory. Raises as `pipeline.job.carry` does."""
    plan, store = checked(absolute(tracked.located(trained.first(config))), command_keys)
    with plan.held_out.run.at_work(plan.config.yaml()) as claim:
        carry(plan, store, claim)
    return str(plan.held_out.run.root)


def checked(config: Config, command_keys: Sequence[str]) -> tuple[SweepPlan, Destination | None]:
    """All that is checked before a sweep writes anything. Raises BadInput."""
    plan = planned(config, command_keys)
    unread.check(plan.held_out, command_keys, [s for read in plan.space.reads.values() for s in read])
    beforehand.check(plan.held_out, "report")
    store = pipeline_tracked.check(plan.held_out)
    job.prove_nodes(plan.held_out, nodes_of(plan.held_out))
    return plan, store


def planned(config: Config, command_keys: Sequence[str] = ()) -> SweepPlan:
    """Raises BadInput for all that can be known before anything is computed."""
    check_keys(config, command_keys)
    check_seeds(config)
    where = space(config)
    objectives.directions(config)
    objectives.check_calls(config, where.reads)
    held_out, tested = prepare(searching(config)), prepare(testing(config))
    seconds.check(config, held_out.run.root)
    check_teacher(where, held_out)
    check_students(where, config)
    read_knobs.check(where, held_out)
    return SweepPlan(config, where, rungs(config, len(held_out.splits.train.classes), where), held_out, tested)


def carry(plan: SweepPlan, store: Destination | None, claim: Claim) -> None:
    """A sweep to its end, and what it leaves in its run directory. Raises StageFailed.

    A finished one is gone through again: what it stands on has its fingerprints, and these alone say that it is still
    the same images, weights and code.
    """
    root, config = plan.held_out.run.root, plan.config
    renew(root, CONFIG, config.yaml().encode(), aside="logs/config-{}.yaml")
    pace = seconds.pace(config, root)
    key = identity(config, pace)
    with tracked.following(plan, store, key) as tracker:
        try:
            with heard(root, title=f"{title(config)}, a sweep", price=config.tune.price_per_hour):
                sweep = Sweep(plan, [claim.check], tracker, pace)
                study = sweep.run()
                tree = result.tree(study, plan, sweep.live.money(), pace)
                pages, written = keep(study, tree, plan, key)
        except RaydistillError as e:
            keep_traceback(root)
            if isinstance(e, BadInput):  # known only now
                raise StageFailed(str(e)) from e
            raise
        if tracker is not None:
            tracker.end(tree, FILES, pages, sweep.computed)
    if not (sweep.computed or written):
        say("done", "nothing was left to do")
    conclude(tree)


def identity(config: Config, pace: Pace | None) -> str:
    """Of a sweep, wherever and with how much it is run: what it varies, how it searches, and by which rates."""
    wanted = [
        VERSION,
        pipeline_tracked.key(config),
        config.tune.model_dump(exclude={"rates", "price_per_hour", "budget"}),
    ]
    return fingerprint("tune", wanted if pace is None else [*wanted, pace.text()])


def keep(study: Findings, tree: dict[str, Any], plan: SweepPlan, made_from: str) -> tuple[list[str], bool]:
    """Writes what a sweep leaves, `tree` as its study. Returns the names of its trials' pages, and whether anything was
    another before."""
    root = plan.held_out.run.root
    pages = dict(trial_pages(study, tree, plan))
    files = {
        **pages,
        STUDY: canonical(tree),
        BEST: best_yaml(plan.config, values_of(study.again[study.winner])),
        STUDY_PAGE: page.render(tree, best_and_worst(study)),
    }
    written = [renew(root, name, text.encode(), made_from) for name, text in files.items()]
    return list(pages), any(written)


def conclude(tree: dict[str, Any]) -> None:
    """What a sweep found, in the last lines."""
    say("tune", tree["verdict"])
    for where in verdict.WHERE:
        say("tune", f"{tree['scores'][where]['on']}: {tree['scores'][where]['line']}")
