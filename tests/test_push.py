"""An export onto the hub: previewed without it, there whole in one commit, read back, and refused in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hub_server import Hub
from test_exporters import contents
from test_exporters import run as run  # the fixture

from raydistill import cli
from raydistill.config import SourceConfig
from raydistill.sources import detect
from raydistill.sources.base import open_source

TOKEN = "hf_c4n4ry"
SHARD = "data/train-00000-of-00001.parquet"


@pytest.fixture
def hub(served: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    served.writers[TOKEN] = {"me"}
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # the hub's other way for large files
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return served


def pushed(run: Path, *more: str, name: str = "me/set") -> int:
    return cli.main(["export", "--run", str(run), "--format", "hf", "--push", name, *more])


def refusal(capsys: Any, run: Path, code: int, *more: str, name: str = "me/set") -> str:
    assert pushed(run, *more, name=name) == code
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and TOKEN not in said[0]
    return said[0]


def test_it_is_there_whole_in_one_commit_and_read_by_its_id(hub: Hub, run: Path, capsys: Any) -> None:
    assert pushed(run) == 0
    url = capsys.readouterr().out.splitlines()[-1]
    commit = url.rpartition("/commit/")[2]
    there = hub.commits["me/set"][commit]
    assert set(there) == {".gitattributes", "README.md", "classes.json", SHARD}
    assert there[SHARD] == (run / "distilled" / SHARD).read_bytes()
    config = detect.settled(SourceConfig(kind="auto", path="me/set"))
    listing = open_source(config).list("train")
    assert config.revision == commit and len(listing) == 18
    assert [c.class_id for c in listing.classes] == ["n01", "N01", "..", "a/b.c", "metadata.jsonl", "犬"]


def test_a_second_push_takes_shards_of_ours_that_are_no_more(hub: Hub, run: Path, capsys: Any) -> None:
    others = {f"{where}train-00000-of-00001.parquet": b"" for where in ("", "ipc50/", "data/other/")}
    others |= {"data/test-00000-of-00001.parquet": b"", "notes.md": b"mine"}
    hub.push("me/set", {"data/train-00000-of-00002.parquet": b"", **others})
    assert pushed(run) == 0
    assert set(hub.commits["me/set"]["main"]) == {*others, "README.md", "classes.json", SHARD}
    assert pushed(run) == 0, "and again, unchanged"


def test_the_token_goes_nowhere_else(hub: Hub, run: Path, tmp_path: Path, capsys: Any) -> None:
    assert pushed(run, "--out", str(tmp_path / "out")) == 0 and pushed(run, "--dry-run") == 0
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    assert not [name for name, data in contents(tmp_path).items() if TOKEN.encode() in data]


def test_a_dry_run_lists_what_would_go_and_asks_nobody(
    hub: Hub, run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pushed(run, "--dry-run", "--private") == 0
    *lines, taken, last = capsys.readouterr().out.splitlines()
    assert "data/train-*.parquet of an earlier push" in taken
    assert [line.split()[1] for line in lines] == ["README.md", "classes.json", SHARD]
    assert last.split()[0] == f"{sum(int(line.split()[0].replace(',', '')) for line in lines):,}"
    assert "/datasets/me/set, private if it is new, as whom your token says" in last and not hub.asked
    monkeypatch.delenv("HF_TOKEN")
    assert pushed(run, "--dry-run") == 0
    assert "which needs a token: `hf auth login`, or HF_TOKEN" in capsys.readouterr().out


class TestRefusals:
    def test_without_a_token(self, hub: Hub, run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HF_TOKEN")
        assert "log in with `hf auth login`, or set HF_TOKEN" in refusal(capsys, run, 2) and not hub.asked
        monkeypatch.setenv("HF_TOKEN", TOKEN)  # the remedy
        assert pushed(run) == 0

    def test_a_token_that_is_none(self, hub: Hub, run: Path, capsys: Any) -> None:
        hub.writers.clear()
        assert "does not take your token; log in again" in refusal(capsys, run, 2)

    def test_anothers_place(self, hub: Hub, run: Path, capsys: Any) -> None:
        assert "--push you/set: your token may not write there" in refusal(capsys, run, 2, name="you/set")

    def test_without_a_network(self, hub: Hub, unreachable: None, run: Path, capsys: Any) -> None:
        said = refusal(capsys, run, 1)
        assert "is not on http://127.0.0.1" in said and said.endswith("run the same command again")

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--push", "set"], "--push set: give a repository on the hub, OWNER/NAME"),
            (["--format", "webdataset", "--push", "me/set"], "--push goes with --format hf"),
            (["--private", "--out", "x"], "--private and --dry-run go with --push"),
            ([], "give --out DIR, a new or empty folder, or --push OWNER/NAME"),
        ],
    )
    def test_words_that_do_not_go_together(self, words: list[str], says: str, run: Path, capsys: Any) -> None:
        assert cli.main(["export", "--run", str(run), "--format", "hf", *words]) == 2
        assert says in capsys.readouterr().err and not os.path.exists("x")
