"""The shape of the code base, kept true by reading it: which way imports point, who may import Ray, how long a file is.

Everything is found with `ast`, inside functions too, so nothing has to be imported and no import can hide.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "raydistill"
FRONT = PACKAGE / "__init__.py"  # its public names come when they are asked for: tests/test_python_api.py

# A module imports from its own layer and from those above it in this table, never from those below.
LAYERS: list[tuple[str, ...]] = [
    (
        "__init__",
        "config",
        "registry",
        "errors",
        "seeding",
        "machine",
        "identity",
        "progress",
        "outlook",
        "bars",
        "redact",
        "signals",
        "strict_json",
        "code_identity",
        "declared",
        "presets",
    ),
    ("store",),
    ("tracking",),
    ("sources", "models", "diffusion", "clustering"),
    ("guidance", "methods", "metrics", "evaluation", "pretraining", "report", "exporters"),
    ("stages",),
    ("distributed", "state"),
    ("results",),
    ("pipeline",),
    ("planning",),
    ("tune",),
    ("verbs",),
    ("manual", "completion"),
    ("api", "cli"),
    ("entry",),
    ("__main__",),
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
RAY_ALLOWED = "distributed"
LONGEST_FILE = 350
LONGEST_FUNCTION = 60
LONGEST_ENTRY_POINT = 30
LONGEST_INIT = 40

# Names that say nothing of what they hold. The field has words: run_stage, candidates, timestep or numbers, probe,
# node_id, nearest and distance, path length, requested, entry point, leakage, judged folder.
PRIVATE_WORDS = {
    *("bring", "offer", "told", "look", "here", "near", "far", "way", "ways", "detour", "dice", "asked", "asks"),
    *("door", "apart", "foreign", "given", "found", "own", "place", "made", "Bring", "Offer", "Foreign", "Given"),
}

MODULES = sorted(PACKAGE.rglob("*.py"))
JOBS = sorted((ROOT / "jobs").glob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def length(path: Path) -> int:
    return len(path.read_text().splitlines())


def room(path: Path) -> str:
    """The top-level module or package below raydistill/ that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(source: str, package: str = "raydistill") -> set[str]:
    """Dotted names that a source imports, wherever in it: `from a import b` gives a.b. `package` is the source's own.

    A name imported by a literal string (`importlib.import_module("a")`, `__import__("a")`) counts too. The registry's
    imports, whose names are known only at run time, are the one intended exception.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                names.add(node.args[0].value)
    return names


def imports_of(path: Path) -> set[str]:
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    return imported(path.read_text(), package)


def imports_ray(names: set[str]) -> bool:
    return any(name.split(".")[0] == "ray" for name in names)


def downward(room: str, names: set[str]) -> list[str]:
    """What a module of `room` imports from below its layer, or from a room that the table does not hold."""
    wrong = []
    for name in sorted(names):
        parts = name.split(".")
        if parts[0] != "raydistill":
            continue
        target = parts[1] if len(parts) > 1 and not parts[1].startswith("__") else "__init__"
        if target != room and LEVEL.get(target, len(LAYERS)) > LEVEL[room]:
            wrong.append(name)
    return wrong


def test_the_readers_see_what_they_must():
    """The rules below would pass for nothing if these did not find what they look for."""
    assert imports_ray(imported("def f():\n    if x:\n        from ray import data\n"))
    assert imports_ray(imported("import numpy, ray.data as rd"))
    assert imports_ray(imported("m = importlib.import_module('ray')"))
    assert not imports_ray(imported("import raydistill.store\nfrom rays import ray"))
    assert imported("from . import a\nfrom ..store import b", "raydistill.models") == {
        "raydistill.models.a",
        "raydistill.store.b",
    }
    assert downward("store", imported("def f():\n    from raydistill.stages import run")) == ["raydistill.stages.run"]
    assert downward("store", imported("from raydistill import models")) == ["raydistill.models"]
    assert downward("models", imported("from raydistill import __version__, sources, store")) == []
    assert downward("cli", {"raydistill.attic.x"}) == ["raydistill.attic.x"]


def test_every_room_has_its_layer():
    unknown = sorted({room(path) for path in MODULES} - set(LEVEL))
    assert not unknown, f"give {unknown} a place in LAYERS"


def test_imports_point_one_way():
    wrong = {
        relative(path): names
        for path in MODULES
        if path != FRONT and room(path) in LEVEL and (names := downward(room(path), imports_of(path)))
    }
    assert not wrong, f"imports from a layer below their own: {wrong}"


def test_functions_are_short():
    long = {
        f"{relative(path)}:{node.name}": n
        for path in [*MODULES, *JOBS]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (n := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    }
    assert not long, long


def test_only_one_room_knows_of_ray():
    others = [path for path in [*MODULES, *JOBS] if not path.is_relative_to(PACKAGE / RAY_ALLOWED)]
    wrong = [relative(path) for path in others if imports_ray(imports_of(path))]
    assert not wrong, f"these import ray, and only raydistill/{RAY_ALLOWED} may: {wrong}"


def test_files_are_short():
    long = {relative(path): n for path in [*MODULES, *JOBS, *BENCHMARKS, *TESTS] if (n := length(path)) > LONGEST_FILE}
    assert not long, f"could each be two clear files? {long}"


def test_jobs_are_thin_entry_points():
    long = {relative(path): n for path in JOBS if (n := length(path)) >= LONGEST_ENTRY_POINT}
    assert not long, f"what is more than an entry point belongs in the package: {long}"


def test_public_modules_say_what_they_are():
    public = [path for path in [*MODULES, *JOBS] if not path.name.startswith("_") or path.name == "__init__.py"]
    silent = [relative(path) for path in public if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent, f"no docstring: {silent}"


def test_package_inits_are_light():
    """A docstring, names re-exported from this package, constants: importing a package costs next to nothing."""
    light = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    at_home = {"raydistill", *sys.stdlib_module_names}
    wrong = []
    for path in MODULES:
        if path.name == "__init__.py" and path != FRONT:
            heavy = {type(node).__name__ for node in ast.parse(path.read_text()).body if not isinstance(node, light)}
            foreign = {name.split(".")[0] for name in imports_of(path)} - at_home
            if heavy or foreign or length(path) > LONGEST_INIT:
                wrong.append(f"{relative(path)}: holds {heavy}, imports {foreign}, {length(path)} lines")
    assert not wrong, wrong


# Folders of somebody's own machine. `ray` and `ubuntu` are the users of the cluster's nodes (cluster.yaml), `me` and
# `you` are nobody. The brackets keep this line from matching itself.
OWN_PATH = re.compile(r"(?<![\w.~$}-])/(?:[r]oot/|[w]ork/|[U]sers/\w|[h]ome/(?!(?:ray|ubuntu|me|you)\b)[a-z])")
NOT_OURS = re.compile(
    r"^(\.git|\.venv|shared|runs|build|dist|mlruns|mlartifacts|__pycache__|.*_cache|.*\.egg-info|\.hypothesis)$"
)
TEXT_FILES = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".json", ".html", ".sh", ".cfg", ""}


def text_files() -> list[Path]:
    paths = []
    for folder, below, names in os.walk(ROOT):
        below[:] = [name for name in below if not NOT_OURS.match(name)]
        paths += [Path(folder, n) for n in names if Path(n).suffix in TEXT_FILES and not NOT_OURS.match(n)]
    return paths


def test_no_path_of_somebodys_machine():
    files = text_files()
    assert PACKAGE / "__init__.py" in files and ROOT / ".ci" / "run" in files
    assert OWN_PATH.search("see /home/" + "jane/data") and not OWN_PATH.search("network/work/x https://a.org/home/b")
    lines = [
        f"{relative(path)}:{number}: {line.strip()[:100]}"
        for path in files
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if OWN_PATH.search(line)
    ]
    assert not lines, "\n".join(lines)


def test_no_two_classes_have_one_name() -> None:
    """A reader who meets a name knows which class it is."""
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(relative(path))
    assert len(places) > 150
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def identifiers(source: str) -> set[str]:
    """All names of a source, those in f-strings too: of variables, arguments, attributes, functions and classes."""
    nodes = (node for node in ast.walk(ast.parse(source)) if not isinstance(node, ast.Constant))
    return {name for node in nodes for _, name in ast.iter_fields(node) if isinstance(name, str)}


def test_names_are_the_words_of_the_field() -> None:
    """No variable, attribute, function or class is called by one of the words that were replaced."""
    assert identifiers('a.b(c=f"{d}")\ndef e(g): "words"') == set("abcdeg")
    named = {relative(path): identifiers(path.read_text()) for path in (*MODULES, *JOBS, *BENCHMARKS)}
    assert "run_stage" in set().union(*named.values()) and len(named) > len(MODULES) + 20
    assert {path: names & PRIVATE_WORDS for path, names in named.items() if names & PRIVATE_WORDS} == {}
