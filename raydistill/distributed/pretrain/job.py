"""Pretraining on Ray Train: one fit that checkpoints, survives its workers and its driver, and leaves a model.

Losses, networks and files are in `raydistill.pretraining`; a step is a pure function of (seed, step), so a training
that was killed and run again ends with the weights of an undisturbed one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydistill.config import Config
from raydistill.distributed import fits
from raydistill.distributed.failures import keep_traceback, last_line
from raydistill.distributed.nodes import Nodes, joins
from raydistill.distributed.pretrain import latents, places, tracked
from raydistill.distributed.pretrain.latents import StoredLatents
from raydistill.distributed.pretrain.loop import STATE, Board, News, loop
from raydistill.distributed.private import base_folder
from raydistill.distributed.process_group import for_gradients
from raydistill.distributed.resources import check_room, lack_of_trainers, local_room, of_pool, trained_on_gpus
from raydistill.distributed.runtime import ensure_ray
from raydistill.distributed.visibility import needs
from raydistill.errors import BadInput, StageFailed
from raydistill.models.checkpoint import WORK
from raydistill.pretraining import size
from raydistill.pretraining.class_rows import described
from raydistill.pretraining.leftovers import command, forget_news, leftovers
from raydistill.pretraining.plan import Plan, make_plan
from raydistill.pretraining.trainer import read_state
from raydistill.progress import Advanced, Finished, Started, clock, say, tell
from raydistill.store.claims import hold
from raydistill.store.location import Location

RETRIES = 3
SHOW_S, POLL_S, READ_S = 5.0, 0.5, 20.0


def pretrain(config: Config) -> str:
    """Trains what `config.pretrain` asks for and returns its directory. Safe to repeat after any interruption.

    Raises BadInput before anything is written, StageFailed (resumable) afterwards.
    """
    plan = make_plan(config)
    if plan.left_out:
        say("source", f"{plan.left_out}: nothing is validated on their images")
    if plan.vae is not None and plan.vae.name is not None:
        say("vae", f"{plan.vae.name} in {plan.vae.path}")
    if plan.origin is not None and plan.origin.spec is not None and plan.origin.rows is not None:
        say("pretrain", described(plan.origin.rows, plan.origin.spec, plan.listing.classes))
    if others := leftovers(plan.out, but=plan.fingerprint):
        listed = ", ".join(map(str, others))
        say("pretrain", f"not finished in {plan.out / WORK}: {listed}; what removes it: {command(plan.out)}")
    finished, destination = plan.finished(), tracked.check(plan)
    if not finished:
        check(plan)
    with tracked.training(plan, destination) as tracker:
        if finished:
            say("pretrain", f"finished before: {plan.out}")
        else:
            _train_and_write(plan)
        if lack := plan.write_pipeline():
            say("pretrain", lack)
        if tracker is not None:
            tracked.results(tracker, plan, changed=not finished)
    _drop_checkpoints(plan)
    return str(plan.out)


def _train_and_write(plan: Plan) -> None:
    """Alone in this folder: Ray Train keeps one state for a training, whoever runs it."""
    work = Location.of(str(plan.out / WORK))
    with hold(work, "pretrain.out", plan.fingerprint, alone=True) as claim:
        try:
            state = _trained(plan)
            claim.check()
        except StageFailed:
            keep_traceback(work)
            raise
        net = plan.blank()
        net.load_state_dict(state["ema"])
        plan.write(net, state)


def _trained(plan: Plan) -> dict[str, Any]:
    """The state after the last step."""
    run = latents.run_dir(plan)
    if plan.vae is not None:
        run.check()
    ensure_ray(plan.config.ray)
    models: dict[str, Path] = {"vae.path": plan.vae.path} if plan.vae else {}
    if plan.origin is not None and plan.origin.spec is not None:
        models["pretrain.init"] = plan.origin.spec.path
    nodes = Nodes(plan.config.ray, lambda: needs(run, plan.config.source, [plan.listing, plan.held], models))
    nodes.prove()
    stored = latents.encode_and_read(plan, run, nodes) if plan.vae is not None else {}
    return _fit(plan, stored, _resources(plan.config))  # now: a cluster may have grown meanwhile


def check(plan: Plan) -> None:
    """Raises BadInput for networks that do not fit their weights, for workers that a private cluster can never place,
    a device that this machine lacks, or a network too large for it.
    """
    plan.check_networks()
    if joins(plan.config.ray):
        return
    base_folder()
    room = local_room(plan.config.ray)
    if plan.vae is not None:
        check_room(of_pool("encode", plan.config.encode), room)
    lack = lack_of_trainers(plan.config.pretrain.workers, room, plan.config.pretrain.num_gpus)
    if lack:
        raise BadInput(lack)
    on_gpu = trained_on_gpus(plan.config.pretrain.num_gpus, room.gpus)
    gpus = [torch.cuda.get_device_properties(i).total_memory for i in range(int(room.gpus) if on_gpu else 0)]
    size.check(plan, min(gpus, default=None))


def _resources(config: Config) -> bool:
    """Whether every worker gets a GPU."""
    have, p = places.room(), config.pretrain
    lack = lack_of_trainers(p.workers, have, p.num_gpus, local=not joins(config.ray))
    if lack:
        say("ray", f"{lack}: waiting for the cluster to grow")
    return trained_on_gpus(p.num_gpus, have.gpus)


def _fit(plan: Plan, stored: Mapping[str, StoredLatents], gpu: bool) -> dict[str, Any]:
    """Runs or continues the fit; the state after its last step. Raises StageFailed naming the last good checkpoint."""
    from ray.train import CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    work = plan.out / WORK
    work.mkdir(parents=True, exist_ok=True)
    # Only hard affinity: Ray places what reserves nothing on any node otherwise, and that may go.
    beside_driver = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0, scheduling_strategy=beside_driver)(Board).remote()
    make = partial(
        TorchTrainer,
        loop,
        train_loop_config={"plan": plan, "board": board, "rows": {k: s.rows for k, s in stored.items()}},
        torch_config=for_gradients(),
        scaling_config=ScalingConfig(num_workers=plan.config.pretrain.workers, use_gpu=gpu),
        run_config=RunConfig(
            name=plan.fingerprint,
            storage_path=str(work),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=RETRIES, controller_failure_limit=0),
        ),
        datasets={k: s.data for k, s in stored.items()},
        dataset_config=DataConfig(datasets_to_split=[]),  # each worker holds all, and draws from all
    )
    try:
        wanted = places.Places(plan.config.pretrain.workers, gpu)
        with Reader(board, plan) as reader:
            result = places.fitted(make, reader.probe, POLL_S, wanted, RETRIES)
    except (TrainingFailedError, ray.exceptions.RayError, fits.Unplaced) as e:
        raise StageFailed(
            f"pretrain: Ray Train gave up after {RETRIES} retries: {last_line(e)[:300]}; the traceback is in "
            f"{work}/logs/error.txt, checkpoints in {work / plan.fingerprint}; run the same command again to continue"
        ) from e
    finally:
        if ray.is_initialized():
            ray.kill(board)
    failed = (result.return_value or {}).get("failed")
    last = result.checkpoint.path if result.checkpoint else None
    if failed or last is None:
        what = failed or "the fit returned no checkpoint"
        raise StageFailed(f"pretrain: {what}; last good checkpoint: {last or 'none yet'}")
    with result.checkpoint.as_directory() as folder:
        try:
            return read_state(Path(folder) / STATE)
        except StageFailed as e:
            raise StageFailed(f"{e}; run the same command again: it goes on from another one") from None


class Reader:
    """Prints the board's lines as they come, and step, losses, rate and time left every few seconds.

    To those that listen the training is a stage of steps. Use as a context manager.
    """

    def __init__(self, board: Any, plan: Plan) -> None:
        self.board, self.plan, self.steps = board, plan, plan.config.pretrain.steps
        self.lines_read, self.seen, self.shown = 0, 0, 0.0
        self.stage = f"{tracked.STAGE} {plan.target}"
        self.first, self.done, self.start = 0, 0, 0.0  # steps, and when the first news came

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.start:
            took, whole = time.monotonic() - self.start, self.done == self.steps
            tell(Finished(self.stage, "steps", self.done - self.first, took, whole))

    def probe(self) -> None:
        try:
            latest, lines = ray.get(self.board.read.remote(self.lines_read), timeout=READ_S)
        except ray.exceptions.RayError:  # a busy machine, and the numbers are only late; or the fit tells what is wrong
            return
        self.lines_read += len(lines)
        for line in lines:
            say("pretrain", line)
        if latest:
            self._advance(latest)
        last = latest is not None and latest.step == self.steps
        if latest and latest.step != self.seen and (last or time.monotonic() - self.shown >= SHOW_S):
            self.seen, self.shown = latest.step, time.monotonic()
            say("pretrain", _line(latest, self.steps))
            tracked.numbers(self.plan, latest.step, latest.loss, latest.rate, latest.validation)

    def _advance(self, latest: News) -> None:
        """Steps that are made again, after a loss, are news once."""
        if not self.start:
            self.first = self.done = latest.first
            self.start = time.monotonic()
            tell(Started(self.stage, "steps", self.steps, latest.first))
        if latest.step > self.done:
            tell(Advanced(self.stage, latest.step - self.done))
            self.done = latest.step


def _line(latest: News, steps: int) -> str:
    left = clock((steps - latest.step) / latest.rate) if latest.rate else "?"
    held = "" if latest.validation is None else f" (validation {latest.validation:.4g})"
    return f"{latest.step}/{steps} steps, loss {latest.loss:.4g}{held}, {latest.rate:.3g}/s, {left} left"


def _drop_checkpoints(plan: Plan) -> None:
    """Removes this training's checkpoints and latents, and the folder that held them if nothing else is in it."""
    work = plan.out / WORK
    for name in (plan.fingerprint, latents.STORE):
        shutil.rmtree(work / name, ignore_errors=True)
    forget_news(plan.out)
