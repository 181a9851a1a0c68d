"""Secrets stay secret: refused where they would be kept, and in no file and no line of a run that has them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import pytest
from object_store import Store, endpoint
from running import TINY as WHOLE
from running import write_digits

from raydistill import cli
from raydistill import config as configuration
from raydistill.distributed import executors
from raydistill.errors import BadInput
from raydistill.pipeline import job
from raydistill.stages import runner
from raydistill.store import location
from raydistill.store.location import Location

CANARY = "c4n4ry/w0uld+s1ng=aloud"
VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MY_API_KEY")
TINY = [
    "source.classes=[0,1]",
    "group.buckets=2",
    "encode.chunk=7",
    "encode.batch=4",
    "ipc=1",
    "sampler.steps=2",
    "sampler.cfg_scale=1",
    "evaluate.baselines=[]",
]
URI = f"s3://AKID:{quote(CANARY, safe='')}@bucket/images"
Says = Callable[[], str]


def songs(text: bytes | str) -> list[str]:
    """The ways in which the canary is spelled in a text."""
    data = text.encode() if isinstance(text, str) else text
    once = quote(CANARY, safe="")
    forms = {CANARY, once, once.lower(), quote(once, safe=""), quote(CANARY), json.dumps(CANARY)[1:-1]}
    for before in range(3):  # wherever it stands in what was encoded, without the characters that its neighbours decide
        forms.add(base64.b64encode(b"x" * before + CANARY.encode()).decode()[4:-4])
    return [form for form in forms if form.encode() in data]


@pytest.fixture
def canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets in this process's environment."""
    for name in VARIABLES:
        monkeypatch.setenv(name, CANARY)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Says:
    """said() is what has been printed since, in which nothing sings."""

    def call() -> str:
        text = "".join(capsys.readouterr())
        assert not songs(text), text
        return text

    return call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to stand in, in which nothing may be written."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(job, "run", lambda *_, **__: pytest.fail("work began"))
    yield folder
    assert not list(folder.iterdir())


def written(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_canary_is_heard() -> None:
    """The tests below would pass for nothing if it were not."""
    for text in (f"x{CANARY}", URI, quote(URI), base64.b64encode(f"AKID:{CANARY}".encode()), json.dumps([CANARY])):
        assert songs(text)
    assert not songs("nothing")


class TestRefused:
    @pytest.mark.parametrize(
        ("value", "says"),
        [
            (f"[{URI}]", "s3://***@bucket/images] holds credentials"),
            (f"s3://bucket/images?secret_key={quote(CANARY)}&region=eu", "secret_key=***&region=eu holds credentials"),
            (f"https://a.org/x?sig={CANARY}", "https://a.org/x?sig=*** holds credentials"),
            (f"/data/{CANARY}", "/data/*** holds the value of the environment variable"),
        ],
    )
    @pytest.mark.parametrize("key", ["run_dir", "evaluate.students", "sampler.steps"])
    def test_whatever_kind_it_is(self, key: str, value: str, says: str, here: Path, canaries: None, said: Says) -> None:
        assert cli.main(["distill", f"{key}={value}"]) == 2
        line = said()
        assert line.startswith(f"error: configuration key {key}: ") and line.count("\n") == 1 and says in line
        assert ("let the environment hold them: AWS_ACCESS_KEY_ID, AWS_SECRET" in line) == ("credentials" in says)

    def test_as_the_value_of_any_key(self, here: Path, said: Says) -> None:
        for key, _ in configuration.leaves(configuration.Config):
            assert cli.main(["distill", f"{key}={URI}"]) == 2
            assert said().startswith(f"error: configuration key {key}: s3://***@bucket/images holds credentials")

    @pytest.mark.parametrize(
        "argv",
        [
            [URI],
            ["distill", URI],
            ["distill", f"{URI}=3"],
            ["distill", f"--config={URI}"],
            ["distill", f"source.path={URI}{'x' * 300}"],
            ["distill", f"source.path={URI}\udcff"],
            ["report", f"{URI}\udcff"],
            ["distill", f"--{URI}"],
            ["distill", "--run", URI],
            ["distill", f"source.path={URI}", "--print-config"],
            ["evaluate", "--images", URI],
            ["evaluate", f"students=[{URI}]"],
            ["pretrain", f"pretrain.out={URI}"],
            ["report", URI, "."],
            ["export", "--run", URI, "--format", "hf", "--out", "x"],
            ["export", "--run", ".", "--format", URI, "--out", "x"],
            ["export", "--run", ".", "--format", "hf", "--out", URI],
        ],
    )
    def test_wherever_it_stands_on_the_command_line(self, argv: list[str], here: Path, said: Says) -> None:
        assert cli.main(argv) == 2
        assert said().startswith("error: ")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (f"source: {{path: '{URI}'}}", "config.yaml: key source.path: s3://***@bucket/images holds credentials"),
            (f"evaluate: {{students: [a, '{URI}']}}", "key evaluate.students.1: "),
            (f"nonsense: {{a: {{b: '{URI}'}}}}", "key nonsense.a.b: "),
            (f"'{URI}': 3", "holds credentials"),
            (f"- '{URI}'", "holds credentials"),
            (f"source: {{path: '{URI}'", "not YAML, and it holds credentials"),
            (f"'{URI}': 1\n'{URI}': 2", "not YAML, and it holds credentials"),
        ],
    )
    def test_in_a_file(self, text: str, says: str, here: Path, tmp_path: Path, said: Says) -> None:
        (tmp_path / "config.yaml").write_text(text)
        for words in (["--config", str(tmp_path / "config.yaml")], ["--run", str(tmp_path)]):
            assert cli.main(["distill", *words]) == 2
            assert says in said()

    def test_by_the_library(self, here: Path) -> None:
        with pytest.raises(BadInput, match=r"key source.path: .* holds credentials"):
            configuration.build({"source": {"path": URI}})
        with pytest.raises(BadInput, match="holds credentials") as caught:
            Location.of(URI)
        assert not songs(str(caught.value))


