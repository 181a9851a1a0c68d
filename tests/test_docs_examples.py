"""The examples of docs/extend.md and docs/bring-your-own.md: taken from the page, executed, held to the contracts."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import re
import shlex
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from raydistill import config, registry
from raydistill.cli import VERBS
from raydistill.config import SourceConfig
from raydistill.diffusion.start import Start
from raydistill.errors import BadInput
from raydistill.manual import methods
from raydistill.methods.resolve import resolve

ROOT = Path(__file__).parents[1]
EXTEND, BRING = ROOT / "docs" / "extend.md", ROOT / "docs" / "bring-your-own.md"
CONTRACTS = {  # kind -> (module of its contract, the entry whose parameters an example takes)
    "method": ("test_method_contract", "random"),
    "clustering": ("test_clustering_contract", "kmeans"),
    "guidance": ("test_guidance_contract", "mode"),
    "sampler": ("test_sampler_contract", "ddpm"),
    "student": ("test_student_contract", "convnet"),
    "classifier": ("test_classifier_contract", "squeezenet1_0"),
    "metric": ("test_metric_contract", "l2"),
    "protocol": ("test_protocol_contract", "hard"),
}
Entry = tuple[str, str]


def blocks(page: Path, language: str) -> dict[str, str]:
    """Fenced blocks that follow a comment `example: TITLE`, by title."""
    titled = re.findall(
        rf"<!-- example: ([^\n]+?) -->\n```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE
    )
    assert len(titled) == len(dict(titled)), f"a title of {page.name} is used twice"
    return dict(titled)


EXAMPLES = blocks(EXTEND, "python")
ENTRIES: list[tuple[str, Entry]] = [
    (title, (kind, name)) for title in EXAMPLES for kind, name in (part.split() for part in title.split(", "))
]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an example registers is forgotten after the test."""
    for kind in registry.PACKAGES:
        registry.names(kind)
    monkeypatch.setattr(registry, "_entries", {kind: dict(entries) for kind, entries in registry._entries.items()})
    monkeypatch.setattr(registry, "_loaded", set(registry._loaded))


@pytest.fixture
def execute(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], types.ModuleType]:
    """Runs a block as the module `example`, so that what it defines can be pickled as from a file."""

    def run(code: str) -> types.ModuleType:
        module = types.ModuleType("example")
        monkeypatch.setitem(sys.modules, "example", module)
        exec(compile(code, "example", "exec"), module.__dict__)
        return module

    return run


def contract(kind: str) -> types.ModuleType:
    """The module that pytest collects, or would: found by its name as its folder has no package."""
    folder = str(ROOT / "tests" / "contracts")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(CONTRACTS[kind][0])


def parameters(mark: pytest.Mark) -> list[dict[str, Any]]:
    names, values = mark.args[:2]
    keys = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
    rows = [getattr(v, "values", v) if len(keys) > 1 or hasattr(v, "values") else (v,) for v in values]
    return [dict(zip(keys, row, strict=True)) for row in rows]


