"""A cluster of this process's own: on loopback, with a token that only Ray's processes here hold, in a folder of 0700.

Ray's defaults listen on all addresses, and whoever reaches them runs code as the user. docs/operations.md has what is
open in each mode. The switches below are Ray's own, but not all are public: `tests/test_private.py` holds them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_system_temp_dir
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config

from raydistill import signals
from raydistill.distributed import ending
from raydistill.errors import BadInput

LONGEST_BASE = 29 if os.uname().sysname == "Linux" else 25  # of the 107 (103) characters that a socket's path may have
NOWHERE = "http://127.0.0.1:1"  # a reserved port, which answers nobody
_folders: list[Path] = []  # of the clusters that this process has started


def start(**options: Any) -> None:
    """Starts it; `options` go to ray.init. Raises BadInput if Ray's sockets do not fit below the temporary folder.

    The token is in the environment while Ray's processes start, which hand it to their workers; afterwards only they
    and Ray's memory in this process have it. What the user's environment says about authentication is for clusters
    that are joined: it neither weakens this one nor is it changed.
    """
    path = _new_folder()
    with _environment(
        {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_AUTH_TOKEN_PATH": None,
            "RAY_ENABLE_K8S_TOKEN_AUTH": None,
            ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
        }
    ):
        # "local": with no address at all, Ray would join whatever cluster it finds running on this machine
        ray.init("local", include_dashboard=False, _temp_dir=str(path / "r"), **options)


def folder() -> Path | None:
    """That of the private cluster this process uses, None if it has joined one or none is up."""
    folder_of_ray = Path(ray._private.worker._global_node.temp_dir).parent if ray.is_initialized() else None
    return folder_of_ray if folder_of_ray in _folders else None


def workers_environment() -> dict[str, str]:
    """What keeps workers to this cluster.

    Sockets of torch.distributed ask for no token, so they stay on loopback. Ray Train has a worker that asks Ray's web
    server each second whether the training's controller lives, and where it does not takes the training's places away;
    there is no such server here, and it would ask that of any other cluster of this machine, token in hand.
    """
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
    loopback = {key: names[0] for key in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")} if names else {}
    direct = ",".join(filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1"]))
    return loopback | {"RAY_API_SERVER_ADDRESS": NOWHERE, "no_proxy": direct, "NO_PROXY": direct}


def read_authentication() -> None:
    """Makes Ray read its authentication from the environment again: it remembers that of the last cluster."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _environment(wanted: Mapping[str, str | None]) -> Iterator[None]:
    """Sets (None: removes) variables and has Ray take node addresses from loopback while a cluster starts."""
    before = {key: os.environ.get(key) for key in wanted}
    clusters = ray_constants.ENABLE_RAY_CLUSTER
    _put(wanted)
    ray_constants.ENABLE_RAY_CLUSTER = False  # read from the environment when Ray was imported
    read_authentication()
    try:
        yield
    finally:
        _put(before)
        ray_constants.ENABLE_RAY_CLUSTER = clusters


def _put(values: Mapping[str, str | None]) -> None:
    for key, value in values.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


def base_folder() -> Path:
    """Where the folders of private clusters are made. Raises BadInput if Ray's sockets do not fit below it."""
    base = Path(get_default_system_temp_dir()).absolute()
    if len(os.fsencode(base)) > LONGEST_BASE:
        raise BadInput(
            f"ray: {base} is too long for the paths of Ray's sockets; set RAY_TMPDIR to a folder of at most "
            f"{LONGEST_BASE} characters"
        )
    return base


def _new_folder() -> Path:
    """A new folder that nobody else may enter; Ray opens what it makes below to all. Removed when this process ends."""
    base = base_folder()
    base.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="r", dir=base))
    _folders.append(path)
    atexit.register(_remove, path)
    signals.remove_last(str(path))
    return path


def _remove(path: Path) -> None:
    ending.shutdown()
    shutil.rmtree(path, ignore_errors=True)
