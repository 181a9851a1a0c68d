"""The quickstart's product, byte for byte as it was: a refactoring changes no image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from running import product

from raydistill.config import load
from raydistill.identity import digest
from raydistill.pipeline import job
from raydistill.pipeline.preflight import prepare
from raydistill.stages.runner import serial

MADE_ON = ("2.13.0", "AVX512", "AuthenticAMD")  # networks round otherwise by other code, instructions or libraries
DISTILLED = {
    "README.md": "9ed635dd41e2b1fe1e74e1e366e91371e98cf34032cde6f8762253ae06c4e50b",
    "data/train-00000-of-00001.parquet": "2c2eae6c965727733fdf8ffd75e1bc943840eb09de7bb4379d74c5763307bff3",
}


def here() -> tuple[str, str, str]:
    """What rounds: torch, its instructions, and whose processor it is."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    vendor = next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
    return torch.__version__.partition("+")[0], torch.backends.cpu.get_cpu_capability(), vendor


def test_the_distilled_digits_are_what_they_were(tmp_path: Path) -> None:
    """`python jobs/distill.py`, up to the syntheses and without Ray, which decides no byte."""
    if here() != MADE_ON:
        pytest.skip(f"the digests were taken with {MADE_ON}, and this is {here()}")
    asked = load("quickstart", [f"run_dir={tmp_path / 'run'}", "evaluate.baselines=[]"])
    job.run(prepare(asked, evaluate=False), "sample", execute=serial)
    digests = {name: digest(data) for name, data in product(tmp_path / "run").items()}
    assert digests == DISTILLED
