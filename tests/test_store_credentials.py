"""Whose credentials an object store is asked with: those of a profile, a role or an account, which nobody wrote down.

No cloud is asked. One server stands for the store and for whoever gives out what a role may sign with, and keeps what
it is asked; a process of its own writes, since clients find their credentials once a process.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

WRITE = "import sys; from raydistill.store.location import Location; (Location.of(sys.argv[1]) / 'x').write(b'1')"
ROLE = {"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "OF-THE-ROLE", "SecretAccessKey": "secret"}
ROLE |= {"Token": "session", "LastUpdated": "2026-01-01T00:00:00Z", "Expiration": "2096-01-01T00:00:00Z"}
ANSWERS = {  # by the path that is asked for
    "/latest/api/token": b"for the metadata",
    "/latest/meta-data/iam/security-credentials": b"role",
    "/latest/meta-data/iam/security-credentials/role": json.dumps(ROLE).encode(),
    "/task": json.dumps(ROLE | {"RoleArn": "arn:aws:iam::1:role/role"}).encode(),
    "/token": json.dumps({"access_token": "of-the-user", "expires_in": 3600, "token_type": "Bearer"}).encode(),
}
OBJECT = json.dumps({"kind": "storage#object", "name": "x", "bucket": "b", "size": "1", "generation": "1"}).encode()


@dataclass
class Cloud:
    """The server, and the headers of whatever wrote to the store, with names in small letters."""

    server: ThreadingHTTPServer
    writes: list[dict[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def written(self, scheme: str, folder: Path, **environment: str) -> dict[str, str]:
        """Writes one object in this environment, which names no other credentials; how its first request was signed."""
        others = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "GOOGLE_"))}
        uri = f"{scheme}://b/f?scheme=http&endpoint_override=127.0.0.1:{self.server.server_port}"
        environment = others | {"HOME": str(folder), "no_proxy": "127.0.0.1"} | environment
        words = [sys.executable, "-c", WRITE, uri]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return self.writes[0]


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    class Answering(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = ANSWERS.get(self.path.rstrip("/"), b"")
            if self.path.startswith(("/b/", "/upload/")):
                it.writes.append({k.lower(): v for k, v in self.headers.items()})
            if self.path == "/session":  # where an upload to Google goes on
                body = OBJECT
            self.send_response(200)
            for name, value in {"Content-Length": len(body), "ETag": '"x"', "Location": f"{it.url}/session"}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    it = Cloud(ThreadingHTTPServer(("127.0.0.1", 0), Answering))
    threading.Thread(target=it.server.serve_forever, daemon=True).start()
    yield it
    it.server.shutdown()
    it.server.server_close()


def test_a_profile_is_found_by_its_name(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id=SOMEBODY\naws_secret_access_key=a\n"
        "[mine]\naws_access_key_id=OF-THE-PROFILE\naws_secret_access_key=b\n"
    )
    file = str(tmp_path / "credentials")
    headers = cloud.written("s3", tmp_path, AWS_PROFILE="mine", AWS_SHARED_CREDENTIALS_FILE=file)
    assert "Credential=OF-THE-PROFILE/" in headers["authorization"]


@pytest.mark.parametrize(
    ("name", "path"), [("AWS_EC2_METADATA_SERVICE_ENDPOINT", ""), ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "/task")]
)
def test_the_role_of_a_machine_or_a_container_signs_with_its_session(
    cloud: Cloud, tmp_path: Path, name: str, path: str
) -> None:
    headers = cloud.written("s3", tmp_path, **{name: cloud.url + path})
    assert "Credential=OF-THE-ROLE/" in headers["authorization"]
    assert headers["x-amz-security-token"] == "session"


def test_a_service_account_signs_for_itself(cloud: Cloud, tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    account = {"type": "service_account", "client_email": "runs@project.example", "private_key": key.decode()}
    account |= {"project_id": "project", "private_key_id": "key", "client_id": "1", "token_uri": f"{cloud.url}/token"}
    bearer, token = google(cloud, tmp_path, account)
    claims = token.split(".")[1]
    signed_by = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["iss"]
    assert (bearer, signed_by) == ("Bearer", "runs@project.example")


def test_a_user_who_has_logged_in_brings_a_token(cloud: Cloud, tmp_path: Path) -> None:
    user = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    assert google(cloud, tmp_path, user | {"token_uri": f"{cloud.url}/token"}) == ["Bearer", "of-the-user"]


def google(cloud: Cloud, folder: Path, account: dict[str, str]) -> list[str]:
    """The authorization of what was written by an account in a file."""
    (folder / "account.json").write_text(json.dumps(account))
    file = str(folder / "account.json")
    return cloud.written("gs", folder, GOOGLE_APPLICATION_CREDENTIALS=file)["authorization"].split(" ")
