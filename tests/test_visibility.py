"""What a node has to prove before anything starts, told to look elsewhere; tests/cluster/ has nodes that really do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from samples import config, parquet_set, tar_set, write_folder
from tiny_run import TinyRun

from raydistill.config import RayConfig, SourceConfig
from raydistill.distributed import nodes
from raydistill.distributed.nodes import Nodes, complaint
from raydistill.distributed.visibility import SAMPLE, Needs, laid_out, needs, probe, sample_of, unanswered
from raydistill.errors import BadInput, StageFailed
from raydistill.sources.base import open_splits
from raydistill.store.artifact import Record
from raydistill.store.rundir import RunDir

NODE = "node1"
SETS = {
    "imagefolder": lambda path: write_folder(path, {"train": 4, "val": 2}),
    "parquet": parquet_set,
    "webdataset": tar_set,
}


def wanted(run: Path, source: SourceConfig, models: dict[str, Path] | None = None) -> Needs:
    splits = open_splits(source)
    return needs(RunDir(str(run)), source, [splits.train, splits.test], models or {})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "weights.safetensors").write_bytes(bytes(3 * SAMPLE))
    return folder


@pytest.fixture
def asked(tmp_path: Path, tiny_folder: Path, model: Path) -> Needs:
    return wanted(tmp_path / "run", config("imagefolder", tiny_folder), {"vae.path": model})


class TestWhoSeesEverything:
    def test_says_nothing_and_answers(self, asked: Needs) -> None:
        with laid_out(asked, [NODE]):
            assert probe(asked, NODE) == [] and unanswered(asked, NODE) == []

    @pytest.mark.parametrize("kind", SETS)
    def test_reads_both_ends_of_every_kind_of_source(self, kind: str, tmp_path: Path) -> None:
        it = wanted(tmp_path / "run", config(kind, SETS[kind](tmp_path / "set")))
        assert len(it.images) == 4 and len({(i.split, i.image_id) for i in it.images}) == 4
        with laid_out(it, [NODE]):
            assert probe(it, NODE) == []

    def test_leaves_no_trace_of_the_question(self, asked: Needs, tmp_path: Path) -> None:
        before = sorted(tmp_path.rglob("*"))
        with laid_out(asked, [NODE]):
            probe(asked, NODE)
            assert len(list((tmp_path / "run").iterdir())) == 2, "the token and the answer"
        assert sorted(tmp_path.rglob("*")) == before, "not even the run directory, which was not there before"

    def test_is_not_hindered_by_what_a_killed_run_left(self, asked: Needs, tmp_path: Path) -> None:
        run = RunDir(str(tmp_path / "run"))
        (run.root / asked.tokens[0].name).write(b"of a driver that was killed")
        run.check()

    def test_sees_run_dir_and_artifact_dir_when_there_are_two(self, tmp_path: Path, tiny_folder: Path) -> None:
        splits = open_splits(config("imagefolder", tiny_folder))
        for run, count in ((RunDir(str(tmp_path / "a"), str(tmp_path / "b")), 2), (RunDir(str(tmp_path / "a")), 1)):
            it = needs(run, config("imagefolder", tiny_folder), [splits.train], {})
            assert sorted(t.what for t in it.tokens) == ["artifact_dir", "run_dir"][-count:]


class TestWhoLooksElsewhere:
    """The driver laid its tokens out and wants `asked`; the node sees `elsewhere` under the same names."""

    def test_does_not_see_the_run_directory_and_makes_none(self, asked: Needs, tmp_path: Path) -> None:
        (token,) = asked.tokens
        other = dataclasses.replace(token, folder=token.folder / "other")
        with laid_out(asked, [NODE]):
            assert probe(dataclasses.replace(asked, tokens=(other,)), NODE) == [f"run_dir {tmp_path}/run/other"]
            assert not (tmp_path / "run" / "other").exists()

    def test_does_not_pass_with_a_copy_of_the_run_directory(self, asked: Needs, tmp_path: Path) -> None:
        """The node reads the token in its copy; what it answers there, the driver does not find."""
        (token,) = asked.tokens
        copy = dataclasses.replace(token, folder=RunDir(str(tmp_path / "copy")).root)
        there = dataclasses.replace(asked, tokens=(copy,))
        with laid_out(asked, [NODE]), laid_out(there, [NODE]):
            assert probe(there, NODE) == []
            assert unanswered(asked, NODE) == [f"run_dir {tmp_path}/run"]

    def test_does_not_see_the_token_of_another_question(self, asked: Needs, tmp_path: Path) -> None:
        (token,) = asked.tokens
        other = dataclasses.replace(asked, tokens=(dataclasses.replace(token, secret="another"),))
        with laid_out(other, [NODE]):
            assert probe(asked, NODE) == [f"run_dir {tmp_path}/run"]

    @pytest.mark.parametrize("kind", SETS)
    def test_does_not_see_the_source(self, kind: str, tmp_path: Path) -> None:
        it = wanted(tmp_path / "run", config(kind, SETS[kind](tmp_path / "set")))
        elsewhere = dataclasses.replace(it, source=it.source.model_copy(update={"path": str(tmp_path / "no")}))
        with laid_out(it, [NODE]):
            (missing,) = probe(elsewhere, NODE)
        assert missing.startswith(f"source.path {tmp_path}/no (split train, ")

    def test_does_not_see_a_source_that_was_copied_half(self, asked: Needs, tiny_folder: Path) -> None:
        last = sorted((tiny_folder / "val" / "red").iterdir())[-1]
        last.unlink()
        with laid_out(asked, [NODE]):
            assert probe(asked, NODE) == [f"source.path {tiny_folder} (split val, red/{last.name})"]

    @pytest.mark.parametrize("at", [0, 3 * SAMPLE - 1])
    def test_does_not_see_the_weights_if_one_byte_at_an_end_differs(self, asked: Needs, model: Path, at: int) -> None:
        file = model / "weights.safetensors"
        data = bytearray(file.read_bytes())
        data[at] ^= 1
        file.write_bytes(data)
        with laid_out(asked, [NODE]):
            assert probe(asked, NODE) == [f"vae.path {file} (it has another file there)"]
        file.unlink()
        with laid_out(asked, [NODE]):
            assert probe(asked, NODE) == [f"vae.path {file}"]


def test_a_sample_knows_a_file_by_its_size_and_ends(tmp_path: Path) -> None:
    samples = {}
    for name, data in {
        "empty": b"",
        "one": b"1",
        "two": b"2",
        "long": b"1" * 2 * SAMPLE,
        "longer": b"1" * (2 * SAMPLE + 1),
    }.items():
        (tmp_path / name).write_bytes(data)
        samples[name] = sample_of(tmp_path / name)
    assert len(set(samples.values())) == 5


class TestTheLine:
    def test_names_the_node_what_it_lacks_and_the_remedy(self) -> None:
        line = complaint([("10.0.0.2", ["run_dir /a", "vae.path /v"])])
        assert line == (
            "nodes: 10.0.0.2 does not see run_dir /a, vae.path /v; mount it there under the same path, "
            "give an s3:// or gs:// URI, fill that node's cache, too, with weights of the hub (`hf download`, "
            "of the revision that the driver has), or take the node out of the cluster"
        )
        line = complaint([("10.0.0.2", ["generator.path /g"])])
        assert "URI" not in line, "weights are read from folders"

    def test_puts_nodes_of_one_complaint_together_and_counts_the_many(self) -> None:
        line = complaint([(f"10.0.0.{i}", ["run_dir /a"]) for i in range(9)] + [("gpu-7", ["source.path /s"])])
        assert line.startswith(
            "nodes: 10.0.0.0, 10.0.0.1, 10.0.0.2, 10.0.0.3 and 5 more do not see run_dir /a; "
            "gpu-7 does not see source.path /s; "
        )
        assert "\n" not in line


def test_what_lies_in_a_model_for_others_is_not_asked_for(asked: Needs, tmp_path: Path, tiny_folder: Path) -> None:
    """A trained generator's copy for diffusers, which a copy of the generator on a node may lack."""
    (tmp_path / "model" / "pipeline").mkdir()
    (tmp_path / "model" / "pipeline" / "model_index.json").write_text("{}")
    again = wanted(tmp_path / "run", config("imagefolder", tiny_folder), {"vae.path": tmp_path / "model"})
    assert again.files == asked.files and len(asked.files) == 2


