"""The job of a sweep: Ray Tune suggests, the driver measures, the best few are measured again, and one is tested.

What is expensive lies in artifacts by fingerprint, and suggestions depend on seed and results alone: a sweep that was
killed and is run again makes the same suggestions and finds what was finished.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from raydistill import strict_json
from raydistill.config import Config, TuneConfig, changed
from raydistill.config.text import write
from raydistill.distributed.failures import keep_traceback
from raydistill.errors import BadInput, RaydistillError, StageFailed
from raydistill.identity import canonical, fingerprint
from raydistill.pipeline import beforehand, job, unread
from raydistill.pipeline import tracked as pipeline_tracked
from raydistill.pipeline.preflight import absolute, prepare
from raydistill.pipeline.steps import Steps, nodes_of
from raydistill.progress import listening, say
from raydistill.report.data import Measure
from raydistill.results import costs, judgement
from raydistill.stages.renew import fresh, renew
from raydistill.state import Prepared
from raydistill.store.claims import Claim
from raydistill.store.rundir import CONFIG
from raydistill.tracking.destination import Destination
from raydistill.tune import objectives, page, result, tracked, verdict
from raydistill.tune.findings import Findings, TrialRow
from raydistill.tune.space import Space, space
from raydistill.tune.trials import Candidate, Measurement, Trials
from raydistill.tune.verdict import AGAIN, SEARCH, TEST

HELD_OUT = 0.3  # of the training images, where source.search_split says nothing
STUDY, BEST, PAGE = "study.json", "best.yaml", "study.html"
FILES = (STUDY, BEST, PAGE)
ALONE = {"evaluate.baselines": [], "evaluate.full": False, "seeds.generation": 1}
VERSION = 1  # of what a study holds
DEFAULT = "default"


class Sweep:
    """A sweep of a configuration whose images are prepared twice: `held_out` to search, `tested` to test."""

    def __init__(
        self,
        config: Config,
        where: Space,
        held_out: Prepared,
        tested: Prepared,
        claim: Claim | None = None,
        tracker: tracked.TrackedSweep | None = None,
    ) -> None:
        self.config, self.space, self.tune, self.tracker = config, where, config.tune, tracker
        checks = [claim.check] if claim else []
        directions = objectives.directions(config)
        metrics = bool(set(directions) - set(objectives.PLAIN))
        self.search_steps = Steps(held_out, None, nodes_of(held_out), *checks)
        self.trials = Trials(searching(config), self.search_steps, metrics)
        self.tests = Trials(testing(config), Steps(tested, None, nodes_of(tested), *checks))
        self.study = Findings(directions, leading(held_out))

    def run(self) -> Findings:
        """All of it. Raises StageFailed where no trial gave anything."""
        from raydistill.distributed import search as tuning

        t, root = self.tune, self.trials.steps.prepared.run.root
        self.search_steps.classes()  # what fails here is no fault of a trial
        total = self.space.size() if t.search == "grid" else t.samples
        if t.search == "grid":
            inner: Any = tuning.Listed(self.space.cells())
        else:
            directions = self.study.directions
            inner = tuning.optunas(t.search, self.space.suggest, directions, self.config.seed, t.samples)
        with tuning.searched(inner, t.together, total, self._round, self.config.ray, root / "checkpoints"):
            self._finals()
        return self.study

    def _round(self, proposals: Sequence[Any]) -> list[dict[str, Any]]:
        """Measures trials that were suggested together; the default with the first of them."""
        seeds = range(self.tune.seeds)
        named = [Candidate(f"trial {p.number}", p.values) for p in proposals]
        extra = [Candidate(DEFAULT)] if self.study.default is None else []
        measured = self.trials.measure([*extra, *named], seeds)
        if extra:
            self.study.default = measured.pop(0)
            if self.study.default.failed:
                raise StageFailed(f"tune: the configuration as it is cannot be measured: {self.study.default.failed}")
        rows = [self._row(p.number, m) for p, m in zip(proposals, measured, strict=True)]
        self.study.rows += rows
        self._tell(rows)
        return [dict(r.values) if not r.failed else {"failed": r.failed} for r in rows]

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
            what = r.failed or ", ".join(f"{k} {v:.4g}" for k, v in r.values.items())
            say("tune", f"trial {r.number}: {what} at {shown(r.candidate)}")
            if self.tracker is not None:
                self.tracker.trial(r)
        best, done = self.study.ranked(), len(self.study.rows)
        failed = sum(bool(r.failed) for r in self.study.rows)
        if best:
            say("tune", f"{done} trials done, {failed} failed; the best so far is {best[0].candidate.name}")
            if self.tracker is not None:
                self.tracker.best(best[0], done)

    def _finals(self) -> None:
        """The best few and the default by new seeds; the winner and the default on the test images by newer ones."""
        t, study = self.tune, self.study
        distinct = {canonical(dict(r.candidate.values)): r for r in reversed(study.ranked())}
        best = [r for r in study.ranked() if distinct[canonical(dict(r.candidate.values))] is r][: t.finalists]
        if not best:
            raise StageFailed(
                f"tune: none of {len(study.rows)} trials can be measured; the first: {study.rows[0].failed}"
            )
        default = Candidate(DEFAULT)
        say("tune", f"the best {len(best)} and the default again, by {t.final_seeds} seeds that no trial has seen")
        unseen = range(t.seeds, t.seeds + t.final_seeds)
        again, *study.again = self.trials.measure([default, *(r.candidate for r in best)], unseen)
        if again.failed or all(m.failed for m in study.again):
            raise StageFailed(f"tune: {again.failed or study.again[0].failed}")
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

    def _winner(self, finalists: Sequence[Measurement]) -> int:
        """By the first objective."""
        first, direction = next(iter(self.study.directions.items()))
        sign = 1 if direction == "max" else -1
        values = [
            -math.inf if m.failed else sign * objectives.values(m, [first], self.study.measure)[first]
            for m in finalists
        ]
        return values.index(max(values))


def searching(config: Config) -> Config:
    """Trials are scored on training images that were held out."""
    share = config.source.search_split or HELD_OUT
    return changed(config, {"source.search_split": share, **ALONE})


def testing(config: Config) -> Config:
    """The winner is tested as a plain run is."""
    return changed(config, {"source.search_split": 0.0, **ALONE})


def leading(p: Prepared) -> Measure:
    """What students are compared by: where classes are uneven, the mean over them."""
    return judgement.measures(p.splits.train.uneven or p.splits.test.uneven)[0]


def shown(candidate: Candidate) -> str:
    return ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in candidate.values.items())


def best_yaml(config: Config, winner: Candidate) -> str:
    """The winner's configuration as `distill --config` takes it."""
    tree = changed(config, {**winner.values, "tune": TuneConfig().model_dump()}).tree()
    for key in ("run_dir", "artifact_dir", "tracking", "tune"):
        tree.pop(key)
    return write(tree)


