"""Fixtures that every test may use."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from artifacts import at, work
from hypothesis import settings
from listeners import Watch
from running import finish
from samples import write_folder
from together import (  # noqa: F401
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_testnodedown,
    pytest_xdist_make_scheduler,
)

from raydistill import cli
from raydistill.pipeline import job
from raydistill.store.artifact import Manifest

if TYPE_CHECKING:
    from hub_server import Hub

# Started in the background of a shell, or by nohup: programs would inherit that these are ignored.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("raydistill", deadline=None, max_examples=50)  # machines differ in speed
settings.load_profile("raydistill")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def _no_cluster_is_handed_on() -> Iterator[None]:
    """A file that starts Ray in this process ends it too: the next one may change what Ray reads when it starts."""
    yield
    if "ray" in sys.modules:
        from raydistill.distributed import ending

        ending.shutdown()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data and weights beside the checkout; tests that need it are skipped where it is not."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("no ../shared folder with test data beside the checkout")
    return path


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """A small ImageFolder: train (4 a class) and val (2 a class) of the colours blue, green and red, 12x10 pixels."""
    return write_folder(tmp_path / "tiny", {"train": 4, "val": 2})


@pytest.fixture
def undisturbed(tmp_path: Path) -> Manifest:
    """The manifest of the small stage of `artifacts`, done without a disturbance under tmp_path/undisturbed."""
    return work(at(tmp_path / "undisturbed"))


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refused(*argv) runs the command line in an empty folder and returns its one line. Nothing may be written."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(job, "run", lambda *_, **__: pytest.fail("work began"))

    def call(*argv: str) -> str:
        placed = argv[0] == "pretrain" or any(a.startswith(("run_dir=", "--run")) for a in argv)
        run_dir = [] if placed else [f"run_dir={tmp_path / 'run'}"]
        assert cli.main([*argv[:1], *run_dir, *argv[1:]]) == 2
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if not line.startswith("source ")]
        assert len(lines) == 1 and lines[0].startswith("error: ") and not out, err
        assert not (tmp_path / "run").exists() and not list(here.iterdir())
        return lines[0]

    return call


@pytest.fixture(scope="session")
def watched_reference(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str], Watch]:
    """The run that nothing disturbed, by the command line on a local cluster: its directory, words and ports."""
    run, watch = tmp_path_factory.mktemp("reference") / "Läufe 1", Watch()
    done = finish(run, watch=watch)
    assert done.returncode == 0, done.stderr[-3000:]
    return run, done, watch


@pytest.fixture(scope="session")
def reference(
    watched_reference: tuple[Path, subprocess.CompletedProcess[str], Watch],
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The directory of the run that nothing disturbed, and what it said."""
    return watched_reference[:2]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the client is pointed at, with an empty cache; nothing lies in the working directory."""
    from hub_server import Hub, Server
    from huggingface_hub import constants

    server = Server(hub := Hub())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield hub
    server.close()


@pytest.fixture
def offline(served: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return served


@pytest.fixture
def unreachable(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens where the hub should be."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{s.getsockname()[1]}")


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB, or of as many as it is parametrized by."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    size = getattr(request, "param", 256)
    command = [str(mount), "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
