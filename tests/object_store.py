"""A true S3 endpoint on this machine (moto), so that object storage is tested by its own rules, offline."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs as pafs
from stores import files_below

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Store:
    """The endpoint, its requests as they come, and the credentials that the environment gives."""

    def __init__(self, port: int) -> None:
        self.options = f"?endpoint_override=127.0.0.1:{port}&scheme=http"
        self.fs = pafs.S3FileSystem(endpoint_override=f"127.0.0.1:{port}", scheme="http", allow_bucket_creation=True)

    def folder(self) -> str:
        """The URI of an empty folder in a bucket of its own."""
        bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        self.fs.create_dir(bucket)
        return f"s3://{bucket}/folder{self.options}"

    def upload(self, local: Path) -> str:
        """The URI of a copy of a local folder."""
        uri = self.folder().replace("/folder?", f"/{local.name}?")
        disk = pafs.LocalFileSystem()
        pafs.copy_files(str(local), self.path(uri), source_filesystem=disk, destination_filesystem=self.fs)
        return uri

    def path(self, uri: str) -> str:
        return uri.removeprefix("s3://").partition("?")[0]

    def files(self, uri: str) -> dict[str, bytes]:
        """Every object below, by its path."""
        return files_below(self.fs, self.path(uri))


@contextmanager
def endpoint() -> Iterator[Store]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with pytest.MonkeyPatch.context() as env:
        for key, value in CREDENTIALS.items():
            env.setenv(key, value)
        server.start()
        try:
            yield Store(server.get_host_and_port()[1])
        finally:
            server.stop()
