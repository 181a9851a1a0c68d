"""The configuration: strict, canonical, and never more than one clear line away from what is wrong with it."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Any

import pytest
import yaml

from raydistill import registry
from raydistill.config import Config, build, describe, leaves, load, nearest_key, presets
from raydistill.errors import BadInput

KEYS = [key for key, _ in leaves(Config)]
BROUGHT = {key: kind for key, kind in registry.sections().items() if key not in Config.model_fields}


def refused(*overrides: str, base: str = "quickstart") -> str:
    with pytest.raises(BadInput) as caught:
        load(base, overrides)
    text = str(caught.value)
    assert text and "\n" not in text
    return text


class TestRefusals:
    @pytest.mark.parametrize(
        ("override", "near"),
        [
            ("guidance.scal=1", "guidance.scale"),
            ("ipcs=1", "ipc"),
            ("sorce.path=x", "source.path"),
            ("evalute.protocol.lr=1", "evaluate.protocol.lr"),
            ("evaluate.protocl.lr=1", "evaluate.protocol.lr"),
            ("cfg_scale=2", "sampler.cfg_scale"),
            ("restart=2", "cluster.restarts"),
        ],
    )
    def test_an_unknown_key_names_the_nearest(self, override: str, near: str) -> None:
        assert f"did you mean {near!r}" in refused(override)

    @pytest.mark.parametrize("key", ["xyzzy", "source.xyzzy", "a..b", ".", "source.", "source.path.x.y", "1"])
    def test_a_key_like_no_other_is_refused_all_the_same(self, key: str) -> None:
        refused(f"{key}=1")

    @pytest.mark.parametrize(
        "override",
        [
            "ipc=ten",
            "ipc=1.5",
            "ipc=true",
            "ipc=[1]",
            "ipc={a: 1}",
            "ipc=",
            "ipc=null",
            "seed=1e3",
            "source=digits",
            "evaluate.full=maybe",
            "pretrain.vae_channels=[a]",
            "encode.deadline_s=soon",
        ],
    )
    def test_a_wrong_type_names_the_key(self, override: str) -> None:
        assert override.partition("=")[0] in refused(override)

    @pytest.mark.parametrize(
        "override",
        [
            "ipc=0",
            "ipc=-1",
            "seed=-1",
            "seed=9223372036854775808",
            "source.image_size=4",
            "source.max_broken=1.01",
            "guidance.scale=-0.1",
            "guidance.scale=.inf",
            "guidance.scale=.nan",
            "guidance.start=1.5",
            "encode.device=tpu",
            "sampler.cfg_scale=0.5",
            "evaluate.protocol.momentum=1",
            "evaluate.students=[]",
            "cluster.num_cpus=0",
            *(
                f"{key}deadline_s=1e10"
                for key in ("encode.", "cluster.", "sample.", "evaluate.", "label.", "ray.nodes_")
            ),
        ],
    )
    def test_a_value_out_of_range_names_the_key(self, override: str) -> None:
        assert override.partition("=")[0] in refused(override)

    @pytest.mark.parametrize(("start", "stop"), [(0.2, 0.5), (0.5, 0.5), (0.0, 1.0)])
    def test_a_window_that_is_none_is_refused(self, start: float, stop: float) -> None:
        text = refused(f"guidance.start={start}", f"guidance.stop={stop}")
        assert "guidance.start" in text and "guidance.stop" in text

    @pytest.mark.parametrize("override", ["ipc", "=3", "", "ipc: 3"])
    def test_an_override_without_key_or_value_is_refused(self, override: str) -> None:
        assert "key=value" in refused(override)

    def test_an_override_below_a_value_is_refused(self) -> None:
        assert "is a value, not a section" in refused("ipc.x=1")

    @pytest.mark.parametrize("name", ["quickstrat", "nowhere/config.yaml", "", "x" * 5000, "a\0b", "."])
    def test_a_preset_or_file_that_is_not_there_is_refused(self, name: str) -> None:
        assert "quickstart" in refused(base=name)

    @pytest.mark.parametrize(
        "text",
        [
            b"\xff\xfe",
            b"a: [",
            b"- 1\n- 2",
            b"3",
            b"a: !!python/object:os.system x",
            b"ipc: !!int ''",
            b"ipc: !!timestamp x",
            b"[" * 600,
            b"? [1]\n: 2",
            b"&a {source: *a}",
            b"ipc: 2024-13-45",
            b"ipc: " + b"9" * 5000,
            b"1: 2",
            b"null: 2",
        ],
    )
    def test_a_file_that_is_no_configuration_is_refused(self, tmp_path: Path, text: bytes) -> None:
        (tmp_path / "c.yaml").write_bytes(text)
        refused(base=str(tmp_path / "c.yaml"))

    @pytest.mark.timeout(20)
    def test_a_file_that_unfolds_without_end_is_refused_at_once(self, tmp_path: Path) -> None:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
        for last in ("evaluate: {students: *a11}", "ipc: *a11", "source: {classes: *a11}"):
            (tmp_path / "bomb.yaml").write_text("\n".join([*lines, last]))
            refused(base=str(tmp_path / "bomb.yaml"))
        (tmp_path / "circle.yaml").write_text("source: &s\n  path: x\n  again: *s\n")
        assert "source.again" in refused(base=str(tmp_path / "circle.yaml"))


class TestLoading:
    @pytest.mark.parametrize("name", presets())
    def test_every_preset_loads_and_names_its_run(self, name: str) -> None:
        assert load(name).run_dir == f"runs/{name}"

    def test_overrides_win_in_order_and_leave_the_rest(self) -> None:
        base, changed = load().tree(), load("quickstart", ["ipc=3", "guidance.scale=0.2", "ipc=4"]).tree()
        assert changed["ipc"] == 4 and changed["guidance"]["scale"] == 0.2
        base["ipc"], base["guidance"]["scale"] = 4, 0.2
        assert changed == base

    @pytest.mark.parametrize(
        ("override", "value"),
        [
            ("run_dir=2024", "2024"),
            ("run_dir=/a=b/c", "/a=b/c"),
            ("source.path=null", None),
            ("source.path=None", None),
            ("evaluate.students=convnet", ["convnet"]),
            ("evaluate.students=[convnet,resnet18]", ["convnet", "resnet18"]),
            ("source.classes=3", ["3"]),
            ("source.classes=[1, 2]", ["1", "2"]),
            ("evaluate.protocol.lr=1e-4", 1e-4),
            ("guidance.scale=1", 1.0),
            ("evaluate.full=true", True),
            ("evaluate.protocol.dsa=true", True),
            ("evaluate.protocol.dsa=False", False),
            ("evaluate.protocol.dsa=crop_flip", "crop_flip"),
            ("pretrain.vae_channels=16", [16]),
            ("sampler.name=ddpm", "ddpm"),
        ],
    )
    def test_text_becomes_the_value_that_the_key_wants(self, override: str, value: Any) -> None:
        node: Any = load("quickstart", [override])
        for part in override.partition("=")[0].split("."):
            node = getattr(node, part)
        assert node == value and type(node) is type(value)

    def test_a_file_gives_a_configuration_named_after_it(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text("ipc: 5\nsource: {kind: digits}\n")
        config = load(str(tmp_path / "mine.yaml"))
        assert config.ipc == 5 and config.run_dir == "runs/mine"

    def test_an_empty_file_gives_the_defaults(self, tmp_path: Path) -> None:
        (tmp_path / "empty.yaml").write_text("# nothing\n")
        assert load(str(tmp_path / "empty.yaml")) == build({}, "runs/empty")

    def test_overriding_one_section_leaves_its_yaml_alias_alone(self, tmp_path: Path) -> None:
        (tmp_path / "c.yaml").write_text("encode: &pool {batch: 8}\nsample: *pool\n")
        config = load(str(tmp_path / "c.yaml"), ["encode.batch=4"])
        assert (config.encode.batch, config.sample.batch) == (4, 8)

    @pytest.mark.parametrize("name", presets())
    def test_the_written_file_is_canonical(self, name: str, tmp_path: Path) -> None:
        config = load(name, ["seed=5", "evaluate.protocol.lr=1e-3", "source.path=/data/ü"])
        (tmp_path / "config.yaml").write_text(config.yaml(), "utf-8")
        again = load(str(tmp_path / "config.yaml"))
        assert again == config and again.yaml() == config.yaml()
        assert list(yaml.safe_load(config.yaml())) == sorted(config.tree())

    def test_equal_values_written_differently_are_one_configuration(self) -> None:
        assert load("quickstart", ["guidance.scale=1"]).yaml() == load("quickstart", ["guidance.scale=1.0"]).yaml()

    def test_a_configuration_cannot_be_changed(self) -> None:
        with pytest.raises(Exception, match="frozen"):
            load().ipc = 3  # type: ignore[misc]

    def test_the_help_mentions_every_key_with_its_default(self) -> None:
        """Those that entries bring with them come last."""
        brought = [f"{name}.{key}" for name, kind in BROUGHT.items() for key, _ in leaves(kind)]
        assert {"lgd.candidates", "learnability.scale"} <= set(brought)
        lines = describe().splitlines()
        assert all(line.strip().startswith(f"{key}=") for key, line in zip([*KEYS, *brought], lines, strict=True))

    def test_a_key_of_a_section_that_an_entry_brings_is_near_to_its_own(self) -> None:
        assert "unknown configuration key 'lgd.candidate'; did you mean 'lgd.candidates'" in refused("lgd.candidate=2")

    def test_a_file_may_hold_values_for_one_method(self, tmp_path: Path) -> None:
        """They stand over its own and below those that are given."""
        file = tmp_path / "mine.yaml"
        of_lgd = "{ipc: 4, sampler: {steps: 9}, lgd: {candidates: 2}}"
        file.write_text(f"method: dit\nipc: 2\nsampler: {{cfg_scale: 2.0}}\nmethods: {{lgd: {of_lgd}}}\n")
        plain, lgd = load(str(file)), load(str(file), ["method=lgd", "lgd.round=2"])
        assert (plain.ipc, plain.sampler.steps, plain.brought) == (2, None, {})
        assert (lgd.ipc, lgd.sampler.steps, lgd.sampler.cfg_scale) == (4, 9, 2.0)
        assert (lgd.brought["lgd"].candidates, lgd.brought["lgd"].round) == (2, 2)  # type: ignore[attr-defined]
        assert load(str(file), ["method=lgd", "ipc=6"]).ipc == 6
        assert build(yaml.safe_load(lgd.yaml())) == lgd, "and its own file says it all"

    def test_every_key_is_nearest_to_itself(self) -> None:
        assert all(nearest_key(key) == key for key in KEYS)


# ---- a thousand configurations that nobody wrote ---------------------------------------------------------------------

WORDS = [
    "digits",
    "null",
    "true",
    "1",
    "0",
    "-1",
    "0.5",
    "1e-3",
    "1e400",
    ".inf",
    ".nan",
    "[]",
    "[1, 2]",
    "{}",
    "{a: 1}",
    "",
    "[",
    "{",
    "&a [*a]",
    "*a",
    "!!int ''",
    "!!binary x",
    "!x y",
    "2024-01-01",
    "2024-13-45",
    "0x",
    "1:99",
    "\0",
    "\ud800",
    "é",
    "a b",
    "'",
    '"',
    "|",
    "- x",
    "? y",
    "@",
    "%",
    "`",
    "9" * 5000,
    "[" * 300,
    "convnet",
    "mgd3",
    "cpu",
    "~",
    "=",
    "<<: 1",
]


def any_word(rng: random.Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(WORDS)
    return "".join(rng.choice(string.printable) for _ in range(rng.randrange(12)))


def any_key(rng: random.Random) -> str:
    kind, key = rng.random(), rng.choice(KEYS)
    if kind < 0.6:
        return key
    if kind < 0.8:
        return "".join(c for c in key if rng.random() < 0.9)
    return rng.choice([key.partition(".")[0], key + ".x", "." + key, any_word(rng)])


def any_value(rng: random.Random, depth: int = 0) -> Any:
    plain = [None, True, 0, 1, -1, 5, 0.5, 1e9, float("nan"), float("inf"), 10**30, "x", "", b"x", "digits", "\ud800"]
    kind = rng.random()
    if depth < 3 and kind < 0.15:
        return [any_value(rng, depth + 1) for _ in range(rng.randrange(3))]
    if depth < 3 and kind < 0.3:
        return {rng.choice([any_key(rng), 1, None, True]): any_value(rng, depth + 1) for _ in range(rng.randrange(3))}
    return rng.choice(plain)


def any_tree(rng: random.Random) -> dict[Any, Any]:
    tree: dict[Any, Any] = {}
    for _ in range(rng.randrange(4)):
        key = any_key(rng)
        node, parts = tree, key.split(".")
        while len(parts) > 1 and isinstance(node.setdefault(parts[0], {}), dict):
            node = node[parts.pop(0)]
        node[".".join(parts)] = any_value(rng)
    return tree


@pytest.mark.parametrize("block", range(10))
def test_any_input_gives_a_configuration_or_one_line(block: int, tmp_path: Path) -> None:
    accepted = 0
    for seed in range(100 * block, 100 * (block + 1)):
        rng = random.Random(seed)
        overrides = [any_key(rng) + rng.choice(["=", "=", ""]) + any_word(rng) for _ in range(rng.randrange(3))]
        base = rng.choice([*presets(), str(tmp_path / "c.yaml"), str(tmp_path / "c.yaml")])
        if rng.random() < 0.5:
            text = yaml.dump(any_tree(rng), allow_unicode=True).encode("utf-8", "surrogatepass")
        else:
            text = "\n".join(f"{any_key(rng)}: {any_word(rng)}" for _ in range(3)).encode("utf-8", "surrogatepass")
        (tmp_path / "c.yaml").write_bytes(text)
        for attempt in (lambda b=base, o=overrides: load(b, o), lambda r=rng: build(any_tree(r))):
            try:
                config = attempt()
            except BadInput as e:
                assert str(e) and "\n" not in str(e) and len(str(e)) < 7000, seed
            else:
                accepted += 1
                assert isinstance(config, Config) and build(yaml.safe_load(config.yaml())) == config, seed
    assert accepted >= 5