def test_what_a_run_needs_is_small_and_holds_its_models(tmp_path: Path) -> None:
    tiny = TinyRun(tmp_path)
    models = {"vae.path": tiny.vae.path, "generator.path": tiny.generator.path}
    it = needs(tiny.run, tiny.config.source, [tiny.train, tiny.test], models)
    names = {Path(f.path).name for f in it.files}
    assert {"config.json", "diffusion_pytorch_model.safetensors", "training.json"} <= names
    with laid_out(it, [NODE]):
        assert probe(it, NODE) == []


class Growing(Nodes):
    """A cluster that a blind node joins after some questions."""

    def __init__(self, good: int) -> None:
        super().__init__(RayConfig(), lambda: pytest.fail("nobody is asked here"))
        self.good = good

    def prove(self) -> None:
        self.good -= 1
        if self.good < 0:
            raise BadInput("nodes: late does not see run_dir")


class TestNodesThatJoinLater:
    def test_are_asked_while_a_stage_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nodes, "AGAIN_S", -1.0)
        seen = []
        with pytest.raises(BadInput, match="late does not see run_dir"):
            seen.extend(Growing(good=3).watch(iter("abcdef")))  # type: ignore[arg-type]
        assert list(Growing(good=99).watch(iter("abc"))) == ["a", "b", "c"]  # type: ignore[arg-type]

    def test_are_named_when_a_stage_fails_on_them(self) -> None:
        def failing() -> Iterator[Record]:
            raise StageFailed("encode: a/b.png was listed but cannot be read")
            yield

        with pytest.raises(BadInput, match="late does not see run_dir"):
            list(Growing(good=1).watch(failing()))
        with pytest.raises(StageFailed, match="cannot be read"):
            list(Growing(good=2).watch(failing()))

    def test_no_node_is_asked_where_no_cluster_is_joined(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        Nodes(RayConfig(), lambda: pytest.fail("asked")).prove()
        assert nodes.joins(RayConfig(address="here:1")) == "here:1" and nodes.joins(RayConfig()) is None
        monkeypatch.setenv("RAY_ADDRESS", "there:1")
        assert nodes.joins(RayConfig()) == "there:1"
