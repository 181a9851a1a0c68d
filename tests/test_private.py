"""A local job is private in fact: an attacker without its token, on this machine or beside it, gets nowhere."""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
import pytest
from listeners import listening, on_loopback, tree
from running import ROOT, environment, free_port

from raydistill.distributed import private
from raydistill.errors import BadInput

ATTACKER = str(ROOT / "tests" / "attacker.py")
# A process with a private cluster whose workers have worked, which then tells its nodes as often as it is asked.
HOLDER = """
import functools, os, sys, ray
from ray._private.parameter import RayParams
from raydistill.config import RayConfig
from raydistill.distributed import private
from raydistill.distributed.runtime import ensure_ray
# A second cluster of the machine goes without the agent that takes jobs, whose port is a fixed one.
RayParams.__init__ = functools.partialmethod(RayParams.__init__, dashboard_agent_listen_port=int(sys.argv[1]))
ensure_ray(RayConfig(num_cpus=4, object_store_mb=100))
ray.get([ray.remote(lambda: os.getpid()).remote() for _ in range(3)])
def ask():
    from ray.dashboard.utils import get_address_for_submission_client
    from ray.train.v2._internal.state.util import is_actor_alive
    from ray.util.state.exception import RayStateApiException
    try:
        is_actor_alive("0" * 32, timeout=5)
    except RayStateApiException:
        return get_address_for_submission_client(None)
asked = ray.get(ray.remote(ask).remote())
print(asked, private.folder(), os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN"), flush=True)
for line in sys.stdin:
    print(sum(n["Alive"] for n in ray.nodes()), flush=True)
"""


class Stranger(http.server.ThreadingHTTPServer):
    """A proxy that the environment names. `heard`: the headers of what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Ear)
        self.heard: list[str] = []


class Ear(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.heard.append(str(self.headers))  # type: ignore[attr-defined]
        self.send_error(503)

    def log_message(self, *_: object) -> None: ...


@dataclass
class Held:
    process: subprocess.Popen[str]
    asked: str  # where a worker looks for Ray's web server
    folder: Path
    home: Path
    said: list[str]
    stranger: Stranger

    @property
    def gcs(self) -> psutil.Process:
        return next(p for p in tree(self.process.pid) if p.name() == "gcs_server")

    @property
    def address(self) -> str:
        port = next(c.laddr.port for c in self.gcs.net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN)
        return f"127.0.0.1:{port}"

    @property
    def token(self) -> str:
        """As only this user can know it."""
        return self.gcs.environ()["RAY_AUTH_TOKEN"]

    def nodes(self) -> int:
        stdin, stdout = pipes(self.process)
        stdin.write("\n")
        stdin.flush()
        return int(stdout.readline())


def pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None and process.stdout is not None
    return process.stdin, process.stdout


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    """Started by somebody who has switched authentication off, in the words of Ray's documentation."""
    home, stranger = tmp_path_factory.mktemp("home"), Stranger()
    threading.Thread(target=stranger.serve_forever, daemon=True).start()
    proxy = f"http://127.0.0.1:{stranger.server_port}"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(free_port())],
        env=environment(HOME=str(home), RAY_AUTH_MODE="disabled", PYTHONPATH=str(ROOT), http_proxy=proxy),
        cwd=home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    stdin, stdout = pipes(process)
    try:
        said = stdout.readline().split()
        assert said, "the cluster did not come up"
        held = Held(process, said[0], Path(said[1]), home, said[2:], stranger)
        yield held
        stdin.close()
        assert process.wait(60) == 0
        assert not held.folder.exists(), "nothing is left of it"
    finally:
        stranger.shutdown()
        stranger.server_close()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


ATTACKERS = ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "guessed"})


