"""`raydistill plan --cluster`: what a run would take on these machines, stage by stage. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raydistill.config import Config
from raydistill.distributed.resources import trained_on_gpus
from raydistill.errors import BadInput
from raydistill.planning import facts as known
from raydistill.planning import fleet as fleets
from raydistill.planning import rates, report
from raydistill.planning.fleet import LOCAL, Fleet
from raydistill.planning.rates import Rates
from raydistill.planning.schedule import Machines, schedule
from raydistill.planning.training import pretraining
from raydistill.planning.workload import works
from raydistill.results import costs
from raydistill.results.costs import Cost
from raydistill.store.location import Location


@dataclass(frozen=True)
class Options:
    """What the command line says beside the configuration. `run` is one whose seconds stand beside the plan."""

    cluster: str
    prices: str | None = None
    gpus: int | None = None
    rates: Sequence[str] = ()
    write_rates: str | None = None
    losses: float = 0.0
    run: str | None = None

    def check(self) -> None:
        """Raises BadInput for options that do not go together."""
        local = self.cluster == LOCAL
        for name, value in (("--prices", self.prices), ("--gpus", self.gpus), ("--losses-per-hour", self.losses)):
            if local and value:
                raise BadInput(f"{name} is of a cluster, and --cluster {LOCAL} is this machine; leave one out")
        if self.write_rates and (not local or self.rates):
            raise BadInput(f"--write-rates keeps what is measured here: with --cluster {LOCAL} and without --rates")
        if self.gpus is not None and not 1 <= self.gpus <= 100_000:
            raise BadInput(f"--gpus {self.gpus}: give a number from 1 to 100000")
        if not 0 <= self.losses <= 60:
            raise BadInput(f"--losses-per-hour {self.losses:g}: give a number from 0 to 60, of each spot machine")


def main(config: Config, options: Options) -> str:
    """The plan as text. Raises BadInput."""
    options.check()
    measured = [rates.read(path) for path in options.rates]
    fleet = fleets.this_machine() if options.cluster == LOCAL else _cluster(options)
    config, variants, facts = known.gather(config)
    if options.cluster == LOCAL and not measured:
        from raydistill.planning.probe import in_worker

        probed = in_worker(config)
        measured = [probed]
        if options.write_rates:
            _write(options.write_rates, rates.text(probed))
    crewed = machines(fleet, measured, options.losses)
    before = pretraining(config, facts, trained_on_gpus(config.pretrain.num_gpus, fleet.gpus))
    stages = schedule([*before, *works(config, variants, facts)], crewed)
    title = f"{config.method}, ipc={config.ipc}, on {fleet.name}; nothing is written"
    return report.text(title, stages, facts, crewed, _taken(options.run))


def machines(fleet: Fleet, measured: Sequence[rates.RateRecord], losses: float) -> Machines:
    """The fleet with what is known of its rates: bounds, and over them what was measured."""

    def best(rate: Rates) -> Rates:
        for record in measured:
            rate = record.on(rate)
        return rate

    gpus = {n.gpu: best(rates.of_gpu(n.gpu)) for n in fleet.nodes if n.gpu is not None}
    return Machines(fleet, best(rates.of_core()), gpus, losses)


def _cluster(options: Options) -> Fleet:
    return fleets.read(options.cluster, fleets.prices(options.prices), options.gpus)


def _write(path: str, body: str) -> None:
    try:
        Path(path).write_text(body)
    except OSError as e:
        raise BadInput(f"--write-rates {path}: {e.strerror}; give a file that can be written") from None


def _taken(run: str | None) -> Mapping[str, Cost] | None:
    return None if run is None else costs.read(Location.of(run))
