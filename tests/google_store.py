"""A stand-in for Google Cloud Storage on this machine: the JSON API as Arrow's client asks it, with faults on purpose.

It answers what is asked of objects (put by a resumable upload, read, described, deleted, listed) and of a bucket, and
knows no accounts: what it cannot show is written in docs/operations.md. It is a process of its own: Arrow waits for
answers from Google while it holds Python's lock.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import Request, urlopen

BUCKET, OBJECTS, UPLOAD = "/storage/v1/b/bucket", "/storage/v1/b/bucket/o", "/upload/storage/v1/b/bucket/o"
SOUND = {"refused": "none", "listing": None, "page": 1000}


class GoogleStore:
    """The endpoint as tests see it."""

    def __init__(self, port: int) -> None:
        self.port = port

    def folder(self, name: str) -> str:
        options = f"scheme=http&endpoint_override=127.0.0.1:{self.port}&retry_limit_seconds=3"
        return f"gs://anonymous@bucket/{name}?{options}"

    def set(self, **state: Any) -> None:
        """refused with 503: "none", "all", or "once": each request that reads or begins to write, the first time.
        listing: what is listed, whatever is there; None: what is. page: names a page. Forgets what was seen."""
        urlopen(Request(f"http://127.0.0.1:{self.port}/set", json.dumps(SOUND | state).encode(), method="POST")).read()

    def seen(self) -> list[str]:
        """Requests since `set`: verb, path and query."""
        with urlopen(f"http://127.0.0.1:{self.port}/seen") as answer:
            return json.loads(answer.read())  # type: ignore[no-any-return]


class Handler(BaseHTTPRequestHandler):
    """One request; the state is the class's, which is one process's."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    disable_nagle_algorithm = True
    objects: ClassVar[dict[str, tuple[bytes, str]]] = {}  # bytes, and since when
    sessions: ClassVar[dict[str, tuple[str, bytes]]] = {}
    state: ClassVar[dict[str, Any]] = dict(SOUND)
    requests: ClassVar[list[str]] = []

    def log_message(self, *_: Any) -> None:
        return

    def _request(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if parts.path == "/set":
            self.state.update(json.loads(body))
            self.requests.clear()
            return self._answer(200, b"")
        if parts.path == "/seen":
            return self._answer(200, json.dumps(self.requests).encode())
        request = f"{self.command} {self.path}"
        first = request not in self.requests and (self.command == "POST" or "alt=media" in request)
        refused = {"none": False, "all": True, "once": first}[self.state["refused"]]
        self.requests.append(request)
        if refused:
            return self._answer(503, {"error": {"code": 503, "message": "Service Unavailable"}})
        if parts.path == BUCKET:
            return self._answer(200, {"kind": "storage#bucket", "name": "bucket"})
        if parts.path == OBJECTS:
            return self._answer(200, self._listed(query))
        if parts.path == UPLOAD:
            return self._upload(query, body)
        self._object(unquote(parts.path.removeprefix(f"{OBJECTS}/")), query)

    do_GET = do_PUT = do_POST = do_DELETE = _request

    def _upload(self, query: dict[str, list[str]], body: bytes) -> None:
        if self.command == "POST":
            session = str(len(self.sessions))
            self.sessions[session] = query["name"][0], b""
            where = f"http://{self.headers['Host']}{UPLOAD}?upload_id={session}"
            return self._answer(200, {}, {"Location": where})
        session = query["upload_id"][0]
        name, before = self.sessions[session]
        data = before + body
        self.sessions[session] = name, data
        total = self.headers.get("Content-Range", "bytes */*").rpartition("/")[2]
        if total == "*" or int(total) > len(data):
            return self._answer(308, None, {"Range": f"bytes=0-{len(data) - 1}"} if data else {})
        since = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() % 10**9:09d}Z"
        self.objects[name] = data, since
        self._answer(200, self._described(name))

    def _described(self, name: str) -> dict[str, Any]:
        """Of one that is gone, too: a listing may show it still."""
        data, since = self.objects.get(name, (b"", "2026-01-01T00:00:00Z"))
        times = {"timeCreated": since, "updated": since, "generation": "1", "metageneration": "1"}
        return {"kind": "storage#object", "bucket": "bucket", "name": name, "size": str(len(data)), **times}

    def _listed(self, query: dict[str, list[str]]) -> dict[str, Any]:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        after, page = query.get("pageToken", [""])[0], self.state["page"]
        names = self.objects if self.state["listing"] is None else self.state["listing"]
        below = sorted(n for n in names if n.startswith(prefix) and n > after)
        items = [n for n in below if not delimiter or delimiter not in n[len(prefix) :]]
        prefixes = {prefix + n[len(prefix) :].partition(delimiter)[0] + delimiter for n in below if n not in items}
        more = {"nextPageToken": items[page - 1]} if len(items) > page else {}
        described = [self._described(n) for n in items[:page]]
        return {"kind": "storage#objects", "items": described, "prefixes": sorted(prefixes), **more}

    def _object(self, name: str, query: dict[str, list[str]]) -> None:
        if name not in self.objects:
            return self._answer(404, {"error": {"code": 404, "message": "Not Found"}})
        if self.command == "DELETE":
            del self.objects[name]
            return self._answer(204, None)
        if query.get("alt") != ["media"]:
            return self._answer(200, self._described(name))
        data = self.objects[name][0]
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not first:
            return self._answer(200, data)
        stop = min(len(data), int(last or len(data)) + 1)
        self._answer(206, data[int(first) : stop], {"Content-Range": f"bytes {first}-{stop - 1}/{len(data)}"})

    def _answer(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.send_response(code)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def google_endpoint() -> Iterator[GoogleStore]:
    server = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield GoogleStore(int(server.stdout.readline()))
    finally:
        server.kill()
        server.communicate()


if __name__ == "__main__":
    endpoint = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(endpoint.server_address[1], flush=True)
    endpoint.serve_forever()
