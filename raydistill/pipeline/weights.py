"""A training of weights as people meet it: what it would do, and news, costs, a log and metrics, as a run has them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from raydistill.config import Config
from raydistill.distributed.pretrain import job, tracked
from raydistill.models.checkpoint import WORK
from raydistill.pipeline.heard import heard
from raydistill.pretraining import estimate, size
from raydistill.pretraining.leftovers import forget_news
from raydistill.pretraining.plan import Plan, make_plan
from raydistill.progress import clock
from raydistill.report.text import aligned, plural
from raydistill.store.location import Location

NAMES = {"vae": "VAE", "generator": "generator"}


def pretrain(config: Config) -> str:
    """Trains what `config.pretrain` asks for and returns its directory. Raises as `distributed.pretrain.job` does.

    What is told of it lies beside its checkpoints, and goes with them when it is finished.
    """
    p = config.pretrain
    if p.out is None or "://" in p.out:
        return job.pretrain(config)  # which refuses it
    work = Location.of(os.path.abspath(os.path.expanduser(p.out))) / WORK
    with heard(work, title=f"training of a {NAMES[p.target]}"):
        out = job.pretrain(config)
    forget_news(Path(out))  # what was told last
    return out


def dry(config: Config) -> str:
    """What the training would do as text, after all its checks; it writes nothing. Raises BadInput as it does."""
    plan = make_plan(config)
    if plan.finished():
        return f"{plan.out}: is trained; nothing would be done"
    tracked.check(plan)
    job.check(plan)
    return aligned(f"{plan.out}: would be trained; nothing is written", list(described(plan)))


def described(plan: Plan) -> Iterator[tuple[str, str]]:
    """Name and text of each line. Some steps are timed for the last."""
    p, of, origin = plan.config.pretrain, size.of(plan), plan.origin
    kind = [NAMES[plan.target], *([] if origin is None else [origin.objective])]
    if origin is not None and origin.spec is not None:
        kind.append(f"from {origin.spec.path.name}")
    yield "network", f"{', '.join(kind)}: {of.trained / 1e6:,.3g} million weights to train"
    held = f"; validated on {len(plan.held)} every {plan.validate_every} steps" if plan.vae is not None else ""
    yield "images", f"{len(plan.listing)} in {plural(len(plan.listing.classes), 'class', 'classes')}{held}"
    yield "steps", f"{p.steps:,} of {p.batch} images by {plural(p.workers, 'worker')}, kept every {p.checkpoint_every}"
    if (plan.out / WORK / plan.fingerprint).is_dir():
        yield "before", "an earlier one has kept a state, and it goes on from there"
    shape = plan.latent_shape if plan.vae is not None else ()
    seconds = estimate.seconds(plan.config, len(plan.listing.classes), origin, shape)
    beside = ", and encoding before it" if plan.vae is not None else ""
    yield "time", f"about {clock(seconds)} for its steps by one worker on this machine{beside}"
