"""The main job: a run from its configuration to its end, its stages in their order (steps.py)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from raydistill import strict_json
from raydistill.config import Config
from raydistill.distributed.failures import keep_traceback
from raydistill.distributed.nodes import Nodes, joins
from raydistill.errors import BadInput, CorruptArtifact, RaydistillError, StageFailed
from raydistill.identity import canonical
from raydistill.methods.resolve import Variant
from raydistill.outlook import Expected
from raydistill.pipeline import curriculum, features, product, tracked
from raydistill.pipeline.heard import heard
from raydistill.pipeline.preflight import prepare
from raydistill.pipeline.spreading import nodes_of
from raydistill.pipeline.steps import Steps
from raydistill.progress import say
from raydistill.report.scores import TO_THE_END
from raydistill.results import costs
from raydistill.sources.base import Listing
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.latents import encode
from raydistill.stages.renew import renew
from raydistill.stages.runner import Execute
from raydistill.state import Prepared, Results, title
from raydistill.store import seals
from raydistill.store.claims import Claim
from raydistill.store.rundir import CONFIG, PARTS
from raydistill.tracking import destination as destinations

Until = Literal["encode", "cluster", "plan", "sample", "evaluate", "report"]
Foresee = Callable[[Prepared, Until], Sequence[Expected]]
JUDGED = ("evaluate", "report")


def run(
    prepared: Prepared,
    until: Until = "report",
    execute: Execute | None = None,
    nodes: Nodes | None = None,
    claim: Claim | None = None,
    foresee: Foresee | None = None,
) -> Results:
    """Carries a run to `until`; `foresee` counts what it has to do, to say how much of it is done."""
    steps = Steps(prepared, execute, nodes, *([claim.check] if claim else []))
    steps.computed = start_run(prepared)
    expect = partial(foresee, prepared, until) if foresee else tuple
    with heard(prepared.run.root, expect, title(prepared.config)):
        done = make(steps, until)
        if until not in ("encode", "cluster", "plan"):
            finish(steps, done, until)
    keep_parts(steps, done)
    done.computed |= steps.computed
    return done


def keep_parts(steps: Steps, done: Results) -> None:
    """Keeps in the run directory which artifacts it stands on, so that one that is gone is missed (verify).

    A run that ends earlier than the one before stands on less, and takes nothing away.
    """
    root, parts = steps.prepared.run.root, steps.stands_on([*done.trainings, *done.on_parts])
    with contextlib.suppress(CorruptArtifact, ValueError):  # it is written now
        known = strict_json.strings(seals.read(root, PARTS, ""))
        parts = known if set(known) >= set(parts) else parts
    listed = canonical(parts)
    copy = listed if len(listed) < seals.MAX_COPY else ""
    done.computed |= renew(root, PARTS, listed.encode(), copy=copy)


def make(steps: Steps, until: Until) -> Results:
    """The stages up to the syntheses, in order."""
    p, done = steps.prepared, Results(steps.prepared)
    done.latents = steps.latents()
    if until == "encode":
        return done
    done.classes = steps.classes()
    for variant in p.variants:
        for v in variant.makers():
            if until == "cluster" or v.method.uses_prototypes:
                sealed = steps.prototypes(v)
                if variant.growth is None:  # those of increments are of other numbers of images
                    done.prototypes[v.config.cluster.algorithm or "kmeans"] = sealed
    if until == "cluster":
        return done
    if features.wanted(p, until in JUDGED):
        done.features = steps.features()
    if p.judged is not None and until != "plan":
        done.syntheses[p.judged.name] = steps.imported()
    for v in generated(p):
        name = v.config.method
        if v.growth is not None:
            done.plans[name] = steps.plan(v.growth.first)
            if until != "plan":
                done.syntheses[name], done.students[name] = curriculum.grow(steps, v)
            continue
        done.plans[name] = steps.plan(v)
        if until != "plan":
            done.syntheses[name] = steps.weighed(v)
    for draw in range(1, p.config.seeds.generation if until in JUDGED else 1):
        again = (redrawn(v, draw) for v in generated(p))
        done.further[draw] = {
            v.config.method: steps.weighed(v) if v.growth is None else curriculum.grow(steps, v)[0] for v in again
        }
    return done


def generated(p: Prepared) -> Sequence[Variant]:
    """The variants whose sets this run makes: all, unless a folder is judged beside them."""
    return p.variants if p.judged is None else p.variants[1:]


def redrawn(v: Variant, draw: int) -> Variant:
    """The variant with the generation seed that is `draw` after its own."""

    def later(variant: Variant) -> Variant:
        config = variant.config
        return replace(variant, config=config.model_copy(update={"seed": config.seed + draw}))

    growth = v.growth and replace(v.growth, first=later(v.growth.first), next=later(v.growth.next))
    return replace(later(v), growth=growth)


def finish(steps: Steps, done: Results, until: Until) -> None:
    """What becomes of the syntheses: their check, the product, the trainings, the report."""
    p = done.prepared
    checked = {v.config.method for v in p.variants if v.method.generates} | ({p.judged.name} if p.judged else set())
    done.checks = steps.checks({name: s for name, s in done.syntheses.items() if name in checked})
    if p.judged is None:  # the product is what this run made
        steps.still_ours()
        done.computed |= product.assemble(p, p.variants[0], done.syntheses[p.config.method])
    if until == "sample":
        return
    judge(steps, done)
    every = steps.trainings(sets(done))
    done.trainings = [t for t in every if t.set.redundancy_part is None]
    done.on_parts = [t for t in every if t.set.redundancy_part is not None]
    if until == "report":
        from raydistill.results import reporting

        steps.still_ours()
        reporting.write(done)


def judge(steps: Steps, done: Results) -> None:
    """The metrics of every set but the whole split, by which they are measured, and the soft labels of all."""
    for ref in sets(done) if done.prepared.config.metrics.names else ():
        if ref.distilled is not None and not ref.draw:
            done.measured[ref.name] = steps.measured(ref)
    done.teaching = steps.teaching(sets(done))


def sets(done: Results) -> list[SetRef]:
    """The training sets that are compared: the run's own, its baselines, those of further generation seeds, and the
    whole split if asked for."""
    p, train = done.prepared, done.prepared.splits.train
    judged = p.judged.name if p.judged else None
    refs = [SetRef.of(name, distilled) for name, distilled in done.syntheses.items() if name != judged]
    if p.judged is not None and judged in done.syntheses:
        refs.insert(0, SetRef.of(judged, done.syntheses[judged], None, p.judged.levels))
    refs += [
        SetRef.of(name, distilled, draw)
        for draw, syntheses in done.further.items()
        for name, distilled in syntheses.items()
    ]
    return [*refs, *whole(p.config, train)]


def whole(config: Config, train: Listing) -> list[SetRef]:
    """The whole split as it bounds what a set can teach, if asked for: in as many visits as the sets, for
    `evaluate.full_epochs` as well, and of uneven classes in balanced batches, as long as that."""
    e = config.evaluate
    if not e.full:
        return []
    bounds = [SetRef.full(train)]
    if e.full_epochs is not None:
        bounds.append(replace(SetRef.full(train, e.full_epochs), name=TO_THE_END))
    return [*bounds, *([SetRef.full(train, e.full_epochs, balanced=True)] if train.uneven else [])]


def prove_nodes(p: Prepared, nodes: Nodes) -> None:
    """Asks the nodes of a cluster that is joined before a new run writes anything. Raises BadInput.

    A run that has its latents is asked by the stages, as nodes are that join later (`Nodes.watch`).
    """
    if joins(p.config.ray) and encode.stage(p.config, p.run, p.splits.train, p.vae).artifact.manifest() is None:
        from raydistill.distributed.runtime import ensure_ray

        ensure_ray(p.config.ray)
        nodes.prove()


def start_run(p: Prepared) -> bool:
    """Claims the run directory and keeps the configuration in it; an earlier, different one goes to the logs.

    True if something that a run keeps there had to be mended.
    """
    p.run.claim()
    sealed = seals.find(p.run.root, CONFIG) is not None
    spoiled = sealed and seals.state(p.run.root, CONFIG) is not seals.State.WHOLE
    text = p.config.yaml()
    copy = text if len(text) < seals.MAX_COPY else ""  # verify writes it again from its seal
    renew(p.run.root, CONFIG, text.encode(), aside="logs/config-{}.yaml", copy=copy)
    return costs.settle(p.run.root) or spoiled


def checked(
    config: Config, until: Until, command_keys: Sequence[str]
) -> tuple[Prepared, destinations.Destination | None, Nodes]:
    """All that is checked before a run writes anything. Raises BadInput."""
    from raydistill.pipeline import beforehand, unread

    prepared = prepare(config, evaluate=until in ("evaluate", "report"), generate=until not in ("encode", "cluster"))
    unread.check(prepared, command_keys)
    beforehand.check(prepared, until)
    destination = tracked.check(prepared)
    nodes = nodes_of(prepared)
    prove_nodes(prepared, nodes)
    return prepared, destination, nodes


def carry(
    config: Config, until: Until = "report", command_keys: Sequence[str] = (), foresee: Foresee | None = None
) -> Results:
    """Checks everything and carries a run to `until`; `command_keys` are those of a command line.

    Raises BadInput for what can be known beforehand, with nothing written, and StageFailed for all that comes later.
    """
    from raydistill.pipeline import trained

    prepared, destination, nodes = checked(trained.first(config, until), until, command_keys)
    with prepared.run.at_work(prepared.config.yaml()) as claim, tracked.run(prepared, destination) as tracker:
        try:
            done = run(prepared, until, nodes=nodes, claim=claim, foresee=foresee)
            if tracker is not None:
                tracked.results(tracker, done, until == "report")
        except RaydistillError as e:
            keep_traceback(prepared.run.root)
            if isinstance(e, BadInput):  # found only now (weights that do not load, a cluster without GPUs)
                raise StageFailed(str(e)) from e
            raise
    if not done.computed:
        say("done", "nothing was left to do")
    return done


def main(
    config: Config, until: Until = "report", command_keys: Sequence[str] = (), foresee: Foresee | None = None
) -> str:
    """Entry of the command line: returns the run directory."""
    return str(carry(config, until, command_keys, foresee).prepared.run.root)
