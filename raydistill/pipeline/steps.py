"""The main job: the stages in order, for the run's method and its baselines, from images to the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from raydistill.config import Config
from raydistill.distributed import node_log, students
from raydistill.distributed.failures import keep_traceback
from raydistill.distributed.nodes import Nodes, joins
from raydistill.distributed.visibility import needs
from raydistill.errors import BadInput, RaydistillError, StageFailed
from raydistill.methods.resolve import Variant
from raydistill.models.checkpoint import licence
from raydistill.pipeline import features, teaching
from raydistill.pipeline.preflight import prepare
from raydistill.progress import listening, say
from raydistill.report.card import card
from raydistill.report.data import FULL
from raydistill.results import costs
from raydistill.stages import runner
from raydistill.stages.evaluation import measure
from raydistill.stages.evaluation.image_sets import SetRef
from raydistill.stages.latents import embed, encode, group
from raydistill.stages.prototypes import cluster
from raydistill.stages.renew import renew
from raydistill.stages.runner import Execute, Stage
from raydistill.stages.syntheses import check, ingest, plan, product, sample
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.state import Prepared, Results, images_per_class, source_name
from raydistill.store import seals
from raydistill.store.artifact import Record
from raydistill.store.claims import Claim
from raydistill.store.rundir import CONFIG
from raydistill.store.sealed import Sealed

Until = Literal["encode", "cluster", "plan", "sample", "evaluate", "report"]


class RunStage(Protocol):
    """Carries a stage, by the name it is shown under, to its end."""

    def __call__(self, stage: Stage, name: str | None = None, /) -> Sealed: ...


def run(
    prepared: Prepared,
    until: Until = "report",
    execute: Execute | None = None,
    nodes: Nodes | None = None,
    claim: Claim | None = None,
) -> Results:
    """Carries a run to `until`. Finished work is found and skipped; Ray starts with the first stage that has work."""
    p, done = prepared, Results(prepared)
    if claim is not None:
        done.still_ours = claim.check
    nodes = nodes or nodes_of(p)
    execute = execute or on_ray(p, nodes)
    done.computed = start_run(p)

    def run_stage(stage: Stage, name: str | None = None) -> Sealed:
        done.still_ours()
        outcome = runner.run(stage, execute, name or "")
        done.computed |= not outcome.reused
        return outcome.sealed

    with listening(costs.listener(p.run.root)):
        make(done, until, run_stage)
        if until not in ("encode", "cluster", "plan"):
            finish(done, until, run_stage, nodes)
    return done


def make(done: Results, until: Until, run_stage: RunStage) -> Results:
    """The stages up to the syntheses, in order."""
    p, train = done.prepared, done.prepared.splits.train
    done.latents = run_stage(encode.stage(p.config, p.run, train, p.vae))
    if until == "encode":
        return done
    done.classes = run_stage(group.stage(p.config, p.run, done.latents, train.classes))
    for v in p.variants:
        algorithm = v.config.cluster.algorithm or "kmeans"
        if algorithm not in done.prototypes and (until == "cluster" or v.method.uses_prototypes):
            done.prototypes[algorithm] = run_stage(
                cluster.stage(v.config, p.run, done.classes, train.classes, p.shape),
                "cluster" if algorithm == "kmeans" else f"cluster {algorithm}",
            )
    if until == "cluster":
        return done
    if p.features and features.wanted(p, until in ("evaluate", "report")):
        done.features = run_stage(embed.stage(p.config, p.run, done.classes, train, p.features))
    if p.given is not None and until != "plan":
        imported = run_stage(ingest.stage(p.config, p.run, p.given, p.vae), f"import {p.given.name}")
        done.syntheses[p.given.name] = DistilledSet((imported,))
    for v in p.variants if p.given is None else p.variants[1:]:
        name = v.config.method
        anchors = done.prototypes[v.config.cluster.algorithm or "kmeans"] if v.method.uses_prototypes else None
        done.plans[name] = run_stage(
            plan.stage(
                v,
                p.run,
                done.classes,
                anchors,
                train.classes,
                p.shape,
                done.features if features.by_features(v) else None,
            ),
            f"plan {name}",
        )
        if until != "plan":
            sampled = run_stage(
                sample.stage(v, p.run, done.plans[name], done.classes, train, p.vae, p.generator),
                f"sample {name}",
            )
            done.syntheses[name] = DistilledSet((sampled,))
    return done


def finish(done: Results, until: Until, run_stage: RunStage, nodes: Nodes) -> None:
    """What becomes of the syntheses: their check, the product, the trainings, the report."""
    p = done.prepared
    assert done.classes is not None
    made = {v.config.method for v in p.variants if v.method.generates} | ({p.given.name} if p.given else set())
    made_sets = {name: s for name, s in done.syntheses.items() if name in made}
    done.checks = check.check(p.run, done.classes, made_sets, p.splits.train.classes, run_stage)
    if p.given is None:  # the product is what this run made
        done.still_ours()
        done.computed |= assemble(p, p.variants[0], done.syntheses[p.config.method])
    if until == "sample":
        return
    judge(done, run_stage)
    refs, train = sets(done), p.splits.train
    every, seconds = students.evaluate(p.config, p.run, refs, train, p.splits.test, nodes.prove, done.teaching)
    done.trainings = [t for t in every if t.set.redundancy_part is None]
    done.on_parts = [t for t in every if t.set.redundancy_part is not None]
    if seconds:
        done.computed = True
    if until == "report":
        from raydistill.results import reporting

        done.still_ours()
        reporting.write(done)


def judge(done: Results, run_stage: RunStage) -> None:
    """The metrics of every set, and its soft labels if the protocol asks for them."""
    p = done.prepared
    assert done.classes is not None
    measuring = measure.asked(p.config.metrics, p.features)
    points = {measure.LATENT: done.classes}
    if p.features and done.features:
        points[p.features.architecture] = done.features
    for ref in sets(done) if measuring else ():
        if ref.made is not None:  # not the whole split, which the others are measured by
            done.measured[ref.name] = run_stage(
                measure.stage(p.config, p.run, ref, points, p.features, len(p.splits.train.classes)),
                f"measure {ref.name}",
            )
    done.teaching = teaching.teach(p, sets(done), run_stage)


def on_ray(p: Prepared, nodes: Nodes) -> Execute:
    """Spreads over Ray, which is imported with the first stage that has work: a finished run answers at once."""

    def keep(stage: Stage, where: Mapping[str, str]) -> None:
        node_log.keep(p.run.root / "logs", stage.artifact, where)

    def execute(stage: Stage, todo: Sequence[str]) -> Iterator[Record]:
        if stage.style == "driver":
            return runner.serial(stage, todo)
        from raydistill.distributed import executors

        return nodes.watch(executors.on_ray(p.config.ray, keep)(stage, todo))

    return execute


def nodes_of(p: Prepared) -> Nodes:
    """The nodes that will work on a run, and what they have to see."""
    specs = {"vae.path": p.vae, "generator.path": p.generator, "features.path": p.features, "teacher.path": p.teacher}
    specs |= {f"{role}.path": n for v in p.variants if v.sampling for role, n in v.sampling.networks.items()}
    models = {key: spec.path for key, spec in specs.items() if spec is not None}
    return Nodes(p.config.ray, lambda: needs(p.run, p.config.source, [p.splits.train, p.splits.test], models))


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


def sets(done: Results) -> list[SetRef]:
    """The training sets that are compared: the run's own, its baselines, and the whole split if asked for."""
    p = done.prepared
    refs = [SetRef.of(name, made) for name, made in done.syntheses.items()]
    if p.config.evaluate.full:
        refs.append(SetRef(FULL, p.splits.train.digest, len(p.splits.train), None))
    return refs


