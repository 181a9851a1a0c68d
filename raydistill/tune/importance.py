"""How much of the differences between trials each knob explains: Optuna's PED-ANOVA (arXiv 2304.10255)."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from raydistill.tune.findings import TrialRow
from raydistill.tune.objectives import Direction
from raydistill.tune.space import Knob, Space

LEAST = 4  # trials below which shares mean nothing


def importance(rows: Sequence[TrialRow], space: Space, objective: str, direction: Direction) -> dict[str, float]:
    """Shares of the knobs that all these trials have, the largest first; they add up to 1. Empty for too few trials.

    `direction`: which values of the objective are better.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    shared = [k for k in space.knobs if all(k.key in r.candidate.values for r in rows)]
    varied = [k for k in shared if len({str(r.candidate.values[k.key]) for r in rows}) > 1]
    if len(rows) < LEAST or not varied or len({r.values[objective] for r in rows}) == 1:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize" if direction == "max" else "minimize")
    distributions = {k.key: _distribution(k) for k in varied}
    for r in rows:
        params = {k.key: r.candidate.values[k.key] for k in varied}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=r.values[objective])
        )
    shares = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {key: round(float(share), 4) for key, share in sorted(shares.items(), key=lambda f: (-f[1], f[0]))}


def _distribution(knob: Knob) -> BaseDistribution:
    if knob.choices:
        return CategoricalDistribution(knob.choices)
    if knob.whole:
        return IntDistribution(int(knob.low), int(knob.high), log=knob.log)
    return FloatDistribution(knob.low, knob.high, log=knob.log)
