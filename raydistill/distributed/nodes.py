"""On several machines each node first proves that it sees run_dir, source and weights.

The private local cluster has one node, this one, and is never asked. A cluster that grows is asked again before each
stage and, while one runs, whenever nodes have joined; a node that has proven itself is not asked twice.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from raydistill.config import RayConfig
from raydistill.distributed import leaving
from raydistill.distributed.visibility import Needs, laid_out, probe, unanswered
from raydistill.errors import BadInput, RaydistillError, first_of, one_line
from raydistill.progress import say

T = TypeVar("T")
AGAIN_S = 5.0  # while a stage runs, new nodes are looked for this often
SHOWN = 4  # nodes that are named one by one
PLACES = {"run_dir", "artifact_dir", "source.path"}  # what can be a URI
WEIGHTS = {"vae.path", "generator.path"}  # what can be an id on the hub


def joins(config: RayConfig) -> str | None:
    """The address of the cluster that a run joins, None if it starts its own."""
    address = config.address or os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address  # Ray's word for a cluster of one's own


class Nodes:
    """The nodes of the cluster that is joined. `needs` is called when there is a node that has not proven itself."""

    def __init__(self, config: RayConfig, needs: Callable[[], Needs]) -> None:
        self.config, self.needs = config, needs
        self.proven: set[str] = set()

    def prove(self) -> None:
        """Asks the nodes that have not proven themselves, all at once. Ray must be up.

        Raises BadInput naming every node that does not see something, or does not answer by ray.nodes_deadline_s.
        """
        if not joins(self.config):
            return
        alive = living()
        going = leaving.soon()  # Ray places nothing there any more, so they cannot be asked either
        new = {i: name for i, name in alive.items() if i not in self.proven and i not in going}
        if len(alive) < 2 or not new:
            return
        blind = self._ask(new)
        if blind:
            raise BadInput(complaint(blind))
        self.proven |= set(new)
        say("nodes", f"{len(new)} of {len(alive)} proved that they see run_dir, source and weights")

    def watch(self, records: Iterator[T]) -> Iterator[T]:
        """The records of stages; nodes that join while they run are asked between them, and when one fails."""
        self.prove()
        last = time.monotonic()
        while True:
            try:
                record = next(records, None)
            except RaydistillError:
                self.prove()  # work that failed on a node which does not see its input is that node's fault
                raise
            if record is None:
                return
            yield record
            if time.monotonic() - last > AGAIN_S:
                self.prove()
                last = time.monotonic()

    def _ask(self, new: dict[str, str]) -> list[tuple[str, list[str]]]:
        """(node, what it does not see) for those that fail. One that died meanwhile, or is about to go, is none."""
        import ray
        from ray.exceptions import RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        wanted, answers = self.needs(), list[tuple[str, list[str]]]()
        with laid_out(wanted, list(new)):
            ask = ray.remote(probe)
            node_of = {
                ask.options(
                    num_cpus=0, max_retries=2, scheduling_strategy=NodeAffinitySchedulingStrategy(i, soft=False)
                ).remote(wanted, i): i
                for i in new
            }
            done, late = ray.wait(list(node_of), num_returns=len(node_of), timeout=self.config.nodes_deadline_s)
            for ref in done:
                try:
                    missing = ray.get(ref) or unanswered(wanted, node_of[ref])
                except RayError as e:
                    missing = [f"this program, or cannot run it ({last_line(e)})"]
                answers.append((node_of[ref], missing))
            for ref in late:
                ray.cancel(ref, force=True)
                answers.append((node_of[ref], [f"the driver: no answer for {self.config.nodes_deadline_s:g} s"]))
        staying = living().keys() - leaving.soon()
        return [(new[i], missing) for i, missing in answers if missing and i in staying]


def living() -> dict[str, str]:
    """Node id -> name of the nodes that are alive; nodes of one name are told apart by the beginning of their id."""
    import ray

    alive: list[dict[str, Any]] = [n for n in ray.nodes() if n["Alive"]]
    names = Counter(n["NodeName"] for n in alive)
    return {
        n["NodeID"]: n["NodeName"] if names[n["NodeName"]] == 1 else f"{n['NodeName']}/{n['NodeID'][:8]}" for n in alive
    }


def complaint(blind: Sequence[tuple[str, list[str]]]) -> str:
    """One line: nodes that miss the same things together."""
    by_things: dict[tuple[str, ...], list[str]] = {}
    for node, missing in blind:
        by_things.setdefault(tuple(missing), []).append(node)
    sentences = []
    for things, named in by_things.items():
        verb = "does" if len(named) == 1 else "do"
        sentences.append(f"{first_of(named, SHOWN)} {verb} not see {', '.join(things)}")
    keys = {thing.partition(" ")[0] for things in by_things for thing in things}
    remedies = ["mount it there under the same path"]
    remedies += ["give an s3:// or gs:// URI"] if keys & PLACES else []
    fetch = "fill that node's cache, too, with weights of the hub (`hf download`, of the revision that the driver has)"
    remedies += [fetch] if keys & WEIGHTS else []
    return f"nodes: {'; '.join(sentences)}; {', '.join(remedies)}, or take the node out of the cluster"


def last_line(e: BaseException) -> str:
    lines = [line for line in str(e).splitlines() if line.strip()]
    return one_line(lines[-1])[:200] if lines else type(e).__name__
