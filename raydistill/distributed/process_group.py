"""How the workers of Ray Train find each other without a port that anybody may use.

Ray Train's own way, a TCPStore, listens on all addresses and asks for no token.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import (
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
)

from raydistill.distributed import private


@dataclass
class NoGroup(TorchConfig):
    """For workers that share nothing."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _NoGroupBackend


@dataclass
class FileGroup(TorchConfig):
    """For the workers of one machine: they meet in a new file below `folder`, which only its owner may enter."""

    folder: str = ""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _FileBackend


def for_gradients() -> TorchConfig:
    """Of workers that share gradients. Ray must be up; on a cluster of several machines it is Ray Train's own."""
    folder = private.folder()
    return TorchConfig() if folder is None else FileGroup(folder=str(folder))


class _NoGroupBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        pass


class _FileBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: FileGroup) -> None:
        gpus = worker_group.get_resources_per_worker().get("GPU", 0)
        worker_group.execute(_set_torch_distributed_env_vars)
        meeting = Path(backend_config.folder) / f"group-{uuid.uuid4().hex}"  # a new one for every attempt
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend=backend_config.backend or ("nccl" if gpus else "gloo"),
                    world_rank=rank,
                    world_size=len(worker_group),
                    init_method=meeting.as_uri(),
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(len(worker_group))
            ]
        )
