"""Pretraining on Ray Train: one fit that checkpoints, survives its worker and its driver, and leaves a model directory.

Losses, networks and files are in `raydistill.pretraining`; a step is a pure function of (seed, step), so a training
that was killed and run again ends with the weights of an undisturbed one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import ray
import torch

from raydistill.config import Config
from raydistill.errors import RaydistillError, StageFailed, one_line
from raydistill.pretraining.plan import WORK, Plan, make_plan
from raydistill.pretraining.trainer import NonFiniteLoss, Trainer, read_state
from raydistill.stages.progress import clock, say
from raydistill.stages.runtime import ensure_ray

STATE = "state.pt"
RETRIES = 3
SHOW_S, POLL_S, READ_S = 5.0, 0.5, 20.0


def pretrain(config: Config) -> str:
    """Trains what `config.pretrain` asks for and returns its directory. Safe to repeat after any interruption.

    Raises BadInput before anything is written, StageFailed (resumable) afterwards.
    """
    plan = make_plan(config)
    if plan.vae is not None and plan.vae.name is not None:
        say("vae", f"{plan.vae.name} in {plan.vae.path}")
    if plan.finished():
        say("pretrain", f"finished before: {plan.out}")
    else:
        ensure_ray(config.ray)
        state = _fit(plan)
        net = plan.blank()
        net.load_state_dict(state["ema"])
        plan.write(net, state["losses"], state["seconds"])
    _drop_checkpoints(plan)
    return str(plan.out)


def _fit(plan: Plan) -> dict[str, Any]:
    """Runs or continues the fit; the state after its last step. Raises StageFailed naming the last good checkpoint."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    gpu = ray.cluster_resources().get("GPU", 0) >= 1
    work = plan.out / WORK
    work.mkdir(parents=True, exist_ok=True)
    board = ray.remote(num_cpus=0)(Board).remote()
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"plan": plan, "board": board},
        scaling_config=ScalingConfig(num_workers=1, use_gpu=gpu),
        run_config=RunConfig(
            name=plan.fingerprint,
            storage_path=str(work),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=RETRIES, controller_failure_limit=RETRIES),
        ),
    )
    done = threading.Event()
    watch = threading.Thread(target=_show, args=(board, done, plan.config.pretrain.steps), daemon=True)
    watch.start()
    try:
        result = trainer.fit()
    except (TrainingFailedError, ray.exceptions.RayError) as e:
        raise StageFailed(
            f"pretrain: Ray Train gave up after {RETRIES} retries: {one_line(e)[:300]}; checkpoints: "
            f"{work / plan.fingerprint}, the same command continues"
        ) from None
    finally:
        done.set()
        watch.join(timeout=2 * READ_S)
        ray.kill(board)
    failed = (result.return_value or {}).get("failed")
    last = result.checkpoint.path if result.checkpoint else None
    if failed or last is None:
        what = failed or "the fit returned no checkpoint"
        raise StageFailed(f"pretrain: {what}; last good checkpoint: {last or 'none yet'}")
    with result.checkpoint.as_directory() as folder:
        return read_state(Path(folder) / STATE)


def _loop(given: dict[str, Any]) -> dict[str, Any]:
    """The worker: continues from Ray's checkpoint. Expected errors are returned: Ray would retry what is raised."""
    try:
        _train(given["plan"], given["board"])
    except RaydistillError as e:
        advice = "; lower pretrain.lr" if isinstance(e, NonFiniteLoss) else ""
        return {"failed": f"{e}{advice}"}
    return {}


def _train(plan: Plan, board: Any) -> None:
    import ray.train.torch

    config = plan.config.pretrain
    torch.set_num_threads(config.threads)
    task = plan.task(ray.train.torch.get_device(), lambda line: board.say.remote(line))
    trainer = Trainer(task, config.steps, config.lr, config.ema)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            trainer.load(Path(folder) / STATE)
        board.say.remote(f"continues after step {trainer.step} of {config.steps}")
    start, first, shown = time.monotonic(), trainer.step, 0.0
    if trainer.step >= config.steps:
        _report(trainer)
    while trainer.step < config.steps:
        trainer.advance()
        if trainer.step % config.checkpoint_every == 0 or trainer.step == config.steps:
            _report(trainer)
        if time.monotonic() - shown > POLL_S or trainer.step == config.steps:
            shown = time.monotonic()
            rate = (trainer.step - first) / (shown - start)
            board.put.remote((trainer.step, trainer.recent_loss(), rate))


def _report(trainer: Trainer) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainer.save(Path(folder) / STATE)
        ray.train.report(
            {"step": trainer.step, "loss": trainer.recent_loss()},
            checkpoint=ray.train.Checkpoint.from_directory(folder),
        )


class Board:
    """Where the worker posts its latest numbers and its news, and the driver reads them."""

    def __init__(self) -> None:
        self.latest: tuple[int, float, float] | None = None
        self.news: list[str] = []

    def put(self, latest: tuple[int, float, float]) -> None:
        self.latest = latest

    def say(self, line: str) -> None:
        self.news.append(line)

    def read(self, told: int) -> tuple[tuple[int, float, float] | None, list[str]]:
        """(step, mean loss, steps a second) or None, and the lines after the first `told`."""
        return self.latest, self.news[told:]


def _show(board: Any, done: threading.Event, steps: int) -> None:
    """Prints news as they come, and step, loss, rate and time left every few seconds and at the end."""
    seen, shown, told = 0, 0.0, 0
    while True:
        last = done.wait(POLL_S)
        try:
            latest, news = ray.get(board.read.remote(told), timeout=READ_S)
        except ray.exceptions.GetTimeoutError:  # a busy machine; the numbers are only late
            if last:
                return
            continue
        except ray.exceptions.RayError:
            return
        told += len(news)
        for line in news:
            say("pretrain", line)
        if latest and latest[0] != seen and (last or time.monotonic() - shown >= SHOW_S):
            seen, shown = latest[0], time.monotonic()
            left = clock((steps - seen) / latest[2]) if latest[2] else "?"
            say("pretrain", f"{seen}/{steps} steps, loss {latest[1]:.4g}, {latest[2]:.3g}/s, {left} left")
        if last:
            return


def _drop_checkpoints(plan: Plan) -> None:
    """Removes this training's checkpoints, and the folder that held them if nothing else is in it."""
    work = plan.out / WORK
    shutil.rmtree(work / plan.fingerprint, ignore_errors=True)
    if work.is_dir() and not os.listdir(work):
        work.rmdir()
