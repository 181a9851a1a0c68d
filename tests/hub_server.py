"""A hub on this machine: repositories laid out in memory, served with as much of the hub's API as a download needs."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants

Files = dict[str, bytes]


def commit_of(files: Files) -> str:
    """A commit's name: 40 hexadecimal characters of its content."""
    return hashlib.sha1(b"".join(n.encode() + hashlib.sha1(d).digest() for n, d in sorted(files.items()))).hexdigest()


def tree(folder: Path) -> Files:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def cached(
    name: str, files: dict[str, bytes], revision: str = "main", commit: str = "0" * 40, kind: str = "models"
) -> Path:
    """Lays a snapshot out as the client keeps it: what was fetched by another program. Returns its folder."""
    root = Path(constants.HF_HUB_CACHE) / f"{kind}--{name.replace('/', '--')}"
    ref, folder = root / "refs" / revision, root / "snapshots" / commit
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit)
    for file, data in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
    return folder


@dataclass
class Hub:
    """`commits[repository][revision]` are the files of a branch or commit; whatever is asked for is kept in `asked`."""

    commits: dict[str, dict[str, Files]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    writers: dict[str, set[str]] = field(default_factory=dict)  # by token, the owners for whom it may write
    stored: dict[str, bytes] = field(default_factory=dict)  # large files by their SHA-256

    def push(self, name: str, files: Files, branch: str = "main") -> str:
        """Adds a commit to a repository, which is made if need be; returns its name."""
        commit = commit_of(files)
        self.commits.setdefault(name, {}).update({commit: files, branch: files})
        return commit

    def fetched(self) -> set[str]:
        """The files whose content was asked for."""
        return {
            line.split("/resolve/")[1].partition("/")[2]
            for line in self.asked
            if line.startswith("GET") and "/resolve/" in line
        }

    def written(self, path: str, data: bytes, token: str, url: str) -> tuple[int, dict[str, Any]]:
        """(status, body) of a POST or PUT: as much as a commit needs, large files being those of Parquet."""
        parts = [unquote(p) for p in urlsplit(path).path.strip("/").split("/")]
        if parts[0] == "lfs":  # as its link says, without a token
            self.stored[parts[1]] = data
            return 200, {}
        if token not in self.writers:
            return 401, {"error": "Invalid credentials in Authorization header"}
        asked = {} if parts[-2] == "commit" else json.loads(data)
        if parts[1:] == ["validate-yaml"]:
            return 200, {"errors": [], "warnings": []}
        owner = asked["organization"] if parts[1:] == ["repos", "create"] else parts[2 if parts[0] == "api" else 1]
        if owner not in self.writers[token]:
            return 403, {"error": "You don't have the rights to create a dataset under this namespace"}
        if parts[1:] == ["repos", "create"]:
            name = f"{owner}/{asked['name']}"
            if name in self.commits:
                return 409, {"error": "You already created this dataset repo", "url": f"{url}/datasets/{name}"}
            self.push(name, {".gitattributes": b"*.parquet filter=lfs"})
            return 200, {"url": f"{url}/datasets/{name}"}
        if parts[-1] == "batch":
            links = {o["oid"]: {"upload": {"href": f"{url}/lfs/{o['oid']}"}} for o in asked["objects"]}
            return 200, {"transfer": "basic", "objects": [o | {"actions": links[o["oid"]]} for o in asked["objects"]]}
        name = "/".join(parts[2:4])
        if parts[4] == "preupload":
            modes = {f["path"]: "lfs" if f["path"].endswith(".parquet") else "regular" for f in asked["files"]}
            return 200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]}
        files = dict(self.commits[name]["main"])
        for line in (json.loads(line) for line in data.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.push(name, files)
        return 200, {"commitUrl": f"{url}/datasets/{name}/commit/{commit}", "commitOid": commit}

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of a path: a revision's commit, a commit's files, or a file."""
        parts = [unquote(p) for p in urlsplit(path).path.strip("/").split("/")]
        api = parts[0] == "api"
        if api:
            parts = parts[2:]
        elif parts[0] == "datasets":
            parts = parts[1:]
        if len(parts) < 4:
            return 404, {}, b""
        name, what, revision, rest = "/".join(parts[:2]), parts[2], parts[3], "/".join(parts[4:])
        if name not in self.commits:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if revision not in self.commits[name]:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = self.commits[name][revision]
        commit = commit_of(files)
        if api and what == "revision":
            siblings = [{"rfilename": n} for n in files]
            return 200, {}, json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode()
        if api and what == "tree":
            rows = [
                {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                for n, d in files.items()
            ]
            return 200, {}, json.dumps(rows).encode()
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if rest not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        data = files[rest]
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}, data


class Server:
    """Serves a Hub on 127.0.0.1 until it is closed."""

    def __init__(self, hub: Hub) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self) -> None:
                hub.asked.append(f"{self.command} {unquote(self.path)}")
                status, headers, body = hub.answer(self.path)
                self.send_response(status)
                for key, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def do_POST(self) -> None:
                hub.asked.append(f"{self.command} {unquote(self.path)}")
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                status, tree = hub.written(self.path, self._sent(), token, f"http://{self.headers['Host']}")
                body = json.dumps(tree).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _sent(self) -> bytes:
                """The body, in chunks or whole."""
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers["Content-Length"]))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            do_HEAD = do_GET
            do_PUT = do_POST

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
