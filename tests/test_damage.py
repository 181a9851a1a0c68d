"""One damage of each kind to every file of a finished run. The table says what must happen; it knows no "used".

rebuilt: the command that made the run makes every byte as it was. named: exit code 1 or 2 and one line that names the
file. unread: the verb gives what it gave before, since it does not read the file; whoever reads it names it.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
from finished import distill, files

from raydistill import cli
from raydistill.errors import CorruptArtifact
from raydistill.store.artifact import Artifact
from raydistill.store.location import Location


def flip(at: float) -> Callable[[Path, Path], None]:
    """Turns one bit round, at this share of the file."""

    def damage(file: Path, _: Path) -> None:
        data = bytearray(file.read_bytes())
        data[min(int(at * len(data)), len(data) - 1)] ^= 4
        file.write_bytes(data)

    return damage


def folder(file: Path, _: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "mine.txt").write_text("keep me")


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "flip": flip(0.5),
    "flip near the start": flip(0.02),
    "flip near the end": flip(0.97),
    "flip the last byte": flip(1.0),
    "truncate": lambda file, _: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "empty": lambda file, _: file.write_bytes(b""),
    "delete": lambda file, _: file.unlink(),
    "swap": lambda file, other: shutil.copyfile(other, file),
    "folder": folder,
}
VERBS = ("distill", "compare", "export", "--run")

# What distill, report RUN RUN, export and evaluate --run do; after "/" with a folder in the place of the file.
TABLE = {
    "config.yaml": ("rebuilt/named", "named", "unread/unread", "named"),
    "result.json": ("rebuilt/named", "named", "named", "unread"),
    "trainings.json": ("rebuilt/named", "named", "unread", "unread"),
    "report.html": ("rebuilt/named", "unread", "unread", "unread"),
    "logs/costs.json": ("rebuilt/named", "unread", "unread", "unread"),
    "logs/artifacts.json": ("rebuilt/named", "unread", "unread", "unread"),
    "distilled/README.md": ("rebuilt/named", "unread", "named", "unread"),
    "distilled/data/*.parquet": ("rebuilt/named", "named", "named", "unread"),
    "seals/config.yaml.json": ("rebuilt/named", "named", "unread", "named"),
    "seals/result.json.json": ("rebuilt/named", "named", "named", "unread"),
    "seals/trainings.json.json": ("rebuilt/named", "named", "unread", "unread"),
    "seals/report.html.json": ("rebuilt/named", "unread", "unread", "unread"),
    "seals/logs*costs.json.json": ("rebuilt/named", "unread", "unread", "unread"),
    "seals/logs*artifacts.json.json": ("rebuilt/named", "unread", "unread", "unread"),
    "seals/*README.md.json": ("rebuilt/named", "unread", "named", "unread"),
    "seals/*.parquet.json": ("rebuilt/named", "named", "named", "unread"),
    "raydistill.json": ("unread", "unread", "unread", "unread"),  # only that it is there is asked
    "*/manifest.json": ("rebuilt/named", "unread", "unread", "unread"),
    "*/commits/*": ("unread", "unread", "unread", "unread"),  # the manifest holds what they say
    "evaluations/*/data/*": ("named", "unread", "unread", "unread"),  # accuracies are read from them
    "checks/*/data/*": ("named", "unread", "unread", "unread"),  # what was found is said again at the end of a run
    "*/data/*": ("unread", "unread", "unread", "unread"),  # what was made of them is sealed: verify reads them
}
# What differs from the table: the words are (file, damage, verb).
BESIDES = {
    ("raydistill.json", "delete", "distill"): "named",  # the folder is nobody's run directory without it
    ("config.yaml", "delete", "export"): "named",  # and no run without this
    ("*/manifest.json", "swap", "distill"): "named",  # whole, but of another stage: it was copied there
    ("seals/*.parquet.json", "folder", "compare"): "named",
}
LINK = re.compile(rb'<a href="[^"]*/report\.html">([^<]*)</a>')  # of a comparison, to what is there
FEW = (
    "latents",
    "plan",
    "checks",
    "syntheses",
    "evaluations",
)  # stand for all; the slow test takes every file


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert distill(run) == 0
    return run


def groups() -> list[str]:
    return [*TABLE]


def members(whole: Path, group: str) -> list[str]:
    """The files of a group; each file belongs to the first that it matches."""
    first = {name: next(p for p in TABLE if fnmatch(name, p)) for name in files(whole)}
    return [name for name, pattern in first.items() if pattern == group]


class Sweep:
    """Damages copies of a run, uses them, and says what happened."""

    def __init__(self, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.whole, self.capsys = whole, capsys
        self.run, self.out = tmp_path / "run", tmp_path / "out"
        self.content = files(whole)
        shutil.copytree(whole, self.run)
        assert distill(self.run) == 0  # its own path is in config.yaml and the page
        self.good = shutil.copytree(self.run, tmp_path / "good")
        self.content = files(self.good)
        self.before = {verb: self.use(verb) for verb in VERBS}
        assert all(code == 0 for code, _, _ in self.before.values())

    def use(self, verb: str) -> tuple[int, str, dict[str, bytes]]:
        """Exit code, what was said, and what the verb made."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        self.capsys.readouterr()
        if verb == "distill":
            code = distill(self.run)
        elif verb == "compare":
            code = cli.main(["report", str(self.run), str(self.good), "--out", str(self.out / "page.html")])
        elif verb == "export":
            code = cli.main(["export", "--run", str(self.run), "--format", "hf", "--out", str(self.out / "hf")])
        else:
            code = cli.main(["evaluate", "--run", str(self.run), "--print-config"])
        said = self.capsys.readouterr()
        printed = said.out if verb == "--run" else ""
        product = {name: LINK.sub(rb"\1", data) for name, data in files(self.out).items()}
        return code, said.err, {**product, "printed": printed.encode()}

    def case(self, name: str, damage: str, verb: str) -> str:
        shutil.rmtree(self.run)
        shutil.copytree(self.good, self.run)
        others = [n for n in self.content if n != name and self.content[n] != self.content[name]]
        other = next((n for n in others if Path(n).name == Path(name).name), others[len(others) // 2])
        DAMAGES[damage](self.run / name, self.good / other)
        code, said, product = self.use(verb)
        if damage == "folder":
            assert (self.run / name / "mine.txt").read_text() == "keep me", "what is theirs stays"
        return self.judge(name, code, said, product == self.before[verb][2])

    def judge(self, name: str, code: int, said: str, same: bool) -> str:
        if code:
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            named = code in (1, 2) and len(errors) == 1 and "Traceback" not in said
            parts = (Path(name).name, name.rpartition("/")[0] or name, str(self.run))  # the file, or all that it is of
            return "named" if named and any(p in errors[0] for p in parts) else "used"
        now = files(self.run)
        changed = {n for n, data in self.content.items() if now.get(n) != data}
        if changed == set() and same:
            return "rebuilt" if "mended" in said or "manifest" in name or "seals/" in name else "unread"
        return "unread" if changed == {name} and same and "mended" not in said else "used"


def expected(group: str, damage: str, verb: str) -> str:
    cell, _, in_place = TABLE[group][VERBS.index(verb)].partition("/")
    return BESIDES.get((group, damage, verb), in_place if in_place and damage == "folder" else cell)


def sweep(it: Sweep, group: str, names: list[str], cases: list[tuple[str, str]]) -> Counter[str]:
    """Every case of damage and verb, of every file."""
    outcomes: Counter[str] = Counter()
    wrong = []
    for name in names:
        for damage, verb in cases:
            seen = it.case(name, damage, verb)
            outcomes[seen] += 1
            if seen != expected(group, damage, verb):
                wrong.append(f"{name}, {damage}, {verb}: {seen}, not {expected(group, damage, verb)}")
    assert not wrong, "\n".join(wrong)
    assert outcomes["used"] == 0
    return outcomes


def test_the_table_has_every_file(whole: Path) -> None:
    assert sum(len(members(whole, group)) for group in TABLE) == len(files(whole))
    assert all(members(whole, group) for group in TABLE)


@pytest.mark.parametrize("group", groups())
def test_a_damaged_file_is_rebuilt_named_or_not_read(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], group: str
) -> None:
    """One file a group; a verb that does not read it gets two of the damages."""
    names = [n for n in members(whole, group) if not n.count("/") > 1 or n.startswith(FEW)]
    once = ["flip", "truncate", "empty", "delete", "swap", "folder"]
    cases = [(d, v) for v in VERBS for d in once if d in ("delete", "folder") or expected(group, d, v) != "unread"]
    print(group, dict(sweep(Sweep(whole, tmp_path, capsys), group, names[:1], cases)))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("group", groups())
def test_every_damage_to_every_file(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], group: str
) -> None:
    every = [(damage, verb) for damage in DAMAGES for verb in VERBS]
    print(group, dict(sweep(Sweep(whole, tmp_path, capsys), group, members(whole, group), every)))