def attack(what: str, held: Held, **env: str) -> subprocess.Popen[str]:
    ports = [str(port) for _, port in listening(held.process.pid)] if what == "submit" else []
    argv = [sys.executable, ATTACKER, what, held.address, *ports]
    variables = environment(HOME=str(held.home / "attacker"), **env)
    if what == "run":
        variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray would dial this machine by another of its addresses
    pipe = subprocess.PIPE
    return subprocess.Popen(
        argv, env=variables, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def refused(what: str, held: Held, **env: str) -> bool:
    """Whether it ended without success, and for lack of the token."""
    process = attack(what, held, **env)
    said = process.communicate(timeout=150)[0].lower()
    assert "token" in said or "401" in said or "403" in said, said
    return process.returncode != 0 and "done" not in said.splitlines()


@pytest.mark.ray
@pytest.mark.timeout(500)
@pytest.mark.parametrize("what", ["read", "run", "submit"])
def test_without_the_token_nothing_works_and_with_it_everything(held, what):
    assert all(refused(what, held, **env) for env in ATTACKERS)
    robbed = attack(what, held, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=held.token)
    assert robbed.communicate(timeout=150)[0].splitlines()[-1] == "done", "the attack is one"


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_from_another_network_namespace_no_port_answers(held, namespace):
    here, inside = namespace
    ports = [port for _, port in listening(held.process.pid)]
    knock = (
        "import socket, sys\n"
        "for p in sys.argv[2:]:\n"
        "    try: socket.create_connection((sys.argv[1], int(p)), 5); print(p)\n"
        "    except OSError: pass"
    )
    with socket.socket() as control:
        control.bind(("0.0.0.0", 0))
        control.listen()
        asked = [str(control.getsockname()[1]), *map(str, ports)]
        open_ports = subprocess.run(
            [*inside, sys.executable, "-c", knock, here, *asked], capture_output=True, text=True
        )
    assert open_ports.stdout.split() == asked[:1], "only the control, which listens on all addresses"


@pytest.fixture
def namespace() -> Iterator[tuple[str, list[str]]]:
    """A second network namespace with a link to this one: this side's address, and the command that runs inside."""
    if shutil.which("ip") is None:
        pytest.skip("no `ip` (iproute2) on this machine")
    name, here, there = f"rd{os.getpid()}", "10.231.9.1", "10.231.9.2"
    ends = f"{name}a"[-15:], f"{name}b"[-15:]
    steps = [
        f"ip netns add {name}",
        f"ip link add {ends[0]} type veth peer name {ends[1]} netns {name}",
        f"ip addr add {here}/24 dev {ends[0]}",
        f"ip link set {ends[0]} up",
        f"ip -n {name} addr add {there}/24 dev {ends[1]}",
        f"ip -n {name} link set {ends[1]} up",
    ]
    try:
        for step in steps:
            done = subprocess.run(step.split(), capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"may make no network namespaces here: {step}: {done.stderr.strip()}")
        yield here, ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "link", "del", ends[0]], capture_output=True)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.ray
def test_all_ports_are_on_loopback_and_the_folder_is_the_owners(held):
    sockets = listening(held.process.pid)
    assert len(sockets) > 10 and all(on_loopback(address) for address, _ in sockets), sockets
    assert held.folder.stat().st_mode & 0o777 == 0o700
    assert any(held.folder.rglob("raylet")), "Ray's sockets lie there"


@pytest.mark.ray
def test_no_worker_asks_the_web_server_of_another_cluster_or_a_proxy(held):
    """Ray Train's own would take the places of a training that the other one does not know, and shows it the token."""
    assert held.asked == private.NOWHERE
    heard = "".join(held.stranger.heard).lower()  # Ray looks for a cloud's metadata by itself
    assert "127.0.0.1" not in heard and "authorization" not in heard


@pytest.mark.ray
def test_the_token_is_in_no_file_and_no_command_line(held):
    token = held.token
    assert len(token) == 64 and held.said == ["disabled", "None"], "the user's own environment is as it was"
    contents: list[bytes] = []
    for path in [p for root in (held.folder, held.home) for p in root.rglob("*") if p.is_file()]:
        with contextlib.suppress(FileNotFoundError):  # Ray's own, gone since it was listed
            contents.append(path.read_bytes())
    assert len(contents) > 10 and not [data for data in contents if token.encode() in data]
    assert not (held.home / ".ray").exists()
    words: list[str] = []
    for process in tree(held.process.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            words += process.cmdline()
    assert words and not [word for word in words if token in word]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(500)
def test_a_second_node_joins_with_the_token_only(held):
    assert all(refused("join", held, **env) for env in ATTACKERS) and held.nodes() == 1
    node = attack("join", held, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=held.token)
    try:
        deadline = time.monotonic() + 100
        while held.nodes() == 1:
            assert node.poll() is None and time.monotonic() < deadline, "the attack is none"
            time.sleep(0.3)
    finally:
        for process in tree(node.pid):
            process.kill()
        node.communicate()


@pytest.mark.ray
def test_a_whole_run_never_opens_a_port_to_others(watched_reference):
    _, _, watch = watched_reference
    assert len(watch.seen) > 10 and watch.open_to_others() == []


def test_each_cluster_has_a_token_of_its_own(monkeypatch):
    """And the environment of whoever starts it says nothing about it, neither before nor after."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/mine")
    tokens = []

    def started(*args: object, **kwargs: object) -> None:
        assert os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN_PATH" not in os.environ
        tokens.append(os.environ["RAY_AUTH_TOKEN"])
        raise OSError("enough")

    monkeypatch.setattr("ray.init", started)
    for _ in range(2):
        with pytest.raises(OSError, match="enough"):
            private.start()
    private.read_authentication()
    assert len({*tokens, "mine"}) == 3
    kept = [os.environ[f"RAY_AUTH_{name}"] for name in ("MODE", "TOKEN", "TOKEN_PATH")]
    assert kept == ["disabled", "mine", "/mine"]


def test_a_temporary_folder_too_long_for_sockets_is_named(monkeypatch, tmp_path):
    long = tmp_path / ("x" * 60)
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with pytest.raises(BadInput, match="set RAY_TMPDIR to a folder of at most") as refusal:
        private.start()
    assert str(long) in str(refusal.value) and not long.exists()