def checks(kind: str, name: str) -> Iterator[tuple[Callable[..., None], dict[str, Any]]]:
    """Every test of a kind's contract with every set of its parameters, for the entry `name` instead of those there."""
    module = contract(kind)
    parametrised = [row | {"name": name} for row in parameters(module.pytestmark) if row["name"] == CONTRACTS[kind][1]]
    for test in [f for n, f in vars(module).items() if n.startswith("test_")]:
        marks = [parameters(m) for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
        for rows in itertools.product(parametrised, *marks):
            yield test, {key: value for row in rows for key, value in row.items()}


class TestExtend:
    def test_there_is_an_example_of_every_kind(self) -> None:
        assert {kind for _, (kind, _) in ENTRIES} == set(registry.PACKAGES)

    @pytest.mark.parametrize(("title", "entry"), ENTRIES, ids=[n for _, (_, n) in ENTRIES])
    def test_an_example_registers_what_its_title_says(self, title: str, entry: Entry, execute) -> None:
        before = {kind: set(registry.names(kind)) for kind in registry.PACKAGES}
        execute(EXAMPLES[title])
        after = {kind: set(registry.names(kind)) - before[kind] for kind in registry.PACKAGES}
        assert after == {kind: {n for k, n in map(str.split, title.split(", ")) if k == kind} for kind in after}
        assert registry.get(*entry).__module__ == "example"

    def test_a_method_takes_weights_and_a_start_by_naming_them(self, execute) -> None:
        execute(EXAMPLES["method medoids_weighed"])
        v = resolve(config.load("quickstart", ["method=medoids_weighed", "ipc=3"]))
        assert (v.config.weights.mode, v.config.weights.norm) == ("density", "mean")
        assert v.sampling is not None and v.sampling.start == Start(0.5)

    @pytest.mark.parametrize(
        ("title", "entry"),
        [e for e in ENTRIES if e[1][0] in CONTRACTS],
        ids=[n for _, (k, n) in ENTRIES if k in CONTRACTS],
    )
    def test_an_example_keeps_the_contract_of_its_kind(
        self, title: str, entry: Entry, execute, request: pytest.FixtureRequest
    ) -> None:
        contract(entry[0])  # before the example: what a contract knows from its import on must outlive it
        execute(EXAMPLES[title])
        torch.set_num_threads(1)
        done = 0
        for test, values in checks(*entry):
            others = set(inspect.signature(test).parameters) - set(values)
            test(**values, **{name: request.getfixturevalue(name) for name in sorted(others)})
            done += 1
        assert done >= 8, "the contract was found"

    def test_the_source_keeps_the_contract_of_sources(
        self, execute, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        execute(EXAMPLES["source npz"])
        rng = np.random.default_rng(0)
        for split, count in (("train", 30), ("val", 12)):
            images = rng.integers(0, 256, (count, 12, 10, 3), np.uint8)
            np.savez(tmp_path / f"{split}.npz", images=images, labels=np.arange(count) % 3, class_ids=["a", "b", "c"])
        source_config = SourceConfig(kind="npz", path=str(tmp_path))
        suite = importlib.import_module("test_sources").TestEverySource
        run = 0
        for name, test in vars(suite).items():
            if name.startswith("test_") and "source_config" in inspect.signature(test).parameters:
                others = set(inspect.signature(test).parameters) - {"self", "source_config"}
                test(suite(), source_config, **{n: request.getfixturevalue(n) for n in sorted(others)})
                run += 1
        assert run >= 6, "the contract was found"

    def test_help_lists_an_example(self, execute) -> None:
        execute(EXAMPLES["method typical"])
        assert "typical      the real images nearest the class mean" in methods()

    def test_nothing_is_left_of_an_example(self) -> None:
        assert "typical" not in registry.names("method") and "npz" not in registry.names("source")


class TestEntryPoints:
    """A package of one's own: a module and its dist-info on the path, as an installer leaves them."""

    @pytest.fixture
    def install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, Any]], None]:
        def add(code: str, project: dict[str, Any]) -> None:
            module = next(v for g in project["entry-points"].values() for v in g.values()).partition(":")[0]
            (tmp_path / f"{module}.py").write_text(code)
            info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1\n")
            lines = [
                f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in e.items())
                for group, e in project["entry-points"].items()
            ]
            (info / "entry_points.txt").write_text("\n".join(lines))
            monkeypatch.syspath_prepend(str(tmp_path))
            monkeypatch.delitem(sys.modules, module, raising=False)
            monkeypatch.setattr(registry, "_loaded", set())
            monkeypatch.setattr(registry, "_unusable", {})

        yield add
        sys.modules.pop("my_distillation", None)

    @pytest.fixture
    def project(self) -> dict[str, Any]:
        return tomllib.loads(blocks(EXTEND, "toml")["entry points"])["project"]

    @pytest.mark.parametrize("decorated", [True, False])
    def test_an_installed_package_adds_a_method(self, install, project: dict[str, Any], decorated: bool) -> None:
        code = EXAMPLES["method typical"]
        install(code if decorated else re.sub(r"@register\(.*\n", "", code), project)
        assert "typical" in registry.names("method")
        assert registry.get("method", "typical").__module__ == "my_distillation"
        assert {"random", "mgd3", "herding"} <= set(registry.names("method"))

    @pytest.mark.parametrize(
        ("code", "why"),
        [
            ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
            ("", "has no attribute 'Typical'"),
            ("raise SystemError('two\\nlines')", "two lines"),
            ("import sys; sys.exit('gone')", "gone"),
        ],
    )
    def test_one_that_does_not_load_is_a_warning_until_it_is_asked_for(
        self, install, project: dict[str, Any], code: str, why: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        install(code, project)
        for _ in range(2):
            assert {"random", "mgd3"} <= set(registry.names("method")) and "typical" not in registry.names("method")
            assert config.load("quickstart", ["method=mgd3"]).method == "mgd3"
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("warning: method 'typical': the entry point 'my_distillation:Typical'") and why in line
        for _ in range(2):
            with pytest.raises(BadInput, match=r"method 'typical': the entry point 'my_distillation:Typical'") as said:
                resolve(config.load("quickstart", ["method=typical"]))
            assert why in str(said.value) and "\n" not in str(said.value)
        with pytest.raises(BadInput, match=r"key 'typical\.strength'.*the entry point 'my_distillation:Typical'"):
            config.load("quickstart", ["typical.strength=1"])

    def test_nothing_is_left_of_one_that_breaks_after_it_has_registered(self, install, project: dict[str, Any]) -> None:
        install(EXAMPLES["method typical"] + "\nraise RuntimeError('too late')\n", project)
        assert "typical" not in registry.names("method")
        with pytest.raises(BadInput, match="too late"):
            registry.get("method", "typical")

    def test_an_installed_package_adds_a_clustering(self, install, project: dict[str, Any]) -> None:
        project["entry-points"] = {"raydistill.clustering": {"farthest": "my_distillation:FarthestFirst"}}
        install(re.sub(r"@register\(.*\n", "", EXAMPLES["clustering farthest"]), project)
        chosen = config.load("quickstart", ["cluster.algorithm=farthest"])
        assert resolve(chosen).config.cluster.algorithm == "farthest"
        entry = registry.get("clustering", "farthest")
        assert entry.of(chosen).values() == [1] and registry.identity("clustering", "farthest")[0] == 1

    def test_a_name_that_is_taken_is_refused(self, install, project: dict[str, Any]) -> None:
        project["entry-points"]["raydistill.method"] = {"random": "my_distillation:Typical"}
        install(re.sub(r"@register\(.*\n", "", EXAMPLES["method typical"]), project)
        with pytest.raises(BadInput, match="'random' is registered twice"):
            registry.get("method", "random")
        assert registry.get("method", "kmeans") and "random" not in registry.names("method")


class TestBringYourOwn:
    EXAMPLES = blocks(BRING, "python")

    def test_training_json_of_imagenet(self, execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "DiT-XL-2-256").mkdir()
        execute(self.EXAMPLES["training.json"])
        record = json.loads((tmp_path / "DiT-XL-2-256" / "training.json").read_text())
        assert record["class_ids"] == config.class_list("imagenet1k")

    def test_a_pickle_becomes_safetensors(self, execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        weights = {"a.weight": torch.randn(3, 4).mT, "b": torch.ones(2)}
        torch.save(weights, "DiT-XL-2-256x256.pt")
        execute(self.EXAMPLES["safetensors"])
        again = load_file("DiT-XL-2-256x256.safetensors")
        assert set(again) == set(weights) and all(torch.equal(again[k], weights[k]) for k in weights)

    def test_a_pickle_that_would_run_code_is_refused(
        self, execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "DiT-XL-2-256x256.pt").write_bytes(b"cos\nmkdir\n(S'pwned'\ntR.")
        with pytest.raises(Exception, match=r"[Ww]eights.only|Unsupported"):
            execute(self.EXAMPLES["safetensors"])
        assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("page", [EXTEND, BRING], ids=lambda p: p.name)
def test_the_commands_of_a_page_have_keys_that_exist(page: Path) -> None:
    """Every `python jobs/X.py` and `raydistill X` of a page parses, whatever the folders that it names."""
    shell = "".join(re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE))
    for line in shell.replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        if words[1:2] and (job := re.fullmatch(r"jobs/(\w+)\.py", words[1])):
            assert job[1] in VERBS
            preset = words[words.index("--config") + 1] if "--config" in words else "quickstart"
            config.load(preset, [w for w in words[2:] if "=" in w])


def test_the_keys_of_training_json_are_those_that_are_read() -> None:
    source = (ROOT / "raydistill" / "models" / "denoiser.py").read_text()
    table = BRING.read_text().partition("| key | meaning |")[2].partition("\n\n")[0]
    shown = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert all(f'"{key}"' in source for key in shown)
    assert {"prediction", "latent_scale", "class_ids", "null_class_index", "learned_variance"} <= set(shown)


def test_every_source_on_disk_is_described() -> None:
    table = BRING.read_text().partition("| `source.kind` |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(registry.names("source")) - {"digits"}
