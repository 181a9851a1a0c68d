"""The machines that a run would have: those of a cluster file at the prices of another, or this one."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from raydistill.config import text as yaml
from raydistill.distributed.resources import Reservation, Room
from raydistill.errors import BadInput, one_line, printable

UP_S = 300.0  # assumed, of a machine that is asked for: its start, the image, the set-up commands
LOCAL = "local"
MAX_WORKERS = (
    2  # of all types together where a file says nothing: Ray's own default on AWS, on Google Cloud and on Azure
)


@dataclass(frozen=True)
class Price:
    """An hour of a machine, and the GPU that it has."""

    on_demand: float
    spot: float
    gpu: str | None = None


@dataclass(frozen=True)
class Prices:
    date: str
    currency: str
    note: str
    nodes: Mapping[str, Price]


@dataclass(frozen=True)
class Node:
    """A type of machine of which there are up to `count`. `price` an hour, None where nobody pays. `gpu` by name."""

    name: str
    count: int
    room: Room
    gpu: str | None
    spot: bool
    price: float | None

    def workers(self, reservation: Reservation, threads: int) -> int:
        """How many of them one machine takes at once; as many as compute, of those that use no GPU."""
        fits = replace(reservation, spare=0).fits(self.room)
        computing = math.inf if reservation.num_gpus else self.room.cpus // threads
        most = min(fits, computing)
        return int(most) if math.isfinite(most) else int(self.room.cpus)


@dataclass(frozen=True)
class Fleet:
    """`head` holds the driver. `idle_s`: so long a machine that has nothing to do is still paid."""

    name: str
    head: Node | None
    nodes: tuple[Node, ...]
    up_s: float
    idle_s: float
    prices: Prices | None = None

    @property
    def gpus(self) -> int:
        return int(sum(n.count * n.room.gpus for n in self.nodes))

    @property
    def cores(self) -> float:
        return sum(n.count * n.room.cpus for n in self.nodes)


def this_machine() -> Fleet:
    """This machine, with the GPUs that torch sees; nobody pays it by the hour."""
    import torch

    gpus = torch.cuda.device_count()
    gpu = torch.cuda.get_device_name() if gpus else None
    return Fleet("this machine", None, (Node(LOCAL, 1, Room(os.cpu_count() or 1, gpus), gpu, False, None),), 0.0, 0.0)


def prices(path: str | None) -> Prices:
    """Of a file, or those that ship. Raises BadInput."""
    packaged = resources.files("raydistill.planning") / "prices.yaml"
    name = path or "prices.yaml"
    try:
        tree = yaml.read(packaged.read_text("utf-8") if path is None else Path(path).read_text("utf-8"))
        nodes = {str(kind): _price(kind, entry) for kind, entry in tree["nodes"].items()}
        date, currency, note = (printable(str(tree[key])) for key in ("date", "currency", "note"))
        return Prices(date, currency, note, nodes)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise BadInput(
            f"--prices {name}: {_said(e)}; it holds date, currency, note and nodes: "
            "{TYPE: {on_demand: N, spot: N, gpu: NAME}}"
        ) from None


def _price(kind: str, entry: Mapping[str, Any]) -> Price:
    if not isinstance(entry, dict) or not {"on_demand", "spot"} <= set(entry) <= {"on_demand", "spot", "gpu"}:
        raise ValueError(f"{kind} has other keys than on_demand, spot and gpu")
    for key in ("on_demand", "spot"):
        value = entry[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
            raise ValueError(f"{kind}: {key}={value!r} is no price")
    gpu = entry.get("gpu")
    if isinstance(gpu, bool) or not isinstance(gpu, str | int | None):
        raise ValueError(f"{kind}: gpu={gpu!r} is no name")
    return Price(float(entry["on_demand"]), float(entry["spot"]), None if gpu is None else str(gpu))  # 4090 is one


def read(path: str, known: Prices, gpus: int | None) -> Fleet:
    """The machines of a cluster file as `ray up` takes it, types in its order; with `gpus`, as if it had so many, and
    of every type of worker as many more. Raises BadInput."""
    try:
        tree = yaml.read(Path(path).read_text("utf-8"))
        kinds, first = tree["available_node_types"], tree["head_node_type"]
        head = _node(first, kinds[first], 1, known)
        bound = int(tree.get("max_workers", MAX_WORKERS))
        # as Ray fills it in: of a type of worker as many as of all, and of the head's but the head
        counts = {name: int(kind.get("max_workers", 0 if name == first else bound)) for name, kind in kinds.items()}
        idle_s = 60.0 * float(tree.get("idle_timeout_minutes", 5))
        nodes = [_node(name, kinds[name], count, known) for name, count in counts.items() if count]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise BadInput(
            f"--cluster {path}: {_said(e)}; give a cluster file as `ray up` takes it (cluster.yaml)"
        ) from None
    if gpus is not None:
        have = sum(n.count * n.room.gpus for n in nodes)
        if not have:
            raise BadInput(f"--gpus {gpus}: no worker of {path} has a GPU; leave it out")
        factor = gpus / have
        bound, nodes = math.ceil(bound * factor), _scaled(nodes, factor, gpus)
    nodes = _bounded(nodes, max(bound, gpus or 0))
    if not nodes:
        raise BadInput(f"--cluster {path}: no type of worker has max_workers above 0, or that of all is 0; raise it")
    return Fleet(path, head, tuple(nodes), UP_S, idle_s, known)


def _scaled(nodes: list[Node], factor: float, gpus: int) -> list[Node]:
    """As many more of each; of those with GPUs just enough for `gpus`, the first types first."""
    scaled, left = [], float(gpus)
    for n in nodes:
        count = math.ceil(n.count * factor)
        if n.room.gpus:
            count = min(count, math.ceil(left / n.room.gpus))
            left -= count * n.room.gpus
        scaled.append(replace(n, count=count))
    return scaled


def _bounded(nodes: list[Node], most: int) -> list[Node]:
    """At most so many in all, the first types first."""
    kept = []
    for n in nodes:
        count = min(n.count, most)
        most -= count
        kept += [replace(n, count=count)] if count else []
    return kept


def _node(name: Any, kind: Mapping[str, Any], count: int, known: Prices) -> Node:
    config, has = kind["node_config"], kind.get("resources") or {}
    machine = config.get("InstanceType") or config.get("machineType")
    if not machine:
        raise ValueError(f"{name} names neither an InstanceType nor a machineType")
    market = (config.get("InstanceMarketOptions") or {}).get("MarketType")
    spot = market == "spot" or (config.get("scheduling") or {}).get("provisioningModel") == "SPOT"
    price = known.nodes.get(machine)
    if price is None:
        raise ValueError(f"{machine} of {name} has no price (prices of {known.date}); add it in a file for --prices")
    room = Room(float(has.get("CPU", 0)), float(has.get("GPU", 0)))
    if room.gpus and price.gpu is None:
        raise ValueError(f"{machine} of {name} has a GPU whose name the prices do not say; add gpu: NAME there")
    return Node(str(name), count, room, price.gpu if room.gpus else None, spot, price.spot if spot else price.on_demand)


def _said(e: Exception) -> str:
    return f"it has no {one_line(e)}" if isinstance(e, KeyError) else one_line(e)
