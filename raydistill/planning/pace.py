"""Seconds that a worker takes to draw an image of a set: planned, by the work of its stages and rates that are known.

They are of one worker that nothing else runs beside, so that they are the same for the same configuration and rates,
whatever a clock would say of workers that several sets share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from raydistill import strict_json
from raydistill.config import Config
from raydistill.identity import canonical
from raydistill.planning.ahead import facts_of
from raydistill.planning.asking import evaluations, passes
from raydistill.planning.facts import Facts
from raydistill.planning.fleet import this_machine
from raydistill.planning.load import StageLoad
from raydistill.planning.rates import RateRecord, Rates, model, of_core, of_gpu
from raydistill.planning.schedule import unit_seconds
from raydistill.planning.workload import making
from raydistill.state import Prepared

DRAWING = ("sample", "increment")  # first words of the stages that draw: no plan, and no training of what judges
NETWORKS = ("encode", "denoise", "decode", "teach")  # that they ask
BESIDE = ("read", "png", "table")


@dataclass(frozen=True)
class Pace:
    """Rates of the kinds of work that drawing is made of: of a core, and of the GPU if networks are on one."""

    core: Rates
    gpu: Rates | None = None

    def seconds(self, p: Prepared, counted: float) -> float:
        """Of an image of the run's own set: networks, guidance included, decoding, PNG, tables.

        `counted`: how often the network was asked for an image, both halves of classifier-free guidance, 0 for real
        images; by it an adaptive sampler's share is known, which is no plan's.
        """
        facts = facts_of(p)
        stages = [s for s in making(p.variants[0], p.config, facts) if s.stage.split()[0] in DRAWING]
        gpus = [] if self.gpu is None else [self.gpu]
        spent = sum(s.units * unit_seconds(s, self.core, gpus)[1] for s in _with_calls(stages, p, facts, counted))
        return spent / sum(s.total for s in stages)

    def lines(self) -> list[str]:
        """How the rates are known."""
        return [line for rates in (self.core, self.gpu) if rates is not None for line in rates.known_by()]

    def tree(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        return canonical(self.tree()) + "\n"

    @classmethod
    def of_text(cls, body: str) -> Pace:
        """What `text` wrote."""
        tree = strict_json.mapping(body.encode())
        return cls(Rates(**tree["core"]), None if tree["gpu"] is None else Rates(**tree["gpu"]))


def on_gpu(config: Config) -> bool:
    """Whether images are drawn on GPUs."""
    return config.sample.num_gpus > 0 and config.sample.device != "cpu"


def gpu(record: RateRecord | None) -> str | None:
    """Of which GPU something is known, by its name: that of the record, or this machine's."""
    (node,) = this_machine().nodes
    names = [record.device if record is not None and record.peak is not None else None, node.gpu]
    return next((known for name in names if name is not None and (known := model(name)) is not None), None)


def of_record(config: Config, record: RateRecord | None) -> Pace:
    """By bounds and what was measured over them. Raises ValueError where images are drawn on a GPU nobody knows."""
    core, name = of_core(), gpu(record) if on_gpu(config) else None
    if on_gpu(config) and name is None:
        raise ValueError("nothing is known of the GPUs that draw")
    core = core if record is None else record.on(core)
    if name is None:
        return Pace(_of_kinds(core, (*NETWORKS, *BESIDE)))
    known = of_gpu(name)
    return Pace(_of_kinds(core, BESIDE), _of_kinds(known if record is None else record.on(known), NETWORKS))


def _of_kinds(rates: Rates, kinds: Sequence[str]) -> Rates:
    return Rates(rates.device, {k: rates.per_s[k] for k in kinds}, {k: rates.how[k] for k in kinds})


def _with_calls(stages: Sequence[StageLoad], p: Prepared, facts: Facts, counted: float) -> list[StageLoad]:
    """The stages with as many network calls as were counted, where the plan knows no more than the fewest."""
    v = p.variants[0]
    if v.growth is not None or v.sampling is None:
        return list(stages)
    planned = evaluations(v.sampling, facts.generator) * passes(v.sampling)
    return [replace(s, costs={**s.costs, "denoise": s.costs["denoise"] * counted / planned}) for s in stages]
