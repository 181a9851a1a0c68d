"""Where a run comes from: the command, the version and commit of the code, who gave it."""

from __future__ import annotations

import contextlib
import getpass
import shlex
import subprocess
import sys
from pathlib import Path

import raydistill

GIT_S = 10.0


def tags() -> dict[str, str]:
    """In MLflow's own words where it has some."""
    values = {
        "raydistill.version": raydistill.__version__,
        "raydistill.command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.type": "LOCAL",
    }
    with contextlib.suppress(KeyError, OSError):  # a container's user without a name
        values["mlflow.user"] = getpass.getuser()
    if commit := git_commit():
        values["mlflow.source.git.commit"] = commit
        values["raydistill.git.changed"] = str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower()
    return values


def git_commit() -> str:
    """Of the checkout that this code is run from, "" if it is installed."""
    return _git("rev-parse", "HEAD") if _git("ls-files", "__init__.py") else ""


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=GIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
