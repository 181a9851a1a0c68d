"""Which node did which unit: logs/placement/STAGE-FINGERPRINT.json. For people and tests; no byte depends on it."""

from __future__ import annotations

from collections.abc import Mapping

from raydistill import strict_json
from raydistill.identity import canonical
from raydistill.store.artifact import Artifact
from raydistill.store.location import Location


def node_id() -> str:
    """This worker's node, as IP/ID with Ray's whole node id."""
    import ray

    return f"{ray.util.get_node_ip_address()}/{ray.get_runtime_context().get_node_id()}"


def keep(logs: Location, artifact: Artifact, nodes: Mapping[str, str]) -> None:
    """Adds unit -> node to what earlier runs have left."""
    if not nodes:
        return
    location = logs / "placement" / f"{artifact.stage}-{artifact.fingerprint}.json"
    try:
        old = strict_json.mapping(location.read())
    except (FileNotFoundError, ValueError):
        old = {}
    location.write(canonical({**old, **nodes}).encode())
