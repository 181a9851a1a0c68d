"""Everything that can be known before any work: opened, matched or refused here, nothing written (exit code 2)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch

from raydistill import registry
from raydistill.config import Config
from raydistill.config.reads import TRAIN
from raydistill.errors import BadInput
from raydistill.evaluation import recipe
from raydistill.methods import windows
from raydistill.methods.base import Method
from raydistill.methods.resolve import SamplingPlan, Variant, beside, flows, resolve, with_prototypes
from raydistill.methods.weighting import MODES
from raydistill.models import hub
from raydistill.models.checkpoint import packaged
from raydistill.models.classifier import ClassifierSpec, class_columns
from raydistill.models.denoiser import GeneratorSpec
from raydistill.models.generator import Generator
from raydistill.models.maturity import half_trained
from raydistill.models.text_generator import TextGeneratorSpec, is_pipeline
from raydistill.models.vae import VaeSpec
from raydistill.pipeline import automatic, growing
from raydistill.pipeline.counts import check_counts
from raydistill.pipeline.curriculum import asks_teacher
from raydistill.pipeline.guiding import find_decoder, find_networks
from raydistill.progress import say
from raydistill.report.text import plural
from raydistill.sources import detect
from raydistill.sources.base import ClassInfo, open_splits
from raydistill.stages.evaluation.measure import requested_spaces
from raydistill.stages.syntheses import ingest
from raydistill.state import Prepared
from raydistill.store.hub import is_id
from raydistill.store.location import check_lasting
from raydistill.store.rundir import RunDir
from raydistill.tracking import destination

FAR = 4.0  # times another signal-to-noise ratio, from which on a run says so


def prepare(config: Config, evaluate: bool = True, generate: bool = True) -> Prepared:
    """Checks a configuration against the world. Raises BadInput; writes nothing.

    `evaluate` = False leaves baselines and students out, `generate` = False the generator: for verbs that stop before.
    """
    config = absolute(config)
    if config.cluster.algorithm is not None:
        registry.get("clustering", config.cluster.algorithm)
    run = RunDir(config.run_dir or "", config.artifact_dir)
    splits, judged = None, None
    if config.evaluate.images:
        splits = open_splits(config.source)
        judged = ingest.find(config, splits.train.classes)
        config = config.model_copy(update={"ipc": judged.ipc})  # of the sets beside it, too
    variants = variants_of(config, evaluate)
    run.check()
    if evaluate:
        check_students(config)
    for v in variants:
        check_growth(v, run)
    splits = splits or open_splits(config.source)
    if judged is not None:
        config = config.model_copy(update={"method": judged.name})
    check_counts(config, splits, variants)
    if evaluate:
        check_redundancy_parts(config, config.ipc if judged is None else int(judged.listing.counts.min()))
    if judged is not None:
        variants = [Variant(config, ingest.JudgedMethod(), None), *variants]
    for v in (one for variant in variants for one in variant.makers()):
        check_masses(v)
    vae = find_vae(config)
    shape = vae.latent_shape(config.source.image_size)
    generator = None
    every = [one for v in variants for one in v.makers()]
    if generate and any(v.method.generates for v in every):
        method = next(v.method for v in every if v.method.generates)
        generator = fitting_generator(config, method, splits.train.classes, vae, shape)
        for v in every:
            if v.sampling is not None:
                check_steps(v.sampling, generator)
        variants = [find_networks(v, [c.class_id for c in splits.train.classes]) for v in variants]
        variants = [find_decoder(v, vae) for v in variants]
    features = ClassifierSpec(**config.features.model_dump(), key="features") if config.features.path else None
    if config.selection.space == "feature" and features is None:
        raise BadInput("selection.space=feature needs a network: give features.path, or choose selection.space=latent")
    if evaluate:
        requested_spaces(config.metrics, features)
    why = teacher_asked_by(config, variants, evaluate)
    teacher = find_teacher(config, [c.class_id for c in splits.train.classes], why)
    return Prepared(variants[0].config, run, splits, vae, shape, generator, tuple(variants), features, judged, teacher)


def variants_of(config: Config, evaluate: bool) -> list[Variant]:
    """The run's own method, unless a folder is judged in its place, and with `evaluate` its baselines."""
    methods = [] if config.evaluate.images else [config.method]
    names = [*methods, *(b for b in config.evaluate.baselines if evaluate and b not in methods)]
    return [resolve(beside(config, n, main(config)) if n != config.method else config) for n in dict.fromkeys(names)]


