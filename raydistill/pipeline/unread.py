"""Keys given on the command line that the run would not read because nothing in it asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import cast

from raydistill import registry
from raydistill.config.sections import HierarchyConfig
from raydistill.errors import BadInput
from raydistill.evaluation.recipe import students_of
from raydistill.guidance.learnability import CURRENT, REFERENCE, LearnabilityConfig
from raydistill.methods.lgd import judged_by_latents
from raydistill.methods.reads import OF_MAIN, chosen_by, is_read, readers, sections
from raydistill.methods.resolve import Variant
from raydistill.models.text_generator import TextGeneratorSpec
from raydistill.pipeline import features
from raydistill.pipeline.curriculum import asks_teacher, judging
from raydistill.stages.evaluation.trainings import recipe
from raydistill.state import Prepared


def check(p: Prepared, command_keys: Sequence[str], varied: Sequence[str] = ()) -> None:
    """`varied`: what the methods of a sweep read besides that of the run.

    Raises BadInput for sections of methods, samplers and guidances by which no set here is made, for teacher.*, label.*
    and numbers of soft labels with hard ones, for features.* that nobody asks for, unless a guidance asks the
    classifier of that section, for prompts of a generator that is told none, and for keys of a curriculum that nothing
    in it reads."""
    name = p.config.evaluate.protocol.name
    labels = {recipe(p.config, len(p.splits.test.classes), s).labels for s in students_of(p.config.evaluate)}
    soft = labels != {"hard"}
    every = [one for v in p.variants for one in v.makers()]
    guiding = {role for v in every if v.sampling is not None for role in v.sampling.roles}
    if any(v.growth is not None and asks_teacher(v.growth) for v in p.variants):
        guiding |= {"teacher", "label"}  # whose pool examines it
    told_text = isinstance(p.generator, TextGeneratorSpec)
    unread_elsewhere = of_growth(p) | ({} if varied else of_clusterings(every))
    main = p.variants[0].growth.next if p.variants[0].growth is not None else p.variants[0]
    read = {s for v in every for s in sections(v.config, v.method)} | set(varied)
    read_by_main = {*sections(main.config, main.method), *varied}
    for key in command_keys:
        if not is_read(key, read_by_main if is_read(key, OF_MAIN) else read) and (choice := chosen_by(key)):
            raise BadInput(f"{key}: {_unread_by_sets(p, key, choice)}")
        if why := unread_elsewhere.get(key):
            raise BadInput(f"{key}: {why}")
        if (key == "evaluate.protocol.temperature" and not soft) or (
            key == "evaluate.protocol.views" and "stored" not in labels
        ):
            what = "stores no labels" if soft else "trains on hard labels"
            remedy = "leave it out, or choose a protocol that stores a teacher's (evaluate.protocol.name=fkd)"
            raise BadInput(f"{key}: evaluate.protocol.name={name} {what}; {remedy}")
        section = key.partition(".")[0]
        if key in ("generator.prompt", "generator.negative_prompt") and p.generator is not None and not told_text:
            raise BadInput(
                f"{key}: {p.generator.path} is told labels and no text; leave it out, or give Stable Diffusion as "
                "generator.path (docs/bring-your-own.md#stable-diffusion)"
            )
        if section in guiding:
            continue
        weighed = any(v.config.weights.mode is not None for v in every) or (p.judged is not None and p.judged.weighed)
        if key == "weights.norm" and not weighed:
            lacks = "prescribes none" if p.judged is None else "has none beside its images"
            raise BadInput(f"{key}: no weights.mode is given, and {p.config.method} {lacks}; leave it out")
        if section in ("teacher", "label") and not soft:
            raise BadInput(
                f"{key}: evaluate.protocol.name={name} trains on hard labels and asks no teacher; leave it out, or "
                "choose a protocol of soft labels (evaluate.protocol.name=fkd, docs/protocols.md)"
            )
        if section == "features" and not features.wanted(p, evaluate=True):
            raise BadInput(
                f"{key}: nothing here asks for features; leave it out, or give features.path and a metric that is "
                "computed in them (metrics.names=[fid], docs/metrics.md) or selection.space=feature with method=herding"
            )


def _unread_by_sets(p: Prepared, key: str, choice: str) -> str:
    """Why and the remedy: somebody else's images have no method to choose, but sets beside them."""
    if p.judged is None:
        nobody = f"method {p.config.method} does not read it, and no set beside it does"
        return f"{nobody}; leave it out, or choose what does ({choice})"
    names = () if is_read(key, OF_MAIN) else readers(key)
    beside = f", or compare with what does (evaluate.baselines=[{names[0]}])" if names else ""
    return f"no set beside the images of {p.judged.name} reads it; leave it out{beside}"


