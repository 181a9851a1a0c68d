"""Somebody else's emulator of Google Cloud Storage on this machine (gcp-storage-emulator), with faults on purpose.

`google_store` answers as we read Google's documentation; this one as its authors do. A process of its own, too.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import HTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.request import Request, urlopen

from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler, Router
from gcp_storage_emulator.storage import Storage
from pyarrow import fs as pafs
from stores import files_below

BUCKET = "bucket"
KINDS = ("put", "read", "list")
SOUND = {"kind": None, "nth": None, "how": "refuse"}


def kind(request: str) -> str:
    """Of a request: its verb, path and query."""
    if "/upload/" in request:
        return "put"
    if "alt=media" in request:
        return "read"
    return "list" if request.partition("?")[0].endswith("/o") else "other"


class Emulator:
    """The endpoint as tests see it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.options = f"?scheme=http&endpoint_override=127.0.0.1:{port}&retry_limit_seconds=5"
        self.fs = pafs.FileSystem.from_uri(f"gs://anonymous@{BUCKET}/{self.options}")[0]

    def folder(self) -> str:
        """The URI of an empty folder."""
        return f"gs://anonymous@{BUCKET}/{uuid.uuid4().hex[:12]}/folder{self.options}"

    def upload(self, local: Path) -> str:
        """The URI of a copy of a local folder."""
        uri = self.folder().replace("/folder?", f"/{local.name}?")
        for file in (p for p in sorted(local.rglob("*")) if p.is_file()):
            with self.fs.open_output_stream(f"{self.path(uri)}/{file.relative_to(local)}") as out:
                out.write(file.read_bytes())
        return uri

    def path(self, uri: str) -> str:
        return uri.partition("@")[2].partition("?")[0]

    def files(self, uri: str) -> dict[str, bytes]:
        """Every object below, by its path."""
        return files_below(self.fs, self.path(uri))

    def wrong(self, kind: str | None = None, nth: int | None = None, how: str = "refuse") -> None:
        """Requests of a kind go wrong: the one of a number (from 0), or all of them. Forgets what was seen.

        how: refuse (503), deny (400: asking again is of no use), cut (half of the answer).
        """
        fault = {"kind": kind, "nth": nth, "how": how}
        urlopen(Request(f"http://127.0.0.1:{self.port}/wrong", json.dumps(fault).encode(), method="POST")).read()

    def seen(self) -> list[str]:
        """Requests since `wrong`: verb, path and query."""
        with urlopen(f"http://127.0.0.1:{self.port}/seen") as answer:
            return json.loads(answer.read())  # type: ignore[no-any-return]


class Faulty(RequestHandler):  # type: ignore[misc]
    """One request; the state is the class's, which is one process's."""

    state: ClassVar[dict[str, Any]] = dict(SOUND)
    requests: ClassVar[list[str]] = []

    def _request(self) -> None:
        if self.path == "/wrong":
            self.state.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.requests.clear()
            return self._answer(200, b"")
        if self.path == "/seen":
            return self._answer(200, json.dumps(self.requests).encode())
        request = f"{self.command} {self.path}"
        alike = sum(kind(r) == kind(request) for r in self.requests)
        self.requests.append(request)
        if kind(request) != self.state["kind"] or self.state["nth"] not in (None, alike):
            return Router(self).handle(self.command)
        if code := {"refuse": 503, "deny": 400}.get(self.state["how"]):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return self._answer(code, json.dumps({"error": {"code": code, "message": "on purpose"}}).encode())
        out, self.wfile = self.wfile, io.BytesIO()
        Router(self).handle(self.command)
        head, _, body = self.wfile.getvalue().partition(b"\r\n\r\n")
        out.write(head + b"\r\n\r\n" + body[: len(body) // 2])
        self.wfile, self.close_connection = out, True

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _request

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def incomplete(response: Any, storage: Storage, upload_id: str, fallback_end: int = 0) -> None:
    """What has come of an upload. As Google's, without a range where nothing has: version 2026.7.19 says a byte had."""
    response.status = objects.GoogleHTTPStatus.RESUME_INCOMPLETE
    if received := storage.get_resumable_byte_count(upload_id):
        response["Range"] = f"bytes=0-{received - 1}"


@contextmanager
def emulator() -> Iterator[Emulator]:
    server = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        yield Emulator(int(server.stdout.readline()))
    finally:
        server.kill()
        server.communicate()


if __name__ == "__main__":
    objects._resumable_incomplete = incomplete
    storage = Storage(use_memory_fs=True)
    create_bucket(BUCKET, storage)
    endpoint = HTTPServer(("127.0.0.1", 0), partial(Faulty, storage))
    print(endpoint.server_address[1], flush=True)
    endpoint.serve_forever()