def teacher_asked_by(config: Config, variants: Sequence[Variant], evaluate: bool) -> str | None:
    """Why a teacher is needed, and how to do without, with {} between them; None if it is not."""
    e = config.evaluate
    setting = recipe.Setting(config.ipc, 2, e.protocol.image_size, recipe.students_of(e)[0])
    if evaluate and recipe.resolve(e.protocol, setting).soft:
        return f"evaluate.protocol.name={e.protocol.name} trains on a teacher's labels{{}}evaluate.protocol.name=hard"
    if any(v.growth is not None and asks_teacher(v.growth) for v in variants):
        return "lgd.reference=teacher judges by a teacher{}lgd.reference=trained"
    return None


def find_teacher(config: Config, class_ids: list[str], asked_by: str | None) -> ClassifierSpec | None:
    """The network of teacher.path, if something asks for it. Raises BadInput for one that does not know the classes."""
    if asked_by is None:
        return None
    if config.teacher.path is None:
        give = ": give teacher.path=FILE or FOLDER (docs/bring-your-own.md), or choose "
        raise BadInput(asked_by.format(give))
    spec = ClassifierSpec(**config.teacher.model_dump(), key="teacher")
    class_columns(spec, class_ids)
    return spec


def find_vae(config: Config) -> VaeSpec:
    """The VAE in a folder of this machine, where it is fetched to if it is one of the hub. Raises BadInput."""
    model = hub.find("vae", config.vae.path, config.vae.revision)
    if model.name:
        say("vae", str(model))
    return VaeSpec(model.folder, model.name)


def find_generator(config: Config, method: Method, classes: Mapping[str, str]) -> Generator:
    """As find_vae; `classes` are names by class id. Of the two that ship, a method of flows gets the flow, unless
    generator.objective says otherwise."""
    model = hub.find("generator", config.generator.path, config.generator.revision)
    if model.name:
        say("generator", str(model))
    wanted = config.generator.objective or ("flow" if flows(method.sampler) else "epsilon")
    folder = model.folder or packaged("flow" if wanted == "flow" else "generator")
    spec: Generator
    if is_pipeline(folder):
        spec = TextGeneratorSpec(folder, classes, config.generator.prompt, config.generator.negative_prompt)
    else:
        spec = GeneratorSpec(folder, model.name)
    spec.check_objective(config.generator.objective)
    return spec


def fitting_generator(
    config: Config, method: Method, classes: Sequence[ClassInfo], vae: VaeSpec, shape: tuple[int, int, int]
) -> Generator:
    """As find_generator. Raises BadInput for one that does not go with classes, latents or VAE."""
    generator = find_generator(config, method, {c.class_id: c.class_name for c in classes})
    try:
        generator.check_fits(shape, [c.class_id for c in classes])
    except BadInput as e:
        raise (BadInput(f"{automatic.WITHOUT_GENERATOR}: {e}") if config.generator.path is None else e) from None
    generator.check_vae(vae)
    record = generator.training if isinstance(generator, GeneratorSpec) and config.generator.path is not None else {}
    if (why := half_trained(record)) is not None:
        say("generator", f"{generator.path.name} is half-trained, and its images are rough: {why}")
    return generator


def check_steps(sampling: SamplingPlan, generator: Generator) -> None:
    """Raises BadInput if the sampler asks for more times than the generator has, or if no step would be guided."""
    name, grid = sampling.sampler.name, sampling.sampler.grid
    if not sampling.flows:
        windows.check(sampling, lambda start, count: generator.steps(grid, count, start))
        tell_far_start(sampling, generator)
        return
    if sampling.kind.any_time and generator.predicts.own_times is not None:
        raise BadInput(
            f"sampler.name={name} asks for velocities at any time, and {generator.path} is no flow and knows only "
            "its training times; use euler or heun, or give a flow as generator.path"
        )
    windows.check(sampling, lambda start, count: generator.times(count, start.time, grid))


