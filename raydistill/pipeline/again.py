"""A run's own command, given again so that it computes what the run lacks, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from raydistill import config as configuration
from raydistill import registry
from raydistill.config import Config
from raydistill.config import text as yaml
from raydistill.errors import BadInput, StageFailed, one_line
from raydistill.pipeline import job
from raydistill.pipeline.job import Until
from raydistill.pipeline.preflight import prepare
from raydistill.stages.latents import encode
from raydistill.state import Prepared
from raydistill.store import seals
from raydistill.store.location import Location
from raydistill.store.rundir import CONFIG, PAGE, PRODUCT, RESULT, TRAININGS
from raydistill.store.verification import Contents


@dataclass(frozen=True)
class Command:
    """What made a run, and how far."""

    config: Config
    until: Until

    @classmethod
    def of(cls, contents: Contents) -> Command:
        """Raises StageFailed if the run cannot be made again: its configuration is lost, its images or weights are."""
        with configured(contents) as config:
            command = cls(config, reached(contents.root, _has_curriculum(config)))
            until = command.until
            judges = until in ("evaluate", "report")
            same_images(contents, prepare(config, evaluate=judges, generate=until not in ("encode", "cluster")))
        return command

    def run(self) -> None:
        """Raises what the pipeline raises; the run can then be continued by its own command."""
        job.main(self.config, self.until)


@contextmanager
def configured(contents: Contents) -> Iterator[Config]:
    """The configuration of a run, to look whether what is lost can be made again. Raises StageFailed if not."""
    text = _text(contents.root)
    try:
        tree = yaml.read(text.decode())
        yield configuration.build({**tree, "run_dir": str(contents.root)})
    except (BadInput, TypeError, ValueError) as e:
        raise StageFailed(f"verify: what is lost cannot be made again: {one_line(e)}; nothing was removed") from None


def same_images(contents: Contents, *prepared: Prepared) -> None:
    """Raises BadInput for a command that would make another run: of images or a VAE that are not what they were."""
    first = [encode.stage(p.config, p.run, p.splits.train, p.vae).artifact for p in prepared]
    encoded = {a.fingerprint for a in contents.parts if a.stage == first[0].stage}
    if encoded and not encoded & {a.fingerprint for a in first}:
        raise BadInput("the images, the VAE or the version of raydistill are not what they were; bring them back")


def _has_curriculum(config: Config) -> bool:
    return registry.get("method", config.method).of(config).curriculum is not None


def reached(root: Location, trains_before: bool = False) -> Until:
    """The last step that has left something in the run directory. `trains_before`: trainings are no sign of evaluation,
    since some lead the images."""
    names = {*root.list(), *seals.names(root)}
    steps: list[tuple[Until, set[str]]] = [
        ("report", {PAGE, RESULT, TRAININGS, *(() if trains_before else ("evaluations",))}),
        ("sample", {PRODUCT, "syntheses"}),
        ("plan", {"plan"}),
        ("cluster", {"prototypes"}),
    ]
    return next((until for until, traces in steps if names & traces), "encode")


def _text(root: Location) -> bytes:
    """config.yaml as it was sealed. Raises StageFailed if nobody knows how that was."""
    seal = seals.find(root, CONFIG)
    if seal is not None and seal.copy:
        return seal.copy.encode()
    try:
        if seals.state(root, CONFIG) is not seals.State.CHANGED:
            return (root / CONFIG).read()
    except OSError:
        pass
    raise StageFailed(
        f"verify: {root / CONFIG} is not what was written; give the command that made the run once more, "
        "with all that it was given; nothing was removed"
    )
