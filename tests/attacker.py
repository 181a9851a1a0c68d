"""What somebody who reaches a cluster tries: `attacker.py ATTACK GCS-ADDRESS [HTTP-PORT...]`; "done" if it worked."""

from __future__ import annotations

import json
import os
import sys
import urllib.request


def read(gcs: str) -> None:
    from ray._raylet import GcsClient

    assert GcsClient(address=gcs).internal_kv_keys(b"", namespace=None) is not None


def run(gcs: str) -> None:
    import ray

    ray.init(address=gcs, log_to_driver=False, logging_level="ERROR")
    assert ray.get(ray.remote(num_cpus=0)(lambda: os.getpid()).remote(), timeout=60) != os.getpid()


def join(gcs: str) -> None:
    """As a second node, for as long as this process lives."""
    from ray._private import services
    from ray.scripts.scripts import start

    services.resolve_ip_for_localhost = lambda host: host  # Ray would dial this machine by another of its addresses
    options = ["--node-ip-address=127.0.0.1", "--num-cpus=1", "--block", "--disable-usage-stats"]
    start([f"--address={gcs}", *options], standalone_mode=False)


def submit(gcs: str, *ports: str) -> None:
    """To the agent that every node has; the dashboard hands jobs to it."""
    headers = {"Content-Type": "application/json"}
    if os.environ.get("RAY_AUTH_TOKEN"):
        headers["Authorization"] = f"Bearer {os.environ['RAY_AUTH_TOKEN']}"
    job = json.dumps({"entrypoint": "true"}).encode()
    for port in ports:
        try:
            url = f"http://127.0.0.1:{port}/api/job_agent/jobs/"
            with urllib.request.urlopen(urllib.request.Request(url, job, headers), timeout=20) as answer:
                assert json.load(answer)["submission_id"]
                return
        except OSError as e:
            print(port, e, file=sys.stderr)
        except Exception as e:  # not HTTP at all
            print(port, type(e), file=sys.stderr)
    raise SystemExit(f"no port of {len(ports)} took the job")


if __name__ == "__main__":
    os.environ["RAY_gcs_server_port_wait_time_s"] = "1"  # noqa: SIM112  one try, not twenty
    {"read": read, "run": run, "join": join, "submit": submit}[sys.argv[1]](*sys.argv[2:])
    print("done")
