"""A guidance of somebody's own package, with a section and a context: found by entry point in every Ray worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, TINY, environment
from test_docs_examples import EXAMPLES

CODE = EXAMPLES["guidance scaled, method mgd3_scaled"]
RUNS = """
import sys, ray, raydistill
made = []
for power in ("0.5", "1.5"):
    keys = ["method=mgd3_scaled", f"scaled.power={power}", "run_dir=run", "guidance.scale=1", "source.classes=[3,7]"]
    made.append(raydistill.run(raydistill.load("quickstart", [*sys.argv[1:], *keys]), until="sample").syntheses())
assert ray.is_initialized()
assert made[0].pixels.shape == made[1].pixels.shape and (made[0].pixels != made[1].pixels).any()
"""
IDENTITY = "from raydistill import registry; print(registry.identity('guidance', 'scaled'))"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder for sys.path that holds the page's example as an installer leaves a package."""
    site = tmp_path / "site"
    info = site / "my_guidance-0.1.dist-info"
    info.mkdir(parents=True)
    (site / "my_guidance.py").write_text(CODE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-guidance\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(
        "[raydistill.guidance]\nscaled = my_guidance:Scaled\n"
        "[raydistill.method]\nmgd3_scaled = my_guidance:Mgd3Scaled\n"
    )
    return site


def python(code: str, installed: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=installed.parent,
        env=environment(PYTHONPATH=f"{installed}:{ROOT}"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.ray
def test_its_images_are_made_by_ray_workers_and_another_number_makes_others(installed: Path) -> None:
    python(RUNS, installed, *TINY)
    run = installed.parent / "run"
    assert len(list((run / "syntheses").iterdir())) == 2
    assert len(list((run / "latents").iterdir())) == len(list((run / "prototypes").iterdir())) == 1
    assert "power: 1.5" in (run / "config.yaml").read_text()


def test_an_edit_of_its_file_is_another_identity(installed: Path) -> None:
    before = python(IDENTITY, installed)
    assert python(IDENTITY, installed) == before
    (installed / "my_guidance.py").write_text(CODE.replace("clamp(min=1e-12)", "clamp(min=1e-6)"))
    assert python(IDENTITY, installed) != before
