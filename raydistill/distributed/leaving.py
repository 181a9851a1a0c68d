"""Nodes that are about to go: Ray knows of them by `ray drain-node`, or by a pod of Kubernetes that is ended.

They go on with what they are at; Ray places nothing new there, and neither does a pool. Whatever they do not finish is
tried elsewhere as after any loss.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping

from raydistill.progress import say

PROBED_EVERY_S = 2.0


def draining() -> Mapping[str, int]:
    """Nodes by their id, and when they go, in milliseconds since 1970; 0 where nobody has said."""
    from ray._private.state import state

    return state.get_draining_nodes()


def soon() -> set[str]:
    """The nodes that are about to go, by their id; none where the head does not answer now."""
    from ray.exceptions import RayError

    with contextlib.suppress(RayError):
        return set(draining())
    return set()


class Leaving:
    """Which nodes are about to go, for a stage that says each once and what that means for it (`meaning`)."""

    def __init__(self, stage: str, meaning: str, ask: Callable[[], Mapping[str, int]] = draining) -> None:
        self.stage, self.meaning, self.ask = stage, meaning, ask
        self.nodes: Mapping[str, int] = {}
        self.probed_at = -PROBED_EVERY_S

    def probe(self) -> None:
        """Asks, if that was not done just now. A private cluster has nobody to take its node away."""
        from ray.exceptions import RayError

        from raydistill.distributed.runtime import may_grow

        now = time.monotonic()
        if not may_grow() or now - self.probed_at < PROBED_EVERY_S:
            return
        self.probed_at, before = now, self.nodes
        with contextlib.suppress(RayError):  # a head that does not answer now is asked again
            self.nodes = dict(self.ask())
        for node, deadline_ms in self.nodes.items():
            if node not in before:
                left = f" in {max(0.0, deadline_ms / 1000 - time.time()):.0f} s" if deadline_ms else ""
                say(self.stage, f"node {node[:12]} is about to go{left}: {self.meaning}")

    def has(self, node: str) -> bool:
        """Whether a node, as IP/ID, is one of them."""
        self.probe()
        return node.partition("/")[2] in self.nodes
