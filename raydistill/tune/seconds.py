"""The rates that a sweep counts seconds by: taken once as it begins, and kept in its run directory.

Seconds of trials are planned and not clocked: trials share workers, and a sweep that is killed and continued, there or
on another machine, must see the same numbers and make the same suggestions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raydistill.config import Config
from raydistill.errors import BadInput
from raydistill.identity import fingerprint
from raydistill.pipeline.tracked import key
from raydistill.stages.renew import renew
from raydistill.store import seals
from raydistill.store.location import Location
from raydistill.store.rundir import RATES
from raydistill.tune.objectives import SECONDS
from raydistill.tune.plan import searching

if TYPE_CHECKING:
    from raydistill.planning.pace import Pace
    from raydistill.planning.rates import RateRecord

KEY = "tune.rates"


def counted(config: Config) -> bool:
    """Whether the sweep asks for seconds."""
    return bool(set(config.tune.objectives) & set(SECONDS))


def check(config: Config, root: Location) -> None:
    """Raises BadInput where nothing could say how fast images are drawn; nothing is measured."""
    if counted(config) and _kept(config, root) is None:
        _record(config)


def pace(config: Config, root: Location) -> Pace | None:
    """The rates of this sweep, those that were kept if there are any; None if nobody asks for seconds.

    They are measured at the first start unless a file says them, or bounds of a GPU. Raises BadInput, StageFailed.
    """
    if not counted(config):
        return None
    from raydistill.planning.pace import Pace

    text = _kept(config, root) or _taken(config).text()
    renew(root, RATES, text.encode(), _identity(config), copy=text)
    return Pace.of_text(text)


def _identity(config: Config) -> str:
    """Of the configuration that is varied, wherever and with how much it is run, and of where its rates are from."""
    from raydistill.planning.pace import on_gpu

    return fingerprint("rates", [key(config), config.tune.rates, on_gpu(config)])


def _kept(config: Config, root: Location) -> str | None:
    """What an earlier start of this sweep has kept; the seal has it too."""
    seal = seals.find(root, RATES)
    return seal.copy if seal is not None and seal.made_from == _identity(config) else None


def _taken(config: Config) -> Pace:
    from raydistill.planning import probe
    from raydistill.planning.pace import of_record, on_gpu

    record = _record(config)
    if record is None and not on_gpu(config):
        record = probe.in_worker(searching(config), f"{KEY}=FILE")
    return of_record(config, record)


def _record(config: Config) -> RateRecord | None:
    """What the file says, None without one. Raises BadInput for one that is not of what draws, or that is missed."""
    from raydistill.planning import rates
    from raydistill.planning.pace import gpu, on_gpu

    path = config.tune.rates
    record = None if path is None else rates.read(path, f"{KEY}=")
    if record is not None and record.peak is not None and not on_gpu(config):
        raise BadInput(
            f"{KEY}={path} is of a GPU, and images are drawn on cores (sample.num_gpus=0); give a file of `plan "
            "--cluster local --write-rates FILE`, or leave it out"
        )
    if on_gpu(config) and gpu(record) is None:
        (name, *_) = [name for name in config.tune.objectives if name in SECONDS]
        raise BadInput(
            f"tune.objectives={name}: images are drawn on GPUs (sample.num_gpus={config.sample.num_gpus:g}), and none "
            f"whose speed is known is here; give {KEY}=FILE, which `benchmarks/gpu.py --out FILE` writes on one, or "
            "choose network_calls"
        )
    return record