class Recorder(BaseHTTPRequestHandler):
    """Answers that nothing is there, and remembers by whose key each request was signed."""

    signed: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.signed.append(self.headers.get("Authorization", ""))
        self.send_response(404)
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        return


def test_the_remedy_works_requests_are_signed_by_the_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOFTHEENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    location._object_store.cache_clear()
    try:
        uri = f"s3://bucket/images?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=eu-west-1"
        assert not Location.of(uri).exists()
    finally:
        server.shutdown()
        server.server_close()
    assert Recorder.signed and all("Credential=AKIDOFTHEENVIRONMENT/" in s for s in Recorder.signed)


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "on_ray", lambda config, keep: runner.serial)


@pytest.fixture
def store(canaries: None) -> Iterator[Store]:
    with endpoint() as running:  # sets keys of its own
        for name in VARIABLES:
            os.environ[name] = CANARY
        location._object_store.cache_clear()
        yield running
    location._object_store.cache_clear()


class TestNothingSings:
    def test_in_a_run_from_s3_to_s3_with_keys_in_the_environment(
        self, store: Store, tmp_path: Path, without_ray: None, said: Says
    ) -> None:
        source, run = store.upload(write_digits(tmp_path / "images")), store.folder()
        assert cli.main(["sample", "source.kind=imagefolder", f"source.path={source}", *TINY, f"run_dir={run}"]) == 0
        assert said().splitlines()[0] == run
        files = store.files(run)
        assert {"config.yaml", "logs/costs.json", "distilled/README.md"} <= set(files)
        assert {name: songs(data) for name, data in files.items() if songs(data)} == {}

    def test_in_a_run_that_ends_in_errors_that_hold_them(
        self, tmp_path: Path, canaries: None, without_ray: None, said: Says, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An image named for the secret, which is broken, and a network that says it."""
        images = write_digits(tmp_path / "images")
        (images / "train" / "1" / f"{quote(CANARY, safe='')}.png").write_bytes(b"")
        argv = ["sample", "source.kind=imagefolder", f"source.path={images}", *TINY, f"run_dir={tmp_path / 'run'}"]
        assert cli.main(argv) == 1
        assert "1/***.png" in said() and "1/***.png\t" in (tmp_path / "run/logs/quarantine.tsv").read_text()

        def fail(*_: object, **__: object) -> None:
            raise BadInput(f"{URI} and {CANARY}") from ValueError(f"{URI} and {CANARY}")

        monkeypatch.setattr("raydistill.stages.syntheses.sample.stage", fail)
        assert cli.main([*argv, "source.max_broken=0.9"]) == 1
        assert "error: s3://***@bucket/images and ***" in said()
        trace = (tmp_path / "run/logs/error.txt").read_text()
        assert "ValueError: s3://***@bucket/images and ***" in trace
        leaks = {n: songs(data) for n, data in written(tmp_path / "run").items() if songs(data)}
        assert not {n for n in leaks if n.endswith((".yaml", ".txt", ".tsv", ".html", ".md")) or n.startswith("seals")}

    def test_in_what_others_print_meanwhile(self, said: Says, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(*_: object) -> int:
            print(URI)
            sys.stderr.write(URI)
            return 0

        monkeypatch.setattr(cli, "run", run)
        assert cli.main(["distill"]) == 0
        assert said() == "s3://***@bucket/images\ns3://***@bucket/images"

    @pytest.mark.ray
    def test_on_the_page_of_a_run(
        self,
        reference: tuple[Path, subprocess.CompletedProcess[str]],
        tmp_path: Path,
        canaries: None,
        said: Says,
    ) -> None:
        run = Path(shutil.copytree(reference[0], tmp_path / "run"))
        for name in ("report.html", "result.json", "config.yaml"):
            (run / name).unlink()
        assert cli.main(["distill", *WHOLE, f"run_dir={run}"]) == 0
        assert said().splitlines()[0] == str(run)
        files = written(run)
        assert {"report.html", "result.json", "config.yaml"} <= set(files)
        assert {name: songs(data) for name, data in files.items() if songs(data)} == {}


class TestFiles:
    def test_that_tell_what_was_asked_for_are_their_owner_s_alone(
        self, tmp_path: Path, without_ray: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images, run = write_digits(tmp_path / "images"), tmp_path / "run"
        argv = ["sample", "source.kind=imagefolder", f"source.path={images}", *TINY, f"run_dir={run}"]
        old = os.umask(0o022)
        try:
            assert cli.main(argv) == 0
            (run / "config.yaml").chmod(0o644)  # as an earlier version left it
            function = "raydistill.stages.syntheses.sample.stage"
            monkeypatch.setattr(function, lambda *_: (_ for _ in ()).throw(BadInput("no")))
            assert cli.main([*argv, "seed=1"]) == 1
        finally:
            os.umask(old)
        modes = {str(p.relative_to(run)): stat.S_IMODE(p.stat().st_mode) for p in run.rglob("*") if p.is_file()}
        private = {name for name, mode in modes.items() if mode == 0o600}
        assert {"config.yaml", "logs/error.txt", "logs/costs.json"} <= private
        mine = ("config.yaml", "logs/", "seals/config.yaml.json", "seals/logs%2F")
        assert private == {name for name in modes if name.startswith(mine)}
        assert any(name.startswith("logs/config-") for name in private)
        assert {mode for name, mode in modes.items() if name not in private} == {0o644}

    def test_of_an_earlier_version_that_hold_credentials_are_named_and_the_remedy_works(
        self, tmp_path: Path, without_ray: None, said: Says
    ) -> None:
        images, run = write_digits(tmp_path / "images"), tmp_path / "run"
        argv = ["sample", "source.kind=imagefolder", f"source.path={images}", *TINY, f"run_dir={run}"]
        assert cli.main(argv) == 0
        (run / "config.yaml").write_text(f"source:\n  path: {URI}\n")
        said()
        before = written(run)
        assert cli.main(argv) == 2
        line = said()
        assert (
            f"{run}/config.yaml holds credentials, kept by an earlier version; delete it, report.html and logs" in line
        )
        assert written(run) == before
        (run / "config.yaml").unlink()
        shutil.rmtree(run / "logs")
        assert cli.main(argv) == 0
        said()
        after = written(run)
        assert not any(songs(data) for data in after.values())
        assert {n for n in before if "/commits/" in n} == {n for n in after if "/commits/" in n}