def tell_far_start(sampling: SamplingPlan, generator: Generator) -> None:
    """Says where none of so few steps is at the level at which paths shall begin, nor anywhere near it."""
    snr, count = sampling.start.snr, sampling.steps
    if snr is None:
        return
    level = generator.steps(sampling.sampler.grid, count, sampling.start)[0].alpha_bar
    if not 1 / FAR < level / (1 - level) / snr < FAR:
        nearest = f"of {plural(count, 'step')} the nearest to start.snr={snr:g} has {level / (1 - level):.2g}"
        say("start", f"{nearest}, and paths begin there; raise sampler.steps")


def main(config: Config) -> str | None:
    """The sampler of the run's own method; None where a folder is judged, which no method made, and none is given."""
    if config.sampler.name is not None or config.evaluate.images:
        return config.sampler.name
    return registry.get("method", config.method).of(config).sampler


def absolute(config: Config) -> Config:
    """Local paths made absolute, so that workers elsewhere mean the same place; kind and method settled.

    Raises BadInput in a submitted job.
    """
    for key in ("run_dir", "artifact_dir"):
        check_lasting(key, getattr(config, key))

    def full(path: str | None) -> str | None:
        return path if path is None or "://" in path else os.path.abspath(os.path.expanduser(path))

    def fetched(path: str | None, *words: str) -> str | None:
        return path if path in words or is_id(path) else full(path)

    config = config.model_copy(
        update={
            "run_dir": full(config.run_dir),
            "artifact_dir": full(config.artifact_dir),
            "source": detect.settled(config.source.model_copy(update={"path": fetched(config.source.path)})),
            "vae": config.vae.model_copy(update={"path": fetched(config.vae.path)}),
            "generator": config.generator.model_copy(update={"path": fetched(config.generator.path, TRAIN)}),
            "features": config.features.model_copy(update={"path": full(config.features.path)}),
            "teacher": config.teacher.model_copy(update={"path": full(config.teacher.path)}),
            "evaluate": config.evaluate.model_copy(update={"images": full(config.evaluate.images)}),
            "tracking": destination.absolute(config.tracking),
        }
    )
    return automatic.settled(config)


def check_students(config: Config) -> None:
    """Builds each student once, without memory, and resolves its recipe, so that what does not fit is refused now."""
    e = config.evaluate
    students = recipe.students_of(e)
    for name in students:
        with torch.device("meta"):
            registry.get("student", name)(2, e.protocol.image_size, e.width)
        recipe.resolve(e.protocol, recipe.Setting(config.ipc, 2, e.protocol.image_size, name))
    if len(set(students)) != len(students):
        raise BadInput(f"evaluate.students: {students} names a student twice")
    if e.protocol.image_size > config.source.image_size:
        raise BadInput(
            f"evaluate.protocol.image_size={e.protocol.image_size} is more than source.image_size="
            f"{config.source.image_size}; lower it"
        )


def check_redundancy_parts(config: Config, least: int) -> None:
    """Refuses parts that would lack a class (`least`: images of the smallest), or that a teacher would label."""
    e = config.evaluate
    if not e.redundancy_parts:
        return
    if e.redundancy_parts > least:
        raise BadInput(
            f"evaluate.redundancy_parts={e.redundancy_parts} is more than the {least} images of a class; "
            "lower it, or raise ipc"
        )
    setting = recipe.Setting(config.ipc, 2, e.protocol.image_size, recipe.students_of(e)[0])
    if recipe.resolve(e.protocol, setting).soft:
        raise BadInput(
            f"evaluate.redundancy_parts={e.redundancy_parts} goes with hard labels, and "
            f"evaluate.protocol.name={e.protocol.name} "
            "trains on soft ones; choose evaluate.protocol.name=hard"
        )


def check_growth(v: Variant, run: RunDir | None = None) -> None:
    """Refuses a curriculum that cannot grow, a student of it that does not fit, and artifacts that it cannot be read
    from."""
    if v.growth is not None:
        check_students(growing.config_of_student(v.config, v.growth.how))
        growing.check(v, v.growth, run)


def check_masses(v: Variant) -> None:
    """Refuses weights of masses where there are no prototypes to have any."""
    mode = v.config.weights.mode
    if mode is not None and MODES[mode].needs_masses and not v.method.uses_prototypes:
        others = (
            "leave it out for the weights beside its images"
            if isinstance(v.method, ingest.JudgedMethod)
            else with_prototypes(v.method)
        )
        raise BadInput(
            f"weights.mode={mode} weighs by the masses of prototypes, and {v.config.method} has none; choose "
            f"weights.mode=uniform, or {others}"
        )
