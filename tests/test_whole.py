"""A folder of a checkpoint is there whole or not at all, and a killed writer leaves nothing for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raydistill.models.whole import whole_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from raydistill.models.whole import whole_folder
with whole_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def write(out: Path) -> None:
    with whole_folder(out) as folder:
        (folder / "file").write_text("all of it")


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "pipeline")], check=False)
    (left,) = tmp_path.iterdir()
    assert ended.returncode == -signal.SIGKILL and left.name.startswith(".pipeline.") and os.listdir(left) == ["half"]
    with whole_folder(tmp_path / "other"):
        assert left.is_dir(), "it is of another folder"
    write(tmp_path / "pipeline")
    assert sorted(os.listdir(tmp_path)) == ["other", "pipeline"]
    assert os.listdir(tmp_path / "pipeline") == ["file"]


def test_what_somebody_is_writing_stays(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as mine:
        write(tmp_path / "out")
        assert mine.is_dir()
        (tmp_path / "out" / "file").unlink()
    assert os.listdir(tmp_path) == ["out"]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError), whole_folder(Path("out")):
        raise ZeroDivisionError
    assert not os.listdir(tmp_path)
