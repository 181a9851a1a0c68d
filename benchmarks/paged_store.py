"""A stand-in for an S3 endpoint, in memory, that lists 100,000 keys as fast as a real one: pages of 1,000 by bisection.

moto, which the tests use, sorts a whole bucket for every page. This one answers the requests that raydistill makes of
small objects (put, read, asked for, deleted, listed) and no others, each `latency_s` late.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from raydistill.identity import digest
from raydistill.store.artifact import Record, commit_file

PAGE = 1000
FINGERPRINT = "0" * 16
FOLDER = f"/bucket/run/sample/{FINGERPRINT}"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "scale",
    "AWS_SECRET_ACCESS_KEY": "scale",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Objects(BaseHTTPRequestHandler):
    """One request. Paths are /BUCKET/KEY; the state is the class's, which is one process's."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: two would wait for each other's acknowledgement
    disable_nagle_algorithm = True
    objects: ClassVar[dict[str, tuple[bytes, float]]] = {}
    names: ClassVar[list[str]] = []
    parts: ClassVar[dict[int, bytes]] = {}
    latency_s: ClassVar[float] = 0.0

    def log_message(self, *_: Any) -> None:
        return

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def do_PUT(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        part = parse_qs(urlsplit(self.path).query).get("partNumber")
        if part:
            self.parts[int(part[0])] = body
            return self._answer(200, etag=body)
        self._put(path, body)
        self._answer(200, etag=body)

    def do_POST(self) -> None:
        """Of a large object, one at a time: its upload begins, or its parts are joined."""
        path = unquote(urlsplit(self.path).path)
        self._body()
        if "uploads" in urlsplit(self.path).query:
            self.parts.clear()
            return self._answer(
                200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
            )
        self._put(path, b"".join(self.parts[n] for n in sorted(self.parts)))
        self._answer(200, b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")

    def _put(self, path: str, body: bytes) -> None:
        if path.rstrip("/").count("/") > 1:
            if path not in self.objects:
                insort(self.names, path)
            self.objects[path] = body, time.time()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if "list-type" in query:
            return self._answer(200, self._page(unquote(parts.path).strip("/"), query))
        self._object(unquote(parts.path))

    def do_HEAD(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.rstrip("/").count("/") == 1:
            return self._answer(200)
        self._object(path)

    def do_DELETE(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.objects.pop(path, None) is not None:
            del self.names[bisect_left(self.names, path)]
        self._answer(204)

    def _object(self, path: str) -> None:
        if path not in self.objects:
            return self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>")
        data, since = self.objects[path]
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not first:
            return self._answer(200, data, data, since)
        start, stop = int(first), min(len(data), int(last or len(data)) + 1)
        self._answer(206, data[start:stop], data, since, f"bytes {start}-{stop - 1}/{len(data)}")

    def _page(self, bucket: str, query: dict[str, list[str]]) -> bytes:
        """Names below a prefix after a token, what lies beyond a delimiter as one."""
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        size, base = int(query.get("max-keys", [PAGE])[0]), f"/{bucket}/"
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        names, more = self.names, False
        listed: list[str] = []
        at = max(bisect_left(names, base + prefix), bisect_right(names, base + after) if after else 0)
        while at < len(names) and names[at].startswith(base + prefix):
            if len(listed) == min(size, PAGE):
                more = True
                break
            name = names[at].removeprefix(base)
            head, mark, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            if mark:
                after = prefix + head + mark + "\U0010ffff"
                listed.append(f"<CommonPrefixes><Prefix>{escape(prefix + head + mark)}</Prefix></CommonPrefixes>")
                at = bisect_right(names, base + after)
                continue
            data, since = self.objects[names[at]]
            after, at = name, at + 1
            listed.append(
                f"<Contents><Key>{escape(name)}</Key><LastModified>{_stamp(since)}</LastModified>"
                f"<ETag>&quot;0&quot;</ETag><Size>{len(data)}</Size></Contents>"
            )
        token = f"<NextContinuationToken>{escape(after)}</NextContinuationToken>" if more else ""
        return (
            f"<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(listed)}</KeyCount>"
            f"<MaxKeys>{PAGE}</MaxKeys><IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(listed)}"
            "</ListBucketResult>"
        ).encode()

    def _body(self) -> bytes:
        """The object: HTTP's chunks and, within them, those of S3 are taken off."""
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            data = b"".join(iter(self._chunk, b""))
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        whole = b""
        while data:  # SIZE[;signature] DATA, the last one empty, then checksums
            head, _, data = data.partition(b"\r\n")
            size = int(head.partition(b";")[0], 16)
            if not size:
                break
            whole, data = whole + data[:size], data[size + 2 :]
        return whole

    def _chunk(self) -> bytes:
        data = self.rfile.read(int(self.rfile.readline().partition(b";")[0], 16))
        self.rfile.readline()
        return data

    def _answer(
        self, code: int, body: bytes = b"", etag: bytes | None = None, since: float = 0.0, span: str = ""
    ) -> None:
        if self.latency_s:
            time.sleep(self.latency_s)
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        if etag is not None:
            self.send_header("ETag", f'"{hashlib.md5(etag).hexdigest()}"')
        if since:
            self.send_header("Last-Modified", formatdate(since, usegmt=True))
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _stamp(since: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since)) + f".{int(since * 1000) % 1000:03d}Z"


class Filled:
    """Objects that a server has from its start: commits of the stage `sample`."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}

    def commit(self, key: str, data: bytes) -> Record:
        """As Artifact.commit would have put it."""
        sha = digest(data)
        record = Record(key, f"data/{key}-{sha[:16]}.parquet", 1, len(data), sha, FINGERPRINT, "cpu/float32")
        name, text = commit_file(record)
        since = time.time()
        self.objects[f"{FOLDER}/{record.file}"] = data, since
        self.objects[f"{FOLDER}/commits/{name}"] = text, since
        return record


def _serve(pipe: Any, objects: dict[str, tuple[bytes, float]], latency_s: float) -> None:
    Objects.objects, Objects.names, Objects.latency_s = objects, sorted(objects), latency_s
    server = ThreadingHTTPServer(("127.0.0.1", 0), Objects)
    server.daemon_threads = True
    pipe.send(server.server_address[1])
    server.serve_forever()


@contextlib.contextmanager
def endpoint(objects: dict[str, tuple[bytes, float]], latency_s: float = 0.0) -> Iterator[str]:
    """The URI of a folder on a server in a process of its own; the environment has its credentials."""
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    server = context.Process(target=_serve, args=(theirs, objects, latency_s), daemon=True)
    server.start()
    try:
        yield f"s3://bucket/run?endpoint_override=127.0.0.1:{ours.recv()}&scheme=http"
    finally:
        server.kill()
        server.join()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
