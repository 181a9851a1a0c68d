"""What `ray job submit --working-dir .` takes along, by Ray's own packing."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).parents[1]
LARGE = (".git/objects/x.pack", "runs/first/x.parquet", ".venv/lib/x.so", "mlruns/x", "tests/x.py", "docs/x.md")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A clone in which somebody has worked, as Ray uploads it."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("raydistill", "jobs"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", ".rayignore", "pyproject.toml", "constraints.txt", "README.md"):
        shutil.copy2(ROOT / name, clone / name)
    for name in LARGE:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_bytes(bytes(1000))
    target = tmp_path_factory.mktemp("package") / "package.zip"
    create_package(str(clone), target, include_gitignore=True)
    return zipfile.ZipFile(target)


def test_history_runs_and_environments_stay_at_home(packed: zipfile.ZipFile) -> None:
    names = packed.namelist()
    assert not {name.split("/")[0] for name in names} & {name.split("/")[0] for name in LARGE}
    assert sum(info.compress_size for info in packed.infolist()) < 15 * 2**20


def test_the_package_the_jobs_and_their_data_are_taken(packed: zipfile.ZipFile) -> None:
    taken = set(packed.namelist())
    for folder in ("raydistill", "jobs"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert path.relative_to(ROOT).as_posix() in taken
    assert {"pyproject.toml", "constraints.txt"} <= taken
