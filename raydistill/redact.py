"""Secrets stay in the process: every text that leaves it has its credentials covered here.

What counts: the user information of a URI, credentials in a query (presigned and SAS links too) or in `NAME=VALUE`,
tokens that are known by their shape, and the values of this process's secret environment variables, also where
they are percent-encoded, escaped or in base64. Keys, hosts and paths stay readable.
"""

from __future__ import annotations

import base64
import contextlib
import html
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator
from functools import lru_cache
from types import TracebackType
from typing import TextIO
from urllib.parse import quote, quote_plus, unquote

MARK = "***"
SHORTEST = 8  # characters: a shorter value of a variable would cover ordinary words
DEPTH = 4  # times that a text can be percent-encoded

_VARIABLE = re.compile(r"(?i)(((^|_)(TOKEN|SECRET|API_?KEY|SECRET_KEY|SECRET_ACCESS_KEY|ACCOUNT_KEY|SAS))|PASSWORD)$")
_PUBLIC_USER = ("abfs", "abfss", "hdfs", "wasb", "wasbs", "ssh", "sftp")  # there a name before @ is none of a secret

_USER = re.compile(r'://(?P<user>[^\s/?#"<>]*)@')
# a password with a bare "/" or "?"; what follows a colon as digits alone is a port
_TORN_USER = re.compile(r'://(?P<user>[^\s/?#@"<>:\[]*:(?!\d{0,5}(?:[\s/?#"<>]|$))[^\s@"<>]{0,2048})@')
_QUERY = re.compile(r'(?i)((?:[?&;]|\\u0026)(?:sig|signature|token|secret|credentials?|pwd)=)[^&\s"<>]+')
_NAMED = re.compile(
    r"(?i)((?<![a-z0-9])(?:(?:secret[_-]?)?access[_-]?key(?:[_-]?id)?|secret[_-]?key|(?:session|security|access|refresh|auth)"
    r"[_-]?token|x-(?:amz|goog)-(?:signature|credential|security-token)|googleaccessid|awsaccesskeyid|password|passwd|"
    r"api[_-]?key|client[_-]?secret|account[_-]?key|shared[_-]?access[_-]?(?:key|signature))['\"]?\s?[=:]\s?['\"]?)"
    r"[^\s\"'<>&]+"
)
_HEADER = re.compile(r"(?i)((?<![a-z0-9])authorization['\"]?\s?[=:]\s?['\"]?(?:(?:basic|bearer|token)\s+)?)[^\s\"'<>]+")
_BEARER = re.compile(r"(?i)((?<![a-z0-9])bearer\s+)(?=\S*\d)[\w.~+/=-]{16,}")
_SHAPE = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{30,}|(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{36,}|"
    r"github_pat_\w{40,}|AIza[\w-]{35}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+)"
)
_ENCODED = re.compile(r"(?i)%(?:25)*(?:3A|3D|40|26|3F)")  # of : = @ & ?
_WORD = re.compile(r'[^\s"<>]+')


def redact(text: str) -> str:
    """The text with every secret covered; a text without one comes back as it is."""
    return _cover(text, MARK)


def holds_secret(text: str) -> bool:
    """Whether the text holds a secret, or the mark in the place of one."""
    return _cover(text, "\0") != text


def holds_credentials(text: str) -> bool:
    """As holds_secret, but by the text alone, whatever the environment holds."""
    return _patterns(text, "\0", DEPTH) != text


def variable_in(text: str) -> str | None:
    """The secret environment variable of this process whose value the text holds."""
    return next((name for name, value in _secrets() if any(form in text for form in _forms(value))), None)


@contextlib.contextmanager
def streams() -> Iterator[None]:
    """Covers what anything prints meanwhile: help, warnings, loggers and tracebacks of threads as well."""
    out, err = _Covered(sys.stdout), _Covered(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):  # type: ignore[type-var]
        yield


def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For sys.excepthook: a bug keeps its traceback, without secrets."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


class _Covered:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def _cover(text: str, mark: str) -> str:
    for form in _spelled(tuple(value for _, value in _secrets())):
        text = text.replace(form, mark)
    return _patterns(text, mark, DEPTH)


def _patterns(text: str, mark: str, depth: int) -> str:
    if "://" in text:
        for pattern in (_TORN_USER, _USER):
            text = pattern.sub(lambda m: m[0] if _is_public(m) else f"://{mark}@", text)
    for pattern in (_QUERY, _NAMED, _HEADER, _BEARER):
        text = pattern.sub(lambda m: m[1] + mark, text)
    text = _SHAPE.sub(lambda _: mark, text)
    if depth and _ENCODED.search(text):
        return _WORD.sub(lambda m: _decoded(m[0], mark, depth), text)
    return text


def _decoded(word: str, mark: str, depth: int) -> str:
    """A word whose secret shows only when its percent-encoding is taken off comes back covered, and without it."""
    if not _ENCODED.search(word):
        return word
    plain = unquote(word)
    covered = _patterns(plain, mark, depth - 1)
    return word if covered == plain else quote(covered, safe="/:?&=@#+,;*()[]'", errors="surrogatepass")


def _is_public(match: re.Match[str]) -> bool:
    user = match["user"]
    before = re.search(r"(?i)[a-z][a-z0-9+.-]*$", match.string[max(0, match.start() - 16) : match.start()])
    scheme = before[0].lower() if before else ""
    named = scheme in _PUBLIC_USER and ":" not in user and "%3a" not in user.lower() and MARK not in user
    return named or user == "anonymous" or not user


def _secrets() -> list[tuple[str, str]]:
    """Secret environment variables and their values."""
    named = [k for k in os.environ if _is_secret(k)]
    variables = ((k, os.environ.get(k, "").strip()) for k in named)
    return [(k, v) for k, v in variables if len(v) >= SHORTEST and v.strip("*")]


@lru_cache(maxsize=4096)
def _is_secret(variable: str) -> bool:
    return _VARIABLE.search(variable) is not None


@lru_cache(maxsize=4)
def _spelled(values: tuple[str, ...]) -> list[str]:
    """Every form of these values, the longest first."""
    return sorted({form for value in values for form in _forms(value)}, key=len, reverse=True)


def _forms(value: str) -> set[str]:
    """The ways in which a value may be spelled in a text."""
    data = value.encode(errors="surrogateescape")
    once = [quote(data, safe=""), quote(data), quote_plus(data)]
    encoded = [re.sub("%..", lambda m: m[0].lower(), form) for form in once]
    escaped = [
        html.escape(value),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
    ]
    return {value, *once, *encoded, *map(quote, once), *escaped, *_in_base64(data)}


def _in_base64(data: bytes) -> Iterator[str]:
    """The characters of base64 that the bytes alone decide, wherever they stand in what was encoded."""
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + data)
        sure = whole[(0, 2, 3)[before] : (before + len(data)) * 8 // 6].decode()
        yield sure
        yield sure.translate(str.maketrans("+/", "-_"))