def of_clusterings(every: Sequence[Variant]) -> dict[str, str]:
    """The keys of `cluster` and `hierarchy` that only clusterings read which make no prototypes here, each with the
    remedy."""
    algorithms = {v.config.cluster.algorithm or v.method.clustering for v in every if v.method.uses_prototypes}
    fields_of = {n: {f.name for f in fields(registry.get("clustering", n))} for n in registry.names("clustering")}
    read = {name for algorithm in algorithms for name in fields_of[algorithm]}
    theirs = {name: algorithm for algorithm, names in fields_of.items() for name in names - read}
    nobody = f"what clusters here ({', '.join(sorted(algorithms))}) does not read it"
    trees = any(registry.get("clustering", algorithm).makes == "tree" for algorithm in algorithms)
    of_trees = () if trees else (k for k in HierarchyConfig.model_fields if k != "representative")
    cut = {f"hierarchy.{k}": f"{nobody}; leave it out, or choose cluster.algorithm=divisive" for k in of_trees}
    return cut | {f"cluster.{n}": f"{nobody}; leave it out, or choose cluster.algorithm={a}" for n, a in theirs.items()}


def of_growth(p: Prepared) -> dict[str, str]:
    """The keys that the run's own curriculum does not read, each with why and the remedy; none of another method."""
    v = p.variants[0]
    if v.growth is None:
        return {}
    judges, latents, how = judging(v.growth), judged_by_latents(v.config), v.growth.how
    guiding = cast(LearnabilityConfig, v.config.section("learnability", LearnabilityConfig))
    unread = _unled(guiding)
    if how.candidates == 1:
        unread["lgd.omega"] = "of one candidate nothing is chosen; leave it out, or raise lgd.candidates"
    if guiding.repulsion == 0:
        unread["lgd.memory_scope"] = "nothing is repelled from memory; leave it out, or raise learnability.repulsion"
    if latents:
        unread["lgd.student"] = "learnability.space=latent asks classifiers of latents; leave it out, or choose pixel"
    if CURRENT not in judges:
        nobody = "nothing leads the images or chooses among them; leave it out, or raise"
        keys = ("reference", "reference_epochs", "training_seed", *(() if latents else ("student",)))
        every = [*(f"lgd.{key}" for key in keys), "learnability.space", "learnability.omega"]
        unread |= {key: f"{nobody} learnability.scale or lgd.candidates" for key in every}
    elif REFERENCE not in judges:
        remedy = "leave it out, or raise learnability.omega or lgd.omega"
        unread["lgd.reference"] = f"a reference of weight 0 is not asked; {remedy}"
        if not latents:
            unread["lgd.reference_epochs"] = unread["lgd.reference"]
    elif how.reference == "teacher":
        unread["lgd.reference_epochs"] = "lgd.reference=teacher is trained already; leave one of the two out"
    return unread


def _unled(guiding: LearnabilityConfig) -> dict[str, str]:
    """The keys of section `learnability` that are of a push, or of the score's push, where there is none."""
    of_score = ("through_denoiser", "decoder", "shrink", "micro_batch", "checkpointing")
    keys: tuple[str, ...] = of_score if guiding.scale == 0 else ()
    if guiding.scale == 0 and guiding.repulsion == 0:
        keys += ("norm", "clip", "start", "stop", "every")
    pushed = "nothing is led by a score" if guiding.repulsion else "nothing is led"
    return {f"learnability.{key}": f"{pushed}; leave it out, or raise learnability.scale" for key in keys}
