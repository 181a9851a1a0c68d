"""What the driver's machine does meanwhile, in the names under which MLflow shows system metrics."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

EVERY_S = 10.0


class MachineWatch:
    """Tells `listener` of means over EVERY_S, with the number of the sample, until it is stopped."""

    def __init__(self, listener: Callable[[Mapping[str, float], int], None], first: int) -> None:
        self.listener, self.number = listener, first
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="system metrics")

    def __enter__(self) -> MachineWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        monitors = _monitors()
        for monitor in monitors:  # what is counted since the last time begins here
            monitor.collect_metrics()
            monitor.clear_metrics()
        while not self._over.wait(EVERY_S):
            values: dict[str, float] = {}
            for monitor in monitors:
                monitor.collect_metrics()
                values |= {f"system/{k}": float(v) for k, v in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
            self.listener(values, self.number)
            self.number += 1


def _monitors() -> list:
    """MLflow's own. Those of GPUs need the vendor's library, and are left out without it."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        import pynvml  # noqa: F401

        monitors.append(GPUMonitor())
    except (ImportError, RuntimeError):
        pass
    return monitors
