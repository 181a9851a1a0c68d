"""The suite side by side: a file's tests in one process, and all files that read the run of `reference` in one; and a
process that dies ends the run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

CONFTEST = """
import os, pytest
from together import *

@pytest.fixture(scope="session")
def watched_reference(pytestconfig):
    (pytestconfig.rootpath / f"built-{os.getpid()}").touch()

@pytest.fixture(scope="session")
def reference(watched_reference):
    pass

@pytest.fixture(autouse=True)
def _taken(request, pytestconfig):
    with open(pytestconfig.rootpath / "taken", "a") as f:
        f.write(f"{request.path.name} {os.getpid()}\\n")
"""
PLAIN = "import pytest\n" + "".join(f"def test_{i}(): pass\n" for i in range(6))
RAY, READS = PLAIN + "pytest.mark.ray(test_5)\n", PLAIN + "def test_reads(reference): pass\n"
SLOW = PLAIN + "@pytest.mark.slow\ndef test_reads(reference): pass\n"
XDIST = ("-p", "xdist.plugin")  # other plugins take seconds to load, in each process
FILES = {"test_a": PLAIN, "test_b": SLOW, "test_c": RAY, "test_d": READS, "test_e": PLAIN, "test_f": READS}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  ray\n  slow\naddopts = -m 'not slow'\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def ran(suite: Path, *options: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=suite,
        env={**kept, "PYTHONPATH": str(Path(__file__).parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
    )


def taken(suite: Path, *options: str) -> dict[str, list[str]]:
    """Process -> the file of every test that it had, one after the other."""
    done = ran(suite, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    by_process: dict[str, list[str]] = {}
    for line in (suite / "taken").read_text().splitlines():
        file, process = line.split()
        by_process.setdefault(process, []).append(file.removesuffix(".py"))
    return by_process


def test_a_file_has_one_process_and_the_reference_is_made_once(suite: Path) -> None:
    one, other = taken(suite, *XDIST, "-n", "2").values()
    assert not set(one) & set(other)
    readers, rest = (one, other) if "test_d" in one else (other, one)
    assert readers[:14] == ["test_d"] * 7 + ["test_f"] * 7, "at first, one after the other"
    assert rest[:6] == ["test_c"] * 6, "and beside them what starts Ray"
    assert len(list(suite.glob("built-*"))) == 1


@pytest.mark.parametrize("options", [(), XDIST])
def test_one_process_has_the_files_in_their_order(suite: Path, options: tuple[str, ...]) -> None:
    (files,) = taken(suite, *options).values()
    assert list(dict.fromkeys(files)) == list(FILES)


@pytest.mark.parametrize("options", [("-m", ""), ("-p", "no:cacheprovider"), ("--dist", "worksteal")])
def test_every_test_is_taken_once(suite: Path, options: tuple[str, ...]) -> None:
    """Slow ones one by one; without a cache the reference may be made twice; --dist is followed."""
    every = Counter(f for files in taken(suite, *XDIST, "-n", "2", *options).values() for f in files)
    readers = (READS, SLOW) if "-m" in options else (READS,)
    assert every == {name: 6 + (text in readers) for name, text in FILES.items()}


@pytest.mark.parametrize("how", ["os._exit(1)", "os.kill(os.getpid(), 9)"])
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_process_that_dies_ends_the_run_with_the_name_of_its_test(suite: Path, processes: str, how: str) -> None:
    """Nobody begins that test again, nor the files that were left; the last test of a file hung its replacement."""
    (suite / "test_d.py").write_text(f"{READS}def test_dies(reference):\n    import os\n    {how}\n")
    done = ran(suite, *XDIST, "-n", processes)
    assert done.returncode == 1 and "crashed while running 'test_d.py::test_dies'" in done.stdout
    assert ("exit code 1" if "exit" in how else "killed by SIGKILL") in done.stdout
    assert "1 failed" in done.stdout.splitlines()[-1] and "test_f" not in (suite / "taken").read_text()


def test_a_process_that_dies_before_the_first_test_ends_the_run(suite: Path) -> None:
    (suite / "test_e.py").write_text("import os\nif os.environ.get('PYTEST_XDIST_WORKER') == 'gw1':\n    os._exit(3)\n")
    done = ran(suite, *XDIST, "-n", "2")
    assert done.returncode == 1 and "exit code 3" in done.stdout and not (suite / "taken").exists()