def provenance(p: Prepared, v: Variant) -> dict[str, Any]:
    """What an image came from, free of host and time: the same on every machine."""
    c = v.config
    made: dict[str, Any] = {"vae": p.vae.identity()["weights"][:16]}
    if v.sampling is not None and p.generator is not None:
        made |= {"generator": p.generator.identity()["weights"][:16], "sampler": v.sampling.sampler.model_dump()}
        guidance = v.sampling.guidance
        if guidance is not None:
            own = {} if guidance.own is None else guidance.own.model_dump()
            made |= {"guidance": {"name": guidance.name, **guidance.told(), **own}}
        made |= {role: network.identity()["weights"][:16] for role, network in v.sampling.networks.items()}
    if v.method.uses_prototypes and c.cluster.algorithm not in (None, "kmeans"):
        made["prototypes"] = {"algorithm": c.cluster.algorithm, **c.hierarchy.model_dump()}
    return made


def terms(p: Prepared, v: Variant) -> dict[str, str | None]:
    """The licence of each thing that the images of a variant are made from, None where nobody states it."""
    found: dict[str, str | None] = {"images": p.config.source.licence}
    if v.method.generates and p.generator is not None:
        found |= {"generator": licence(p.generator.path), "VAE": licence(p.vae.path)}
    return found


def assemble(p: Prepared, v: Variant, syntheses: DistilledSet) -> bool:
    """Writes distilled/; True if that changed anything."""
    c, made = v.config, provenance(p, v)
    text = card(
        title=f"{source_name(c)} distilled by {c.method}, {images_per_class(c.ipc)}",
        method=c.method,
        ipc=c.ipc,
        seed=c.seed,
        classes=p.splits.train.classes,
        image_size=c.source.image_size,
        source_kind=c.source.kind,
        generator=made.get("generator"),
        fields=made,
        terms=terms(p, v),
    )
    changed = product.assemble(p.run.root, syntheses, p.splits.train.classes, c.method, made, text)
    if changed:
        say("assemble", f"{syntheses.rows} images in {p.run.root / 'distilled'}")
    return changed


def carry(config: Config, until: Until = "report", given: Sequence[str] = ()) -> Results:
    """Checks everything and carries a run to `until`; `given` are the keys of a command line.

    Raises BadInput for what can be known beforehand, with nothing written, and StageFailed for all that comes later.
    """
    from raydistill.pipeline import beforehand, unread

    prepared = prepare(config, evaluate=until in ("evaluate", "report"), generate=until not in ("encode", "cluster"))
    unread.check(prepared, given)
    beforehand.check(prepared, until)
    nodes = nodes_of(prepared)
    prove_nodes(prepared, nodes)
    with prepared.run.at_work(prepared.config.yaml()) as claim:
        try:
            done = run(prepared, until, nodes=nodes, claim=claim)
        except RaydistillError as e:
            keep_traceback(prepared.run.root)
            if isinstance(e, BadInput):  # found only now (weights that do not load, a cluster without GPUs)
                raise StageFailed(str(e)) from e
            raise
    if not done.computed:
        say("done", "nothing was left to do")
    return done


def main(config: Config, until: Until = "report", given: Sequence[str] = ()) -> str:
    """Entry of the command line: returns the run directory."""
    return str(carry(config, until, given).prepared.run.root)
