"""The cluster that chaos.py maltreats: a head without CPUs and nodes, all on this machine, started by `ray start`.

Where the rights allow (root on Linux), each node has a network namespace and an address of its own on a bridge, so that
it can be cut off and comes back; otherwise all have this machine's address and nobody is cut off.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

STORE = 100 * 2**20  # bytes of each object store
PATIENCE_S = 600.0  # for a node to come up; the machine may be busy


def environment(address: str = "") -> dict[str, str]:
    """This process's, with no cluster but the one at `address`, which asks for no token."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYDISTILL_"))}
    more = {"RAY_ADDRESS": address} if address else {}
    return {**kept, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


@dataclass
class Node:
    """`ray start --block` and all below it; `link` is the host's end of its cable, empty without a namespace."""

    number: int
    process: subprocess.Popen[bytes]
    link: str = ""

    def family(self) -> list[psutil.Process]:
        try:
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def named(self, prefix: str) -> list[psutil.Process]:
        """Its processes of this name; those of a worker that is at something, if there are any."""
        named = [(p, title(p)) for p in self.family()]
        chosen = [(p, name) for p, name in named if os.path.basename(name).startswith(prefix)]
        return [p for p, name in chosen if name != "ray::IDLE"] or [p for p, _ in chosen]

    def kill(self) -> None:
        members = self.family()
        each(members, signal.SIGKILL)
        psutil.wait_procs(members, timeout=30)
        self.process.wait()


def alive(address: str) -> int:
    """How many nodes a head knows to be alive; 0 if none answers."""
    from ray._raylet import GcsClient
    from ray.exceptions import RayError

    try:
        nodes = GcsClient(address=address).get_all_node_info(timeout=10).values()
    except RayError:
        return 0
    return sum(node.state == 0 for node in nodes)  # GcsNodeInfo.ALIVE


def title(process: psutil.Process) -> str:
    try:
        return (process.cmdline() or [""])[0]
    except psutil.Error:
        return ""


def each(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@dataclass
class Cluster:
    """`base` holds its logs and Ray's own files. Use as a context: nothing that it started outlives it."""

    base: Path
    cpus: int = 2
    nodes: list[Node] = field(default_factory=list)
    head: Node | None = None
    started: int = 0

    def __post_init__(self) -> None:
        self.bridge = f"rdc{os.getpid() % 100000}"
        self.subnet = f"10.213.{os.getpid() % 250}"
        self.separate = self._bridged()
        self.ip = f"{self.subnet}.1" if self.separate else "127.0.0.1"
        self.port = free_port()

    @property
    def address(self) -> str:
        return f"{self.ip}:{self.port}"

    def _bridged(self) -> bool:
        """Whether a bridge can be made here."""
        if sh("ip", "link", "add", self.bridge, "type", "bridge"):
            return False
        return not sh("ip", "addr", "add", f"{self.subnet}.1/24", "dev", self.bridge) + sh(
            "ip", "link", "set", self.bridge, "up"
        )

    def start(self, nodes: int) -> None:
        """A head, at another port than the one before, and nodes."""
        self.port = free_port()
        self.head = self._spawn_head()
        self._await(0)
        for _ in range(nodes):
            self.add()
        self._await(nodes)

    def _spawn_head(self) -> Node:
        ports = [f"--port={self.port}", f"--ray-client-server-port={free_port(self.port + 1)}"]
        options = ["--head", "--include-dashboard=false", f"--temp-dir={self.base / 'ray'}", "--num-cpus=0", *ports]
        return self._spawn(options, self.ip, [])

    def add(self) -> Node:
        self.started += 1
        number, link, inside, ip = self.started, "", list[str](), self.ip
        if self.separate:
            link, ip, inside = self._namespace(number)
        options = [f"--address={self.address}", f"--num-cpus={self.cpus}"]
        node = self._spawn(options, ip, inside)
        node.number, node.link = number, link
        self.nodes.append(node)
        return node

    def _spawn(self, options: list[str], ip: str, inside: list[str]) -> Node:
        ray = str(Path(sys.executable).with_name("ray"))
        argv = [*inside, ray, "start", *options, f"--node-ip-address={ip}", f"--object-store-memory={STORE}"]
        with open(self.base / f"node-{self.started}.log", "ab") as out:
            process = subprocess.Popen(
                [*argv, "--disable-usage-stats", "--block"], env=environment(), stdout=out, stderr=out,
                cwd=self.base, start_new_session=True,
            )  # fmt: skip
        return Node(0, process)

    def _namespace(self, number: int) -> tuple[str, str, list[str]]:
        """A namespace with a cable to the bridge: the host's end, its address, how a command is run inside."""
        name, link, ip = f"{self.bridge}n{number}", f"{self.bridge}v{number}", f"{self.subnet}.{1 + number}"
        commands = [
            f"netns add {name}",
            f"link add {link} type veth peer name eth0 netns {name}",
            f"link set {link} master {self.bridge} up",
            f"-n {name} addr add {ip}/24 dev eth0",
            f"-n {name} link set eth0 up",
            f"-n {name} link set lo up",
        ]
        for command in commands:
            if sh("ip", *command.split()):
                raise SystemExit(f"chaos: ip {command} failed")
        return link, ip, ["ip", "netns", "exec", name]

    def _await(self, nodes: int) -> None:
        """Until so many nodes beside the head are alive."""
        deadline = time.monotonic() + PATIENCE_S
        while alive(self.address) < nodes + 1:
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"chaos: {nodes} nodes did not come up in {PATIENCE_S:g} s; see {self.base}/node-*.log"
                )
            if self.head is None or self.head.process.poll() is not None:
                self.head = self._spawn_head()
            for node in self.ended():  # Ray gives a node thirty seconds, whatever the machine is at
                self.replace(node)
            time.sleep(0.5)

    def ended(self) -> list[Node]:
        return [node for node in self.nodes if node.process.poll() is not None]

    def replace(self, node: Node) -> None:
        """As an autoscaler would; nothing if it has been done."""
        if node in self.nodes:
            self.remove(node)
            self.add()

    def cable(self, node: Node, plugged: bool) -> None:
        """Cuts a node off, or joins it again."""
        sh("ip", "link", "set", node.link, "up" if plugged else "down")

    def remove(self, node: Node) -> None:
        node.kill()
        self.nodes.remove(node)
        if node.link:
            sh("ip", "netns", "del", f"{self.bridge}n{node.number}")

    def stop(self) -> None:
        for node in list(self.nodes):
            self.remove(node)
        if self.head is not None:
            self.head.kill()
            self.head = None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.separate:
            sh("ip", "link", "del", self.bridge)


@contextlib.contextmanager
def small_disk(path: Path, mib: int) -> Iterator[bool]:
    """A disk of its own at `path`, if the rights allow; whether it is one."""
    path.mkdir()
    mounted = not sh("mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(path))
    try:
        yield mounted
    finally:
        if mounted:
            sh("umount", "--lazy", str(path))


def sh(*argv: str) -> int:
    try:
        return subprocess.run(argv, capture_output=True, check=False).returncode
    except FileNotFoundError:
        return 127


def free_port(start: int = 0) -> int:
    """A port below 10000: Ray's own workers take those above."""
    for port in range(start or 7000 + os.getpid() % 900, 9900):
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("", port))
            return port
    raise SystemExit("chaos: no free port below 9900")
