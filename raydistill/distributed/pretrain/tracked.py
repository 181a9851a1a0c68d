"""What a training of weights tells MLflow of itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from raydistill import strict_json
from raydistill.config import leaves, reads
from raydistill.config.sections import Config
from raydistill.pretraining.output import CURVE, MARKER
from raydistill.pretraining.plan import SAMPLES, Plan
from raydistill.progress import Measured, say, tell
from raydistill.sources.base import Listing
from raydistill.store.location import Location
from raydistill.tracking import destination
from raydistill.tracking.destination import Destination
from raydistill.tracking.tracker import DataSet, Tracker, tracking

STAGE = "pretrain"
NUMBERS = ("final_loss", "train_seconds", "images_seen")


def check(plan: Plan) -> Destination | None:
    """Where the training is told of. Raises BadInput for what cannot be, at a new one also for what does not answer."""
    where = destination.find(plan.config.tracking)
    if where is None:
        return None
    fault = destination.check(where, new=not plan.out.exists())
    if fault:
        say("tracking", f"{where.uri}: {fault}; the training goes on and keeps its records for later")
    return where


@contextmanager
def training(plan: Plan, where: Destination | None) -> Iterator[Tracker | None]:
    """Tells of a training while it goes on, and of its end. None if nobody wants to know."""
    if where is None:
        yield None
        return
    root, c = Location.of(str(plan.out)), plan.config
    with tracking(where, root) as uploads, uploads.run(plan.fingerprint, plan.out.name) as tracker:
        tracker.params({k: _at(c, k) for k, _ in leaves(Config) if reads.pretraining(k, c)})
        tracker.tags(
            {
                "raydistill.fingerprint": plan.fingerprint,
                "raydistill.method": f"pretrain {plan.target}",
                "mlflow.note.content": f"{plan.target} trained on {len(plan.listing)} images, in `{plan.out}`",
            }
        )
        for listing, context in ((plan.listing, "training"), (plan.held, "validation")):
            if len(listing):
                tracker.dataset(_data(plan, listing, context))
        with uploads.watching(tracker):
            yield tracker


def numbers(plan: Plan, step: int, loss: float, rate: float, validation: float | None) -> None:
    """Of a step. The validation loss is of the last step at which there was one."""
    tell(Measured(STAGE, step, {"loss": loss, "steps_per_second": rate}))
    if validation is not None:
        last = step == plan.config.pretrain.steps
        tell(Measured(STAGE, step if last else step - step % plan.validate_every, {"validation_loss": validation}))


def results(tracker: Tracker, plan: Plan, changed: bool) -> None:
    """What a finished training has left."""
    record = strict_json.mapping((plan.out / MARKER).read_bytes())
    tracker.metrics({f"{STAGE}/{name}": record[name] for name in NUMBERS if name in record}, plan.config.pretrain.steps)
    for step, loss in record.get("validation_loss", []):
        tracker.metrics({f"{STAGE}/validation_loss": loss}, step)
    for name in (MARKER, CURVE):
        tracker.file(name)
    for picture in sorted((plan.out / SAMPLES).glob("*.png")):
        tracker.file(f"{SAMPLES}/{picture.name}", SAMPLES)
    tracker.end("FINISHED", changed=changed)


def _data(plan: Plan, listing: Listing, context: str) -> DataSet:
    source = plan.config.source
    where = source.path or f"raydistill://{source.kind}"
    name = Location.of(source.path).name if source.path else source.kind
    about = {"images": len(listing), "classes": len(listing.classes), "split": listing.split}
    return DataSet(f"{name}-{listing.split}", listing.digest, where, context, about)


def _at(config: Config, key: str) -> object:
    value: object = config
    for part in key.split("."):
        value = getattr(value, part)
    return value
