"""study.json: what a sweep found, as data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from raydistill.config import Config
from raydistill.report.data import Measure
from raydistill.tune import objectives, verdict
from raydistill.tune.findings import Findings, TrialRow
from raydistill.tune.space import Space
from raydistill.tune.trials import Measurement


def tree(study: Findings, config: Config, space: Space) -> dict[str, Any]:
    """Accuracies are fractions; `low` and `high` are 95 % intervals over seeds. Trials stand in their order."""
    winner = study.again[study.winner]
    assert study.default is not None
    whole = [r for r in study.rows if not r.failed]
    front = objectives.front([r.values for r in whole], study.directions)
    return {
        "verdict": verdict.first_line(study.stands, winner.candidate.name),
        "winner": {"trial": winner.candidate.name, "values": dict(winner.candidate.values)},
        "scores": {where: stand.tree() for where, stand in study.stands.items()},
        "luck": verdict.luck(study.stands),
        "front": [whole[i].number for i in front],
        "objectives": study.directions,
        "measure": study.measure,
        "space": [str(k) for k in space.knobs],
        "knobs": [k.key for k in space.knobs],
        "search": config.tune.search,
        "seeds": config.tune.seeds,
        "final_seeds": config.tune.final_seeds,
        "default": measured(study.default, study.measure),
        "trials": [trial(r, study.measure) for r in study.rows],
        "again": [measured(m, study.measure) for m in study.again],
    }


def trial(row: TrialRow, measure: Measure) -> dict[str, Any]:
    return {"trial": row.number, "objectives": row.values} | measured(row.measured, measure) | {"failed": row.failed}


def measured(m: Measurement, measure: Measure) -> dict[str, Any]:
    """A candidate: its values, its score with every training that it is of, or why there is none."""
    about: dict[str, Any] = {"name": m.candidate.name, "values": dict(m.candidate.values), "failed": m.failed}
    if m.failed:
        return about
    rows = [{"student": o.student, "seed": o.training, "accuracy": round(o.value(measure), 6)} for o in m.outcomes]
    return about | {"score": asdict(verdict.score(m, measure)), "network_calls": m.calls, "trainings": rows}
