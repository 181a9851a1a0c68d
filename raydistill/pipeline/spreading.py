"""How the stages of a run spread over the nodes of a Ray cluster, and what every node has to see for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from raydistill.distributed import node_log
from raydistill.distributed.nodes import Nodes
from raydistill.distributed.visibility import needs
from raydistill.errors import RaydistillError
from raydistill.models.classifier import ClassifierSpec
from raydistill.stages import runner
from raydistill.stages.runner import Execute, Stage, Together
from raydistill.state import Prepared
from raydistill.store.artifact import Record


def on_ray(p: Prepared, nodes: Nodes) -> Execute:
    """Spreads over Ray, which is imported with the first stage that has work: a finished run answers at once."""

    def execute(stage: Stage, todo: Sequence[str]) -> Iterator[Record]:
        if stage.style == "driver":
            return runner.serial(stage, todo)
        from raydistill.distributed import executors

        return nodes.watch(executors.on_ray(p.config.ray, keeper(p))(stage, todo))

    return execute


def together_on_ray(p: Prepared, nodes: Nodes) -> Together:
    """As `on_ray`, for several stages of actors at once."""

    def execute(requested: Sequence[tuple[Stage, Sequence[str]]]) -> Iterator[tuple[Stage, Record | RaydistillError]]:
        from raydistill.distributed import executors

        return nodes.watch(executors.together_on_ray(p.config.ray, keeper(p))(requested))

    return execute


def keeper(p: Prepared) -> Callable[[Stage, Mapping[str, str]], None]:
    """Keeps which node did which unit of a stage."""
    return lambda stage, where: node_log.keep(p.run.root / "logs", stage.artifact, where)


def nodes_of(p: Prepared) -> Nodes:
    """The nodes that will work on a run, and what they have to see."""
    specs = {"vae.path": p.vae, "generator.path": p.generator, "features.path": p.features, "teacher.path": p.teacher}
    every = [one for v in p.variants for one in v.makers()]
    specs |= {
        f"{role}.path": n
        for v in every
        if v.sampling
        for role, n in v.sampling.networks.items()
        if isinstance(n, ClassifierSpec)
    }
    for decoder in (v.sampling.decoder for v in every if v.sampling):
        specs["learnability.decoder"] = decoder or specs.get("learnability.decoder")
    models = {key: spec.path for key, spec in specs.items() if spec is not None}
    return Nodes(p.config.ray, lambda: needs(p.run, p.config.source, [p.splits.train, p.splits.test], models))