def main(config: Config, command_keys: Sequence[str] = ()) -> str:
    """Entry of the command line: returns the run directory. Raises as `pipeline.job.carry` does."""
    config = absolute(tracked.located(config))
    where = space(config)
    objectives.directions(config)
    held_out, tested = prepare(searching(config)), prepare(testing(config))
    unread.check(held_out, command_keys)
    beforehand.check(held_out, "report")
    store = pipeline_tracked.check(held_out)
    job.prove_nodes(held_out, nodes_of(held_out))
    with held_out.run.at_work(config.yaml()) as claim:
        carry(config, where, held_out, tested, store, claim)
    return str(held_out.run.root)


def carry(
    config: Config,
    where: Space,
    held_out: Prepared,
    tested: Prepared,
    store: Destination | None,
    claim: Claim,
) -> None:
    """A sweep to its end, and what it leaves in its run directory. Raises StageFailed."""
    root, plain = held_out.run.root, best_yaml(config, Candidate(DEFAULT))
    made_from = fingerprint("tune", [VERSION, plain, config.tune.model_dump()])
    renew(root, CONFIG, config.yaml().encode(), aside="logs/config-{}.yaml")
    if all(fresh(root, name, made_from) for name in FILES):
        say("done", "nothing was left to do")
    else:
        with tracked.following(held_out, store, made_from) as tracker:
            try:
                with listening(costs.listener(root)):
                    study = Sweep(config, where, held_out, tested, claim, tracker).run()
            except RaydistillError as e:
                keep_traceback(root)
                if isinstance(e, BadInput):  # known only now
                    raise StageFailed(str(e)) from e
                raise
            tree = result.tree(study, config, where)
            renew(root, STUDY, canonical(tree).encode(), made_from)
            renew(root, BEST, best_yaml(config, study.again[study.winner].candidate).encode(), made_from)
            renew(root, PAGE, page.render(tree).encode(), made_from)
            if tracker is not None:
                tracker.end(tree, FILES)
    tell(strict_json.mapping((root / STUDY).read()))


def tell(tree: dict[str, Any]) -> None:
    """What a sweep found, in the last lines."""
    say("tune", tree["verdict"])
    for where in verdict.WHERE:
        say("tune", f"{tree['scores'][where]['on']}: {tree['scores'][where]['line']}")
