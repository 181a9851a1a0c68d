"""Secrets are covered in whatever way they are written; a text without one is left as it is."""

from __future__ import annotations

import base64
import html
import json
import os
import pickle
import re
import string
import subprocess
import sys
import threading
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raydistill.errors import BadInput, one_line
from raydistill.redact import MARK, holds_secret, redact, streams, variable_in

VALUE = "c4n4ry/Se+cret=9 é"  # with characters that each way of quoting changes
SECRETS = st.text(string.ascii_letters + string.digits + "/+=.~_!$-", min_size=12, max_size=40).filter(
    lambda s: s[0].isalpha() and "//" not in s  # digits before a slash are a port
)
WORDS = st.text(string.ascii_lowercase, min_size=1, max_size=8)
ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "percent": lambda t: quote(t, safe=""),
    "percent in lower case": lambda t: quote(t, safe="").replace("%2F", "%2f").replace("%3A", "%3a"),
    "percent twice": lambda t: quote(quote(t, safe=""), safe=""),
    "a query's value": lambda t: "https://a.org/go?next=" + quote_plus(t),
    "html": html.escape,
    "json": lambda t: json.dumps({"uri": t}),
    "repr": lambda t: f"cannot open {t!r}: denied",
    "words": lambda t: f"see {t} and {t}, (first: {t})",
}
FORMS = {
    "user information": "s3://AK:{}@bucket/a/b?region=eu",
    "key alone": "https://{}@github.com/a/b",
    "s3 options": "s3://bucket/a?access_key=AK&secret_key={}&region=eu",
    "session": "s3://bucket/a?session_token={}",
    "presigned": "https://b.s3.amazonaws.com/a?X-Amz-Expires=60&X-Amz-Signature={}&X-Amz-Date=1",
    "presigned by the key": "https://b.s3.amazonaws.com/a?X-Amz-Credential={}",
    "presigned token": "https://b.s3.amazonaws.com/a?X-Amz-Security-Token={}",
    "SAS": "https://a.blob.core.windows.net/c/b?sv=2024&se=2030-01-01&sig={}&sp=r",
    "google": "https://storage.googleapis.com/b/a?X-Goog-Signature={}",
    "token": "https://a.org/x?a=1&token={}",
    "password": "https://a.org/x?password={}",
    "api key": "https://a.org/x?api_key={}",
    "azure": "abfss://box:{}@account.dfs.core.windows.net/a",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("form", FORMS)
@given(secret=SECRETS)
def test_no_credential_of_a_uri_survives_in_any_quoting(form: str, encoding: str, secret: str) -> None:
    bare = {secret} if "/" not in secret or form != "key alone" else set()  # what no mark tells from a path
    for spelled in {*bare, quote(secret, safe="")}:
        text = ENCODINGS[encoding](FORMS[form].format(spelled))
        covered = redact(text)
        assert MARK in covered and holds_secret(text) and holds_secret(covered)
        for shown in (
            spelled,
            ENCODINGS["percent"](spelled),
            ENCODINGS["percent twice"](spelled),
            html.escape(spelled),
        ):
            assert shown not in covered, (text, covered)
        assert redact(covered) == covered


@pytest.mark.parametrize(
    ("text", "covered"),
    [
        ("s3://KEY:SECRET@bucket/a", f"s3://{MARK}@bucket/a"),
        ("s3://KEY:SE/CR?ET@bucket/a b@c", f"s3://{MARK}@bucket/a b@c"),
        ("at s3://b/a?region=eu&secret_key=S&scheme=http.", f"at s3://b/a?region=eu&secret_key={MARK}&scheme=http."),
        ("AWS_SECRET_ACCESS_KEY=abc python x", f"AWS_SECRET_ACCESS_KEY={MARK} python x"),
        ("{'secret_key': 'abc', 'region': 'eu'}", f"{{'secret_key': '{MARK}', 'region': 'eu'}}"),
        ("Authorization: Basic dXNlcjpwYXNz", f"Authorization: Basic {MARK}"),
        ("Bearer 0123456789abcdef0123", f"Bearer {MARK}"),
        ("key AKIA" + "ABCDEFGH01234567", f"key {MARK}"),
        ("(hf_" + "abcdefghij" * 3 + "ABCD)", f"({MARK})"),
    ],
)
def test_what_is_no_secret_stays_readable_beside_one(text: str, covered: str) -> None:
    assert redact(text) == covered and holds_secret(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/folder?endpoint_override=127.0.0.1:9000&scheme=http&region=us-east-1",
        "gs://anonymous@bucket/folder",
        "abfss://container@account.dfs.core.windows.net/a",
        "http://127.0.0.1:8265/a@b?mail=c@d.org",
        "http://[::1]:80/a@b",
        "s3://bucket: no such thing, ask me@example.org",
        "a@b",
        "someone@example.org",
        "/data/images/50%/a b/ünï.png",
        "the token is missing; set RAY_AUTH_MODE=token",
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN)",
        "bearer certificates and basic authorization",
        "100%25 of 3%3A4",
        "generator.patch=2 evaluate.protocol.name=hard key=value",
        "data:image/png;base64,iVBORw0KGgo/+AKIAx==",
        "",
    ],
)
def test_what_holds_no_secret_is_left_as_it_is(text: str) -> None:
    assert redact(text) == text and not holds_secret(text)


