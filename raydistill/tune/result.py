"""study.json: what a sweep found, as data."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from raydistill.report.scores import Measure
from raydistill.tune import objectives, verdict
from raydistill.tune.findings import Findings, TrialRow
from raydistill.tune.importance import importance
from raydistill.tune.live import values_of
from raydistill.tune.plan import SweepPlan
from raydistill.tune.rungs import Rungs
from raydistill.tune.trials import Measurement

if TYPE_CHECKING:
    from raydistill.planning.pace import Pace


def tree(
    study: Findings, plan: SweepPlan, money: dict[str, float] | None = None, pace: Pace | None = None
) -> dict[str, Any]:
    """Accuracies are fractions; `low` and `high` are 95 % intervals over seeds. Trials stand in their order. `rates`
    are there if seconds are counted by them, with how they are known in lines."""
    winner, config = study.again[study.winner], plan.config
    assert study.default is not None
    whole = [r for r in study.rows if not r.failed and not r.measured.stopped]
    front = objectives.front([r.values for r in whole], study.directions) if whole else []
    return {
        "verdict": verdict.first_line(study.stands, winner.candidate.name),
        "winner": {"trial": winner.candidate.name, "values": values_of(winner)},
        "scores": {where: stand.tree() for where, stand in study.stands.items()},
        "luck": verdict.luck(study.stands),
        "front": [whole[i].number for i in front],
        "objectives": study.directions,
        "measure": study.measure,
        "space": [str(k) for k in plan.space.knobs],
        "knobs": [k.key for k in plan.space.knobs],
        "importance": importance(whole, plan.space, *next(iter(study.directions.items()))),
        "search": config.tune.search,
        "seeds": config.tune.seeds,
        "final_seeds": config.tune.final_seeds,
        "asha": asha(study, plan.rungs),
        "money": money,
        "default": measured(study.default, study.measure),
        "trials": [trial(r, study.measure) for r in study.rows],
        "again": [measured(m, study.measure) for m in study.again],
    } | ({} if pace is None else {"rates": {**pace.tree(), "lines": pace.lines()}})


def asha(study: Findings, rungs: Rungs | None) -> dict[str, Any] | None:
    """What stopping has saved: image visits of the trials' trainings, and what they are when none is stopped."""
    if rungs is None:
        return None
    trials = [r.measured for r in study.rows if not r.failed]
    return asdict(rungs) | {
        "stopped": sum(bool(m.stopped) for m in trials),
        "visits": sum(m.visits for m in trials),
        "in_full": sum(m.in_full for m in trials),
    }


def trial(row: TrialRow, measure: Measure) -> dict[str, Any]:
    about = {"trial": row.number, "objectives": row.values} | measured(row.measured, measure) | {"failed": row.failed}
    if not row.measured.failed:
        about |= {"stopped": row.measured.stopped, "visits": row.measured.visits}
    return about


def measured(m: Measurement, measure: Measure) -> dict[str, Any]:
    """A candidate: its values, its score with every training that it is of, or why there is none."""
    about: dict[str, Any] = {"name": m.candidate.name, "values": values_of(m), "failed": m.failed}
    if m.seconds:
        about["seconds"] = m.seconds
    if m.batch:
        about["halved"] = m.batch
    if m.failed:
        return about
    rows = [{"student": o.student, "seed": o.training, "accuracy": round(o.value(measure), 6)} for o in m.outcomes]
    return about | {"score": asdict(verdict.score(m, measure)), "network_calls": m.calls, "trainings": rows}
