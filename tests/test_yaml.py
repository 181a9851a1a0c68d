"""YAML as configurations hold it: a number is what it looks like, a key is given once, a text stays a text."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raydistill.config import load
from raydistill.config.text import read, write
from raydistill.errors import BadInput

LOOKALIKES = ["010", "08", "0x10", "1_000", "1:30", "1e3", "no", "on", "y", "2024-01-01", "<<", "=", "~", "null", ""]


def refused(*overrides: str, base: str = "quickstart") -> str:
    with pytest.raises(BadInput) as caught:
        load(base, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path):
    def write_file(text: str) -> str:
        (tmp_path / "c.yaml").write_text(text)
        return str(tmp_path / "c.yaml")

    return write_file


class TestNumbers:
    @pytest.mark.parametrize("given_in", ["override", "file"])
    @pytest.mark.parametrize(
        ("text", "remedies"),
        [
            ("010", ["10", "8"]),
            ("08", ["8"]),
            ("0x10", ["16"]),
            ("0o17", ["15"]),
            ("0b11", ["3"]),
            ("1_000", ["1000"]),
            ("1e3", ["1000"]),
            ("3.0", ["3"]),
            ("1:30", []),
            ("2024-01-01", []),
            ("!!int 010", []),
        ],
    )
    def test_a_whole_number_written_otherwise_is_refused_with_how_to_write_it(
        self, file, given_in: str, text: str, remedies: list[str]
    ) -> None:
        line = refused(f"ipc={text}") if given_in == "override" else refused(base=file(f"ipc: {text}"))
        for number in remedies:
            assert number in line.rpartition("; write ")[2]
            assert load("quickstart", [f"ipc={number}"]).ipc == int(number)

    @pytest.mark.parametrize("text", ["010", "1_0.5", "1:30.5", "0x1p3", "infinity", "1e", "٣"])
    def test_so_is_any_number(self, file, text: str) -> None:
        assert "guidance.scale: Input should be a valid number" in refused(f"guidance.scale={text}")
        assert "guidance.scale: Input should be a valid number" in refused(base=file(f"guidance: {{scale: {text}}}"))

    @pytest.mark.parametrize(("text", "value"), [("1e-2", 0.01), ("1E-2", 0.01), (".5", 0.5), ("+1", 1.0), ("1.", 1.0)])
    def test_the_common_ways_to_write_one_are_read(self, file, text: str, value: float) -> None:
        assert load("quickstart", [f"guidance.scale={text}"]).guidance.scale == value
        assert load(file(f"guidance: {{scale: {text}}}")).guidance.scale == value

    @pytest.mark.parametrize(("text", "remedy"), [("yes", "true"), ("on", "true"), ("No", "false"), ("off", "false")])
    def test_a_truth_is_true_or_false(self, file, text: str, remedy: str) -> None:
        assert refused(f"evaluate.full={text}").endswith(f"; write {remedy}")
        assert refused(base=file(f"evaluate: {{full: {text}}}")).endswith(f"; write {remedy}")
        assert str(load("quickstart", [f"evaluate.full={remedy}"]).evaluate.full).lower() == remedy


class TestTexts:
    def test_the_ids_of_classes_stay_as_they_are_written(self, file) -> None:
        ids = ["010", "020", "1e3", "1.50", "no", "2024-01-01", "1:30"]
        assert load("quickstart", [f"source.classes=[{', '.join(ids)}]"]).source.classes == ids
        assert load("quickstart", ["source.classes=010"]).source.classes == ["010"]
        assert load(file("source: {classes: [010, 020, no]}")).source.classes == ["010", "020", "no"]

    def test_a_number_where_a_text_is_wanted_is_written_in_quotes(self, file) -> None:
        assert refused(base=file("source: {classes: [10, 20]}")).endswith("; write it in quotes")
        assert load(file("source: {classes: ['10', '20']}")).source.classes == ["10", "20"]

    @pytest.mark.parametrize("text", LOOKALIKES)
    def test_what_is_written_is_read_again_by_any_yaml(self, text: str) -> None:
        tree = {"texts": [text], "numbers": [1e-5, 1e20, 0.1, 7], "truths": [True, None]}
        assert read(write(tree)) == tree == yaml.safe_load(write(tree))


class TestKeys:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("ipc: 1\nseed: 2\nipc: 3\n", "key 'ipc' is given twice, in line 1 and in line 3; keep one"),
            ("source:\n  kind: digits\n  kind: tar\n", "key 'kind' is given twice, in line 2 and in line 3"),
            ("? ipc\n: 1\n'ipc': 2\n", "key 'ipc' is given twice"),
            ("encode: &e {batch: 3}\nsample:\n  <<: *e\n  batch: 4\n", "key 'batch' is given twice, in line 1 and in"),
            ("encode: &e {batch: 3}\nsample: {<<: [*e, *e]}\n", "key 'batch' is given twice"),
        ],
    )
    def test_a_key_that_is_given_twice_is_named_with_its_lines(self, file, text: str, says: str) -> None:
        assert says in refused(base=file(text))

    def test_what_is_merged_without_a_conflict_counts(self, file) -> None:
        config = load(file("encode: &e {batch: 3}\nsample:\n  <<: *e\n  threads: 2\n"))
        assert (config.sample.batch, config.sample.threads) == (3, 2)

    @pytest.mark.timeout(20)
    def test_merges_cannot_grow_without_end(self, file) -> None:
        lines = ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12))]
        assert "given twice" in refused(base=file("\n".join(lines)))

    @pytest.mark.parametrize("text", ["[" * 600, "a: " * 600, "&a [*a, " * 600])
    def test_nesting_without_end_is_one_line(self, file, text: str) -> None:
        assert "not YAML: " in refused(base=file(text))

    @pytest.mark.parametrize("tag", ["!!python/object:os.system", "!!timestamp", "!!binary", "!!set", "!!omap", "!x"])
    def test_nothing_else_is_made_of_a_tag(self, file, tag: str) -> None:
        assert "could not determine a constructor" in refused(base=file(f"ipc: {tag} 2024-01-01"))
