"""The S3 endpoint of `object_store`, behind which requests go wrong on purpose: refused, late, cut short, outdated."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from moto.moto_server import threaded_moto_server as moto_server
from object_store import Store, endpoint

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Answer = tuple[str, list[tuple[str, str]], bytes]  # status, headers, body


def run(app: Application, environ: dict[str, Any]) -> Answer:
    """What an application answers."""
    heads: list[tuple[str, list[tuple[str, str]]]] = []
    body = b"".join(app(environ, lambda status, headers, *_: heads.append((status, headers))))
    return (*heads[0], body)


@dataclass
class Faults:
    """`which` says of a request (verb, path and query) whether it goes wrong; `how`, in what way. `seen` are all."""

    how: str = "refuse"
    which: Callable[[str], bool] = lambda request: False
    seen: list[str] = field(default_factory=list)
    listed: dict[str, Answer] = field(default_factory=dict)

    def nth(self, number: int, verb: str, how: str = "refuse") -> None:
        """The request of a number (from 0) among those of a verb goes wrong, once: a client tries again."""
        left = [number]

        def which(request: str) -> bool:
            left[0] -= request.startswith(verb)
            return request.startswith(verb) and left[0] == -1

        self.how, self.which = how, which

    def every_one_once(self) -> None:
        before: set[str] = set()

        def which(request: str) -> bool:
            new = request not in before
            before.add(request)
            return new

        self.how, self.which = "refuse", which

    def all_of(self, verb: str, how: str = "refuse") -> None:
        self.how, self.which = how, lambda request: request.startswith(verb)

    def list_late(self, times: float = math.inf) -> None:
        """So many listings of a folder answer once more what the first of them did, whatever came or went since."""
        left = [times]

        def which(request: str) -> bool:
            listing = "list-type=2" in request
            left[0] -= listing and request in self.listed
            return listing and left[0] >= 0

        self.how, self.which, self.listed = "stale", which, {}

    def over(self) -> None:
        self.which = lambda request: False

    def behind(self, app: Application) -> Application:
        def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
            self.seen.append(request)
            if not self.which(request):
                return app(environ, start)
            if self.how == "refuse":
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(SLOW_DOWN)))])
                return [SLOW_DOWN]
            if self.how == "late":
                time.sleep(4)  # longer than the client waits for a byte
                return app(environ, start)
            if self.how == "stale":
                if request not in self.listed:
                    self.listed[request] = run(app, environ)
                status, headers, body = self.listed[request]
                start(status, headers)
                return [body]
            assert self.how == "cut"
            whole = b"".join(app(environ, start))  # with the length of the whole
            return [whole[: len(whole) // 2]]

        return answer


@contextmanager
def faulty_endpoint() -> Iterator[tuple[Store, Faults]]:
    faults = Faults()
    real = moto_server.DomainDispatcherApplication
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moto_server, "DomainDispatcherApplication", lambda *a: faults.behind(real(*a)))
        with endpoint() as store:
            yield store, faults
