"""What each Ray Train worker of a training does: it takes its share of every step, and reports with all others."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from raydistill.distributed.pretrain.latents import HELD, TRAIN, collect
from raydistill.distributed.pretrain.restore import STATE, restore
from raydistill.errors import RaydistillError, StageFailed, one_line
from raydistill.pretraining.group import Group
from raydistill.pretraining.plan import SAMPLES, Plan
from raydistill.pretraining.trainer import NonFiniteLoss, Trainer
from raydistill.pretraining.validation import Validation
from raydistill.sources.images import png

POST_S = 0.5
ASKED_EVERY = 10  # steps: whether a node is about to go, which all workers ask together


@dataclass(frozen=True)
class News:
    """The latest numbers: mean loss of the last steps, steps a second, and the last validation loss if there is one.

    `first`: the step that these workers began behind.
    """

    first: int
    step: int
    loss: float
    rate: float
    validation: float | None


class Board:
    """An actor where the first worker posts its latest numbers and lines, and the driver reads them."""

    def __init__(self) -> None:
        self.latest: News | None = None
        self.lines: list[str] = []

    def put(self, latest: News) -> None:
        self.latest = latest

    def say(self, line: str) -> None:
        self.lines.append(line)

    def read(self, shown: int) -> tuple[News | None, list[str]]:
        """The latest numbers, and the lines after the first `shown`."""
        return self.latest, self.lines[shown:]


def loop(job: dict[str, Any]) -> dict[str, Any]:
    """Continues from Ray's checkpoint to the last step. Expected errors are returned: Ray would retry what is raised.

    An error is one of all workers (a loss that is not finite) or is made one: a worker alone in a sum waits for ever.
    """
    try:
        _train(job["plan"], job["rows"], job["board"])
    except RaydistillError as e:
        advice = "; lower pretrain.lr" if isinstance(e, NonFiniteLoss) else ""
        return {"failed": f"{e}{advice}"}
    return {}


def _train(plan: Plan, rows: Mapping[str, int], board: Any) -> None:
    config, context = plan.config.pretrain, ray.train.get_context()
    torch.set_num_threads(config.threads)
    group = Group(context.get_world_rank(), context.get_world_size())
    ready, error = None, None
    try:
        ready = _prepare(plan, rows, group, board)
    except RaydistillError as e:
        error = str(e)
    error = group.first_error(error)
    if error is not None or ready is None:
        raise StageFailed(error or "a worker has no data")
    trainer, validation = ready
    if trainer.step and group.rank == 0:
        board.say.remote(f"continues after step {trainer.step} of {config.steps}")
    start, first, shown, going = time.monotonic(), trainer.step, 0.0, False
    if trainer.step >= config.steps:
        _report(trainer)
    if validation is not None and plan.fine_tunes and not trainer.step:  # what the checkpoint is worth as it is
        _validate(plan, trainer, validation, board)
        if group.rank == 0:
            board.say.remote(f"before the first step: validation loss {trainer.validation[-1][1]:.4g}")
    while trainer.step < config.steps:
        trainer.advance()
        last = trainer.step == config.steps
        if validation is not None and (trainer.step % plan.validate_every == 0 or last):
            _validate(plan, trainer, validation, board)
        goes = not going and trainer.step % ASKED_EVERY == 0 and ray.train.get_preemption_info() is not None
        if trainer.step % config.checkpoint_every == 0 or last or goes:
            _report(trainer)
        if goes and group.rank == 0:
            board.say.remote(f"a node is about to go: kept at step {trainer.step}, it goes on from there elsewhere")
        going |= goes
        if group.rank == 0 and (time.monotonic() - shown > POST_S or last):
            shown = time.monotonic()
            rate = (trainer.step - first) / (shown - start)
            seen = trainer.validation[-1][1] if trainer.validation else None
            board.put.remote(News(first, trainer.step, trainer.recent_loss(), rate, seen))


def _prepare(plan: Plan, rows: Mapping[str, int], group: Group, board: Any) -> tuple[Trainer, Validation | None]:
    """Data, network, and the state of the checkpoint if there is one."""
    config, device = plan.config.pretrain, ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    validation = None
    if plan.vae is None:
        first = group.rank == 0
        task: Any = plan.vae_task(device, lambda line: board.say.remote(line) if first else None)
    else:
        task = plan.generator_task(collect(TRAIN, rows[TRAIN]), device)
        names = [c.class_name for c in plan.listing.classes]
        validation = Validation(task, collect(HELD, rows[HELD]), plan.vae, plan.config.sampler, names)
    trainer = Trainer(task, config.steps, config.lr, config.ema, group)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            older = restore(trainer, Path(folder))
        if older and group.rank == 0:
            board.say.remote(older)
    return trainer, validation


def _report(trainer: Trainer) -> None:
    """All workers report, the first with the state, which is that of all."""
    numbers = {"step": trainer.step, "loss": trainer.recent_loss()}
    if trainer.group.rank:
        ray.train.report(numbers)
        return
    with tempfile.TemporaryDirectory() as folder:
        trainer.save(Path(folder) / STATE)
        ray.train.report(numbers, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _validate(plan: Plan, trainer: Trainer, validation: Validation, board: Any) -> None:
    """The averaged weights' validation loss, and a picture of what they make."""
    trainer.validated(validation.loss(trainer.ema.net, trainer.group))
    if trainer.group.rank == 0:
        _picture(plan, trainer, validation, board)


def _picture(plan: Plan, trainer: Trainer, validation: Validation, board: Any) -> None:
    """A grid of samples in out/samples/. It is there to be looked at: without it the training goes on."""
    try:
        path = plan.out / SAMPLES / f"step-{trainer.step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(validation.grid(trainer.ema.net)))
    except (RaydistillError, OSError) as e:
        board.say.remote(f"no samples of step {trainer.step}: {one_line(e)}")
