"""A data set by its id on the hub: fetched once, known by its commit, found without a network, refused in one line."""

from __future__ import annotations

import os
import pickle
import shlex
from pathlib import Path

import pytest
from hub_server import Hub, cached, tree
from huggingface_hub import constants, snapshot_download
from samples import parquet_set, remedied, tar_set, write_folder

from raydistill import config as configuration
from raydistill.config import SourceConfig
from raydistill.errors import BadInput
from raydistill.pipeline.folder import sized
from raydistill.pipeline.preflight import absolute, prepare
from raydistill.planning.facts import gather
from raydistill.pretraining.plan import make_plan
from raydistill.sources import detect
from raydistill.sources.base import Splits, open_splits
from raydistill.store.hub import ID


def files(path: Path) -> dict[str, bytes]:
    return tree(parquet_set(path)) | {"README.md": b"", "script.py": b"", "pickle.pkl": b"", ".gitattributes": b""}


def opened(path: str = "me/shapes", **more: object) -> tuple[SourceConfig, Splits]:
    config = detect.settled(SourceConfig(kind="auto", path=path, **more))  # type: ignore[arg-type]
    return config, open_splits(config)


def refusal(path: str = "me/shapes", **more: object) -> str:
    with pytest.raises(BadInput) as caught:
        opened(path, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestFetching:
    def test_images_and_tables_are_fetched_once_and_the_commit_is_kept(self, served: Hub, tmp_path: Path) -> None:
        commit = served.push("me/shapes", files(tmp_path / "set"))
        config, splits = opened()
        assert (config.path, config.revision, config.kind) == ("me/shapes", commit, "parquet")
        assert len(splits.train) == 10 and len(list(splits.source.read("train", splits.train.ids.to_pylist()))) == 10
        shards = {n for n in files(tmp_path / "set") if n.endswith(".parquet")}
        assert served.fetched() == shards
        served.asked.clear()
        again, same = opened()
        assert again == config == pickle.loads(pickle.dumps(config)) and config.folder != config.path
        assert same.train.digest == splits.train.digest and not served.asked

    @pytest.mark.parametrize("make", [
        lambda p: write_folder(p, {"train": 4, "val": 2}),
        tar_set,
        lambda p: parquet_set(p / "plain_text").parent,
    ], ids=["folders of links", "tar", "a configuration"])  # fmt: skip
    def test_every_kind_is_read_from_the_cache_of_links(self, make, served: Hub, tmp_path: Path) -> None:
        set_of = make(tmp_path / "set")
        served.push("me/shapes", tree(set_of))
        _, splits = opened()
        _, local = opened(str(set_of))
        assert splits.train.ids.equals(local.train.ids) and (splits.train.labels == local.train.labels).all()
        ids = splits.train.ids.to_pylist()
        assert list(splits.source.read("train", ids)) == list(local.source.read("train", ids))
        folder = Path(str(detect.settled(SourceConfig(kind="auto", path="me/shapes")).folder))
        assert any(p.is_symlink() for p in folder.rglob("*"))
        opened(str(folder))  # given as a folder, too

    def test_identity_is_the_commit_and_not_the_time_of_fetching(self, served: Hub, tmp_path: Path) -> None:
        served.push("me/shapes", files(tmp_path / "set"))
        config, splits = opened()
        for blob in (Path(str(config.folder)).parents[1] / "blobs").iterdir():
            os.utime(blob, (1, 1))
        assert opened()[1].train.digest == splits.train.digest
        other = served.push("me/shapes", files(tmp_path / "set") | {"README.md": b"another"}, branch="v2")
        pinned, changed = opened(revision="v2")
        assert pinned.revision == other and changed.train.digest != splits.train.digest

    def test_a_revision_is_kept_to(self, served: Hub, tmp_path: Path) -> None:
        old = served.push("me/shapes", files(tmp_path / "set"))
        new = served.push(
            "me/shapes",
            files(tmp_path / "set") | {"classes.json": b'{"dirs":["a","b","c"],"names":["blue","green","red"]}'},
        )
        assert [opened(revision=r)[0].revision for r in (None, old, "main")] == [new, old, new]
        assert [c.class_id for c in opened()[1].train.classes] == ["a", "b", "c"]


class TestRuns:
    def run(self, tmp_path: Path, *more: str) -> list[str]:
        return ["source.kind=auto", "source.path=me/shapes", f"run_dir={tmp_path / 'run'}", *more]

    def test_the_configuration_of_a_run_holds_id_and_commit(
        self, served: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        commit = served.push("me/shapes", files(tmp_path / "set"))
        kept = absolute(configuration.load("quickstart", self.run(tmp_path))).tree()["source"]
        assert (kept["path"], kept["revision"], kept["kind"]) == ("me/shapes", commit, "parquet")
        assert f"me/shapes at commit {commit}, in {constants.HF_HUB_CACHE}" in capsys.readouterr().err
        prepared = prepare(configuration.load("quickstart", self.run(tmp_path, "method=random")), evaluate=False)
        assert len(prepared.splits.train) == 10 and not (tmp_path / "run").exists()

    def test_a_training_takes_it_too(self, served: Hub, tmp_path: Path) -> None:
        commit = served.push("me/shapes", files(tmp_path / "set"))
        plan = make_plan(
            configuration.load(
                "quickstart", self.run(tmp_path, "pretrain.target=vae", f"pretrain.out={tmp_path / 'out'}")
            )
        )
        assert plan.config.source.revision == commit and len(plan.listing) == 10

    def test_one_command_takes_it_as_a_folder_of_ones_own(self, served: Hub, tmp_path: Path) -> None:
        commit = served.push("me/shapes", tree(write_folder(tmp_path / "set", {"": 8})))
        config = sized(["source.path=me/shapes", "method=random", f"run_dir={tmp_path / 'run'}"])
        assert (config.source.revision, config.source.val, config.source.train) == (commit, "split:0.2", ".")

    def test_a_plan_fetches_nothing(self, served: Hub, tmp_path: Path) -> None:
        served.push("me/shapes", files(tmp_path / "set"))
        more = ("method=random", "evaluate.baselines=[]")
        config = configuration.load("quickstart", self.run(tmp_path, *more))
        with pytest.raises(BadInput, match=r"source.path=me/shapes: a plan fetches nothing; give its folder with"):
            gather(config)
        assert not served.asked
        opened()
        assert gather(config)[2].images.train == 10


class TestWithoutNetwork:
    @pytest.mark.parametrize("how", ["offline", "unreachable"])
    def test_what_was_fetched_is_read(
        self, how: str, served: Hub, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        served.push("me/shapes", files(tmp_path / "set"))
        config, _ = opened()
        request.getfixturevalue(how)
        assert opened()[0] == config

    @pytest.mark.parametrize("how", ["offline", "unreachable"])
    def test_a_copy_of_another_program_is_read(self, how: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        request.getfixturevalue(how)
        folder = cached("me/shapes", tree(parquet_set(tmp_path / "set")), commit="a" * 40, kind="datasets")
        config, splits = opened()
        assert (config.folder, config.revision, len(splits.train)) == (str(folder), "a" * 40, 10)

    def test_the_command_that_is_named_fills_the_cache(
        self, served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        served.push("me/shapes", files(tmp_path / "set"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        said = refusal(revision="main")
        assert f"is no folder here ({Path.cwd() / 'me' / 'shapes'})" in said and "HF_HUB_OFFLINE is set" in said
        words = shlex.split(said.split("`")[1])
        assert words == ["hf", "download", "me/shapes", "--repo-type", "dataset", "--revision", "main"]
        assert "any local folder with source.path=DIR" in said
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        snapshot_download("me/shapes", repo_type="dataset", revision="main")  # what this command does
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        opened(revision="main")

    def test_half_a_copy_is_told(self, served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        served.push("me/shapes", files(tmp_path / "set"))
        config, _ = opened()
        (Path(str(config.folder)) / "train-00001-of-00002.parquet").unlink()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "it is only in part in the cache" in refusal()


class TestRefusals:
    def test_no_such_data_set(self, served: Hub) -> None:
        said = refusal("data/shapes")
        assert f"source.path=data/shapes is neither a folder here ({Path.cwd()}/data/shapes) nor a data set" in said
        assert "log in with `hf auth login`" in said

    def test_no_such_revision(self, served: Hub, tmp_path: Path) -> None:
        served.push("me/shapes", files(tmp_path / "set"))
        said = refusal(revision="v9")
        page = f"{constants.ENDPOINT}/datasets/me/shapes/commits/main"
        assert said == f"source.revision: me/shapes has no branch, tag or commit v9; see {page}"

    def test_terms_to_accept(self, served: Hub, tmp_path: Path) -> None:
        served.push("me/shapes", files(tmp_path / "set"))
        served.gated.add("me/shapes")
        assert f"accept them at {constants.ENDPOINT}/datasets/me/shapes and log in" in refusal()

    def test_nothing_that_is_read(self, served: Hub, tmp_path: Path) -> None:
        """The hub's own conversion, which is named, is read."""
        served.push("me/shapes", {"data.zip": b"", "shapes.py": b"", "README.md": b"", "notes.txt": b"1"})
        said = refusal()
        assert "holds no images that are read (it has README.md, data.zip, notes.txt, shapes.py)" in said
        made = tree(parquet_set(tmp_path / "set"))
        names = {n: f"default/{n.partition('-')[0]}/{i:04d}.parquet" for i, n in enumerate(sorted(made))}
        served.push("me/shapes", {names[n]: data for n, data in made.items()}, branch="refs/convert/parquet")
        config = detect.settled(remedied("auto", said.partition(", the Parquet")[0], Path("me/shapes")))
        assert len(open_splits(config).train) == 10

    @pytest.mark.parametrize(("kind", "path"), [("auto", "."), ("digits", None)])
    def test_a_revision_goes_with_an_id_alone(self, kind: str, path: str | None) -> None:
        with pytest.raises(BadInput, match=r"source.revision=main goes with an id on the hub.*; leave it out"):
            detect.settled(SourceConfig(kind=kind, path=path, revision="main"))

    def test_a_folder_of_that_name_is_meant_by_it(self, served: Hub, tmp_path: Path) -> None:
        parquet_set(Path("me/shapes"))
        assert ID.fullmatch("me/shapes") and opened()[0].revision is None and not served.asked