def test_what_a_verb_does_not_read_is_named_by_whoever_does(whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    for data in sorted(run.glob("*/*/data/*")):
        good = data.read_bytes()
        stage, fingerprint = data.relative_to(run).parts[:2]
        artifact = Artifact(Location.of(str(run)), stage, fingerprint)
        for damage in DAMAGES.values():
            damage(data, run / "report.html")
            with pytest.raises(CorruptArtifact, match=data.name):
                artifact.verify(artifact.manifest().records)
            shutil.rmtree(data) if data.is_dir() else data.unlink(missing_ok=True)
            data.write_bytes(good)
        artifact.verify(artifact.manifest().records)


class TestRemedies:
    """What an error line tells to do is done, and then it works."""

    @pytest.fixture
    def it(self, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Sweep:
        return Sweep(whole, tmp_path, capsys)

    def fails(self, it: Sweep, verb: str, what: str) -> None:
        code, said, _ = it.use(verb)
        assert code in (1, 2) and what in said and said.count("error: ") == 1, said

    def works(self, it: Sweep, verb: str) -> None:
        code, said, product = it.use(verb)
        assert code == 0 and product == it.before[verb][2], said

    @pytest.mark.parametrize(("name", "verb"), [("config.yaml", "compare"), ("result.json", "export")])
    def test_the_command_that_made_it_again(self, it: Sweep, name: str, verb: str) -> None:
        flip(0.5)(it.run / name, it.run)
        self.fails(it, verb, "run the command that made it again, which takes seconds")
        self.works(it, "distill")
        self.works(it, verb)

    def test_a_run_of_an_older_version_is_finished_and_gets_its_seals(self, it: Sweep) -> None:
        shutil.rmtree(it.run / "seals")
        for verb in ("compare", "export"):
            self.fails(it, verb, "has no seal, so nobody knows whether it is whole; run the command that made it again")
        self.works(it, "--run")
        code, said, _ = it.use("distill")
        assert code == 0 and "nothing was left to do" in said and files(it.run) == it.content
        for verb in ("compare", "export"):
            self.works(it, verb)

    def test_an_edited_configuration_is_given_by_config_or_written_anew(self, it: Sweep) -> None:
        path = it.run / "config.yaml"
        path.write_text(path.read_text().replace("seed: 0", "seed: 7"))
        self.fails(it, "--run", f"give --config {path}")
        assert cli.main(["distill", "--config", str(path), "--print-config"]) == 0
        assert "seed: 7" in it.capsys.readouterr().out
        edited = path.read_bytes()
        code, said, _ = it.use("distill")
        (kept,) = (p for p in (it.run / "logs").glob("config-*.yaml") if p.read_bytes() == edited)
        assert code == 0 and kept.name in said
        self.works(it, "--run")

    @pytest.mark.parametrize("name", ["result.json", "logs/costs.json", "seals/report.html.json", "config.yaml"])
    def test_what_is_in_the_way_is_moved_away(self, it: Sweep, name: str, tmp_path: Path) -> None:
        folder(it.run / name, it.run)
        self.fails(
            it, "distill", f"{it.run / name}: it is a folder where a file belongs; move it away, then run the same"
        )
        (it.run / name).rename(tmp_path / "moved")
        self.works(it, "distill")
        assert files(it.run).items() >= it.content.items()

    @pytest.mark.parametrize("name", ["seals", "distilled", "logs"])
    def test_a_file_in_the_place_of_a_folder_is_named(self, it: Sweep, name: str, tmp_path: Path) -> None:
        shutil.move(it.run / name, tmp_path / "folder")
        (it.run / name).write_text("mine")
        self.fails(it, "distill", f"{it.run / name} is a file where a folder belongs; move it away")
        assert (it.run / name).read_text() == "mine"
        (it.run / name).unlink()
        shutil.move(tmp_path / "folder", it.run / name)
        self.works(it, "distill")

    def test_costs_without_seal_or_sense_start_anew_and_are_kept(self, it: Sweep) -> None:
        (it.run / "seals" / "logs%2Fcosts.json.json").unlink()
        (it.run / "logs" / "costs.json").write_text('{"encode": {"seconds": "long", "units": 1, "unit": "images"}}')
        code, said, _ = it.use("distill")
        assert code == 0 and "what stages cost is counted anew" in said
        (kept,) = (it.run / "logs").glob("costs-*.json")
        assert kept.name in said and '"long"' in kept.read_text()
        assert (it.run / "logs" / "costs.json").read_text() == "{}"

    def test_a_stage_is_deleted_and_done_again(self, it: Sweep) -> None:
        data = next(it.run.glob("checks/*/data/*"))
        flip(0.5)(data, it.run)
        location = data.parents[1]
        self.fails(it, "distill", f"delete {location} and run the same command again to rebuild it")
        shutil.rmtree(location)
        assert it.use("distill")[0] == 0
        for verb in ("compare", "export", "--run"):
            self.works(it, verb)
