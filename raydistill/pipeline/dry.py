"""--dry-run: everything that is checked before a run, and then what it would do, stage by stage. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from raydistill.config import Config, EvaluateConfig
from raydistill.distributed.nodes import joins
from raydistill.evaluation.recipe import students_of
from raydistill.guidance.learnability import CURRENT, REFERENCE
from raydistill.methods.lgd import judged_by_latents
from raydistill.methods.resolve import Growth, SamplingPlan, Variant
from raydistill.models.generator import Generator
from raydistill.pipeline import trained
from raydistill.pipeline.beforehand import LATER, Reading, Unfinished
from raydistill.pipeline.curriculum import judging
from raydistill.pipeline.job import JUDGED, Until, checked, generated, judge, make, sets
from raydistill.pipeline.preflight import absolute
from raydistill.progress import noun
from raydistill.report.text import aligned, plural
from raydistill.stages import runner
from raydistill.stages.evaluation import pixel_array, trainings
from raydistill.stages.runner import Stage
from raydistill.stages.syntheses.distilled_set import DistilledSet
from raydistill.state import Prepared
from raydistill.store.sealed import Sealed

FILE = "a file"


class Looking(Reading):
    """Notes of each stage that it comes to how far it is; the first that is not finished is the last.

    The images that a curriculum begins with are named apart: a set beside it may be of the same method.
    """

    def __init__(self, prepared: Prepared) -> None:
        super().__init__(prepared)
        self.seen: dict[str, str] = {}
        self.of_seed = False

    def weighed(self, v: Variant, increment: int = 0) -> DistilledSet:
        self.of_seed = any(one.growth is not None and one.growth.first is v for one in self.prepared.variants)
        try:
            return super().weighed(v, increment)
        finally:
            self.of_seed = False

    def _carry(self, stage: Stage, name: str) -> Sealed:
        name = f"{name} (begins)" if self.of_seed and stage.name in ("plan", "sample", "weigh") else name
        try:
            sealed = super()._carry(stage, name)
        except Unfinished:
            records, _ = runner.committed(stage)
            done = sum(map(stage.units, records.values()))
            of = f"{stage.total} {noun(stage.total, stage.unit)}"
            self.seen[name] = f"{of}, {done} finished" if done else of
            raise
        self.seen[name] = f"{stage.total} {noun(stage.total, stage.unit)}, finished"
        return sealed


def main(config: Config, until: Until, command_keys: list[str]) -> str:
    """The plan of work as text. Raises BadInput as the run would, and CorruptArtifact for finished work that is not."""
    config = absolute(config)
    if left := trained.unfinished(config, until):
        return trained.in_words(config, left, "run")
    prepared = checked(trained.first(config, until), until, command_keys)[0]
    head = f"{prepared.run.root}: would be carried to {until}; nothing is written"
    return aligned(head, list(plan(prepared, until).items()))


def plan(p: Prepared, until: Until) -> dict[str, str]:
    """By the name of a stage how much it has to do, and what of it is finished."""
    steps, first = Looking(p), None
    try:
        done = make(steps, until)
        if until in JUDGED:
            judge(steps, done)
            every = trainings.everything(p.config, p.run, sets(done), p.splits.test, done.teaching, p.splits.train)
            left = len(trainings.unfinished(p.config, p.run, every))
            state = "finished" if not left else f"{len(every) - left} finished"
            return steps.seen | {"evaluate": f"{len(every)} trainings, {state}"}
    except Unfinished as e:
        first = str(e)
    if first is None:
        return steps.seen
    later = {name: amount for kind, name, amount in expected(p, until) if LATER.get(kind, 6) >= LATER.get(first, 6)}
    return steps.seen | {name: amount for name, amount in later.items() if name not in steps.seen}


def expected(p: Prepared, until: Until) -> Iterator[tuple[str, str, str]]:
    """Of a run from nothing: kind, name and amount of each stage whose amount is known beforehand."""
    config, classes = p.config, len(p.splits.train.classes)
    yield "encode", "encode", f"{len(p.splits.train.ids)} images"
    if until == "encode":
        return
    if until == "cluster" or any(v.method.uses_prototypes for one in p.variants for v in one.makers()):
        yield "cluster", "cluster", f"{classes} classes"
    if until in ("cluster", "plan"):
        return
    if p.judged is not None:
        yield "import", f"import {p.judged.name}", plural(len(p.judged.listing), "image")
    draws = config.seeds.generation if until in JUDGED else 1
    for v in generated(p):
        yield "sample", f"sample {v.config.method}", f"{classes * v.config.ipc * draws} images{_steps(v, p.generator)}"
        if v.growth is not None and (trained_on := _reference(p, v.growth)):
            yield "judge", "reference", trained_on
        if v.growth is not None and CURRENT in judging(v.growth):
            count = draws * (v.growth.count(v.config.ipc) - 1)
            yield "judge", f"judge {v.config.method}", f"{plural(count, 'training')}, each on all increments so far"
    if until in JUDGED:
        of = len(generated(p)) + (p.judged is not None)
        once = len(list(students_of(config.evaluate))) * config.evaluate.seeds
        fits = once * draws
        full = " and on all images" if config.evaluate.full else ""
        if full and config.evaluate.full_epochs is not None:
            full += f", also for {plural(config.evaluate.full_epochs, 'epoch')}"
        cut = [f"{n} parts of {v.config.method}" for v in p.variants if (n := _parts(v, config))]
        full += f"; {once} on each of {', '.join(cut)}" if cut else ""  # of the first draw alone
        yield "evaluate", "evaluate", f"{plural(of, 'set')} x {plural(fits, 'training')}{full}"


def _parts(v: Variant, config: Config) -> int:
    """Into how many parts a set is cut, each to be trained on for itself."""
    return trainings.parts(config, v.growth.count(v.config.ipc) if v.growth is not None else 1)


def _steps(v: Variant, generator: Generator | None) -> str:
    """In how many steps images come about, of a curriculum those of its increments by what they are of."""
    if v.sampling is None:
        return ""
    count = _count((v if v.growth is None else v.growth.next).sampling or v.sampling, generator)
    if v.growth is None:
        return f", each in {count} steps of the generator"
    how, first = v.growth.how, _steps(v.growth.first, generator)
    choice = f"one of {how.candidates}, each" if how.candidates > 1 else "each"
    seed = f"{how.increment} a class by {how.seed}{first}"
    return f": {seed}; the others {choice} in {count} steps of the generator"


def _count(plan: SamplingPlan, generator: Generator | None) -> int:
    """How many steps run: a start on the way leaves some out."""
    if generator is None:
        return plan.steps
    if plan.flows:
        return len(generator.times(plan.steps, plan.start.time, plan.sampler.grid))
    return len(generator.steps(plan.sampler.grid, plan.steps, plan.start))


def _reference(p: Prepared, growth: Growth) -> str | None:
    """Of a curriculum whose reference is a student of all images: what they take in the memory of the worker that
    trains it, or in a file of its own, decoded, beside those that it is tested on."""
    how, config = growth.how, growth.next.config
    if how.reference != "trained" or REFERENCE not in judging(growth) or judged_by_latents(config):
        return None
    e, joined = config.evaluate, joins(p.config.ray)
    train, test = (pixel_array.size(len(split), e.protocol.image_size) for split in (p.splits.train, p.splits.test))
    held = (
        f"{how.student} on {len(p.splits.train)} images, {plural(how.reference_epochs, 'epoch')}; a worker has these "
        f"in {_place(train, e, joined)}, {_mb(train)}, and the test images in {_place(test, e, joined)}, {_mb(test)}"
    )
    need = sum(count for count in (train, test) if _place(count, e, joined) == FILE)
    if need == 0 or need <= (free := pixel_array.disk()):
        return held
    return (
        f"{held}; the disk of its files has {_mb(free)} free: set TMPDIR to a folder of a larger one, lower "
        "evaluate.protocol.image_size, or give lgd.reference=teacher"
    )


def _place(count: int, e: EvaluateConfig, joined: str | None) -> str:
    """Where so many bytes of decoded images lie of a worker that trains alone; it is not known of another machine."""
    return f"memory or {FILE}" if joined else FILE if count > pixel_array.most(e) else "memory"


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
