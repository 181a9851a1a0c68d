"""A folder of one's own and nothing else: a generator is trained for it, distilled with, and found again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from running import ROOT, environment
from samples import write_folder

SMALL = [
    *("pretrain.steps=2", "pretrain.batch=4", "pretrain.vae_channels=[8,8]", "pretrain.layers=1", "pretrain.heads=2"),
    *("pretrain.head_dim=8", "sampler.steps=3", "sampler.cfg_scale=1", "ipc=1", "evaluate.seeds=1"),
    *("evaluate.width=8", "evaluate.protocol.visits=32", "evaluate.protocol.evaluations=1", "evaluate.full=false"),
    *("metrics.names=[]", "ray.object_store_mb=128"),
]


def distilled(here: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(ROOT / "jobs" / "distill.py"), "source.path=pets", *more]
    return subprocess.run(words, cwd=here, env=environment(), text=True, capture_output=True, timeout=500, check=False)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", [[], ["artifact_dir=made/new"]])
def test_a_generator_is_trained_first_and_found_by_later_runs(tmp_path: Path, place: list[str]) -> None:
    (write_folder(tmp_path / "set", {"train": 10}) / "train").rename(tmp_path / "pets")
    done = distilled(tmp_path, "generator.path=train", *SMALL, *place)
    assert done.returncode == 0, done.stderr[-3000:]
    run = Path(done.stdout.splitlines()[-1])
    assert run == tmp_path / "runs" / "folder-pets" and (run / "distilled").is_dir()
    assert "generator     trained first, about " in done.stderr and "mgd3, with the generator" in done.stderr
    kept = yaml.safe_load((run / "config.yaml").read_text())
    models = tmp_path / ("made/new" if place else "runs") / "models"
    assert {Path(kept[name]["path"]).parent for name in ("vae", "generator")} == {models}
    assert kept["method"] == "mgd3" and kept["source"]["val"] == "split:0.2"
    assert sorted(p.name.partition("-")[0] for p in models.iterdir()) == ["generator", "vae"]

    later_run = ["run_dir=runs/later", "sampler.steps=4", "--dry-run"]
    later = distilled(tmp_path, "generator.path=train", *SMALL, *place, *later_run)
    assert later.returncode == 0 and "would be carried to report" in later.stdout, later.stderr[-2000:]
