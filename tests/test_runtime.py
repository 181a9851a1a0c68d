"""The environment of Ray's workers."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from raydistill.distributed.runtime import WORKER_ENV

FAULTS = """
import resource, threading, torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(1 << 25)
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
found = []
thread = threading.Thread(target=lambda: [faults() for _ in range(4)])
thread.start()
thread.join()
print(found[-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told")
def test_a_training_keeps_the_memory_of_its_last_step() -> None:
    """128 MiB again and again in a thread that is not the first, as Ray Train's loop is: pages are faulted in once."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | WORKER_ENV
    done = subprocess.run([sys.executable, "-c", FAULTS], env=env, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000, "of 163,840 pages"
