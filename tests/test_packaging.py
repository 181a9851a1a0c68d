"""What is handed on: a source archive with the pages and the jobs, and one version wherever one is written."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import raydistill

ROOT = Path(__file__).parents[1]


def test_the_version_is_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == raydistill.__version__ and project["license"] == "Apache-2.0"
    assert f"\nversion: {raydistill.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {raydistill.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_archives_hold_what_they_should(tmp_path: Path) -> None:
    """Built offline from a copy, since a build leaves folders behind."""
    copy = tmp_path / "copy"
    shutil.copytree(
        ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".*", "shared", "runs", "tests", "*.egg-info")
    )
    code = f"from setuptools import build_meta as b; b.build_sdist({str(tmp_path)!r}); b.build_wheel({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        kept = {name.partition("/")[2] for name in archive.getnames()}
        info = next(m for m in archive.getnames() if m.count("/") == 1 and m.endswith("PKG-INFO"))
        about = archive.extractfile(info).read().decode()  # type: ignore[union-attr]
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        assert wheel.read("raydistill/constraints.txt") == (ROOT / "constraints.txt").read_bytes()
        assert "raydistill/presets/quickstart.yaml" in wheel.namelist()
    wanted = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "jobs").glob("*.py"), *ROOT.glob("*.md"), ROOT / "CITATION.cff"]
    assert len(wanted) > 20 and {p.relative_to(ROOT).as_posix() for p in wanted} <= kept
    assert re.search(r"^License-Expression: Apache-2.0$", about, re.M) and "Author: raydistill maintainers" in about
