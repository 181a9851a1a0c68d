"""--dry-run of a sweep: everything that is checked before one, and then what it would search. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raydistill import strict_json
from raydistill.config import Config
from raydistill.evaluation.recipe import students_of
from raydistill.pipeline import trained
from raydistill.pipeline.preflight import absolute
from raydistill.report.text import aligned, plural
from raydistill.store.rundir import CONFIG, TRIALS
from raydistill.tune import objectives, tracked
from raydistill.tune.plan import SweepPlan
from raydistill.tune.sweep import checked


def main(config: Config, command_keys: Sequence[str] = ()) -> str:
    """What the sweep would do as text. Raises BadInput as the sweep would."""
    config = absolute(tracked.located(config))
    if left := trained.unfinished(config):
        return trained.in_words(config, left, "sweep")
    plan = checked(trained.first(config), command_keys)[0]
    return aligned(f"{plan.held_out.run.root}: would be searched; nothing is written", list(described(plan)))


def described(plan: SweepPlan) -> Iterator[tuple[str, str]]:
    """Name and text of each line."""
    t, config = plan.config.tune, plan.held_out.config
    done = done_before(plan)
    before = f", {done} done before" if done else ""
    yield "trials", f"{plural(plan.trials, 'trial')} by {t.search}, {min(t.together, plan.trials)} together{before}"
    for knob in plan.space.knobs:
        yield "", str(knob)
    wanted = ", ".join(f"{name} ({direction})" for name, direction in objectives.directions(plan.config).items())
    held, learned = len(plan.held_out.splits.test.ids), len(plan.held_out.splits.train.ids)
    yield "each by", f"{plural(t.seeds, 'seed')}, scored on {held} of the {held + learned} training images: {wanted}"
    if plan.rungs is not None:
        yield "asha", f"trials that are behind stop after {', '.join(map(str, plan.rungs.tests))} of the tests"
    yield "again", f"the best {plan.finalists} and the default by {t.final_seeds} seeds that no trial has seen"
    tested = len(plan.tested.splits.test.ids)
    yield "test", f"the winner and the default by {t.final_seeds} more, on {plural(tested, 'test image')}"
    images = len(plan.held_out.splits.train.classes) * config.ipc
    fits = len(list(students_of(config.evaluate)))
    of_one = f"{plural(images, 'image')} and {plural(fits, 'training')} each, where ipc is no knob"
    yield "in all", f"{plural(plan.sets, 'set')}, {of_one}; what is equal is made once"


def done_before(plan: SweepPlan) -> int:
    """Trials that the same sweep has finished before."""
    root = plan.held_out.run.root
    try:
        if (root / CONFIG).read() != plan.config.yaml().encode():
            return 0
        trials = strict_json.mapping((root / TRIALS).read()).get("trials")
    except (OSError, ValueError):
        return 0
    return len(trials) if isinstance(trials, list) else 0