@given(
    st.lists(WORDS | st.sampled_from(["a@b", "n0123", "x=1", "50%", "%20", "?", "é"]), max_size=6),
    st.sampled_from("/ .,_-"),
)
def test_ordinary_paths_and_words_are_left_as_they_are(words: list[str], between: str) -> None:
    text = between.join(words)
    assume("password" not in text)
    for whole in (text, f"s3://bucket/{quote(text)}?scheme=http", f"https://host:80/{quote(text)}"):
        assert redact(whole) == whole and not holds_secret(whole)


@given(st.text(max_size=200) | st.text("s3:/@?&=%4025AKsigtoken*", max_size=60))
def test_a_covered_text_is_not_covered_again(text: str) -> None:
    assert redact(redact(text)) == redact(text)


class TestTheEnvironment:
    @pytest.mark.parametrize(
        "name",
        ["RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
         "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MY_SECRET", "WANDB_API_KEY", "PGPASSWORD"],
    )  # fmt: skip
    def test_s_secrets_are_covered_wherever_they_stand(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, VALUE)
        for text in (f"/data/{VALUE}/x", f"{VALUE}", f"x{VALUE}y"):
            assert redact(text) == text.replace(VALUE, MARK)
            assert variable_in(text) == name and holds_secret(text)
        monkeypatch.delenv(name)
        assert redact(VALUE) == VALUE

    def test_s_secrets_are_covered_in_any_quoting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", VALUE)
        once = quote(VALUE, safe="")
        lower = re.sub("%..", lambda m: m[0].lower(), once)
        for form in [VALUE, once, lower, quote(VALUE), quote_plus(VALUE), quote(once), html.escape(VALUE)]:
            assert redact(f"<{form}>") == f"<{MARK}>"
        for form in [repr(VALUE), json.dumps(VALUE), json.dumps(VALUE, ensure_ascii=False)]:
            assert redact(form)[1:-1] == MARK

    @pytest.mark.parametrize("before", ["", "u:", "us:", "user:"])
    @pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
    def test_s_secrets_are_covered_in_base64(
        self, before: str, encode: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", VALUE)
        head, mark, tail = redact(encode(f"{before}{VALUE}|".encode()).decode()).partition(MARK)
        assert mark and len(head) <= len(before) * 4 / 3 + 1 and len(tail) <= 4

    def test_s_short_or_masked_or_public_values_cover_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "digits")
        monkeypatch.setenv("CI_PASSWORD", "********")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/key.json")
        text = "digits ******** /home/me/key.json"
        assert redact(text) == text


def test_errors_hold_no_secret_whoever_shows_them() -> None:
    error = BadInput("cannot open s3://K:S3CRET@b")
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == f"cannot open s3://{MARK}@b"
    assert "S3CRET" not in repr(error) and one_line("no\n s3://K:S3CRET@b") == f"no s3://{MARK}@b"


def test_whatever_is_printed_is_covered(capsys: pytest.CaptureFixture[str]) -> None:
    with streams():
        print("out", "s3://K:S3CRET@b")
        sys.stderr.writelines(["s3://K:S3CRET@b\n"])
        assert not sys.stderr.isatty()
        threading.__excepthook__(threading.ExceptHookArgs((ValueError, ValueError("s3://K:S3CRET@b"), None, None)))
    out, err = capsys.readouterr()
    assert out == f"out s3://{MARK}@b\n" and err.count(f"s3://{MARK}@b") == 2 and "S3CRET" not in err


def test_a_bug_keeps_its_traceback_without_secrets() -> None:
    """Ray, which has a hook of its own, is imported on the way, as it is by a run."""
    code = (
        "import sys\nfrom raydistill import cli\n"
        "def bug(*_):\n    import ray\n    raise RuntimeError('at s3://K:S3CRET@b and ' + 'v4lue-of-the-token')\n"
        "cli.run = bug\ncli.main(['distill'])"
    )
    env = {**os.environ, "HF_TOKEN": "v4lue-of-the-token"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert "Traceback" in done.stderr and f"RuntimeError: at s3://{MARK}@b and {MARK}" in done.stderr
    assert "S3CRET" not in done.stderr and "v4lue" not in done.stderr.replace("'v4lue-of-the-token')", "")
