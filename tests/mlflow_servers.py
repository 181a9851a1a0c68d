"""Servers of MLflow for tests: a real one in SQLite, and one that fails as it is told, in front of nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from running import free_port


@contextmanager
def real_server(folder: Path) -> Iterator[str]:
    """`mlflow server` on loopback; its address."""
    port, folder = free_port(), folder.absolute()
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/served"]
    with open(folder / "server.log", "w") as log:
        env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"mlflow server did not start: {log.read_text()[-2000:]}")


@contextmanager
def failing_server(fault: str) -> Iterator[str]:
    """Answers every request with a fault: "500", "507" (full), "hangs", or "dies" in the middle of its answer."""
    over = threading.Event()

    class Failing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if fault == "hangs":
                over.wait(60)
            elif fault == "dies":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"experiment"')
            else:
                self.send_error(int(fault))
            self.close_connection = True

        do_POST = do_PUT = do_PATCH = do_GET

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()
