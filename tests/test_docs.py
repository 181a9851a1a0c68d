"""What a newcomer types or clicks: the README's two commands, the scripts and links that the pages name, the pins."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def ci(*arguments: str, script: Path = ROOT / ".ci" / "run") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", str(script), *arguments], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(("name", "end"), [("run", "jobs/distill.py"), ("test", "-m pytest -n 2")])
def test_ci_finds_the_readmes_commands(name, end):
    """The extraction is .ci/run's own, so CI runs what the README shows."""
    done = ci("--print", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(end)
    assert "-c constraints.txt" in done.stdout
    assert done.stdout.strip() in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "readme",
    [
        "```bash\npytest\n```\n",
        "<!-- command: test -->\nSome words first.\n```bash\npytest\n```\n",
        "<!-- command: test -->\n```bash\npytest\n",
    ],
    ids=["no marker", "words between", "block left open"],
)
def test_ci_refuses_a_readme_without_the_command(tmp_path, readme):
    (tmp_path / ".ci").mkdir()
    script = tmp_path / ".ci" / "run"
    script.write_bytes((ROOT / ".ci" / "run").read_bytes())
    (tmp_path / "README.md").write_text(readme)
    done = ci("--print", "test", script=script)
    assert done.returncode == 2
    assert "<!-- command: test -->" in done.stderr


@pytest.mark.parametrize("page", [*PAGES, ROOT / "cluster.yaml"], ids=relative)
def test_scripts_that_are_named_exist(page):
    named = set(re.findall(r"\bpython (?:-\S+ )*((?:jobs|benchmarks)/[\w/]+\.py)", page.read_text()))
    missing = sorted(script for script in named if not (ROOT / script).is_file())
    assert not missing, f"{relative(page)} names {missing}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_relative_links_resolve(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(<?([^)>\s]+)", prose) + re.findall(r"(?:src|href)=\"([^\"]+)\"", prose)
    broken = [
        target
        for target in targets
        if not re.match(r"[a-z][a-z0-9+.-]*:|#", target) and not (page.parent / target.split("#")[0]).exists()
    ]
    assert not broken, f"{relative(page)} links to {broken}"


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub names them."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", h) for h in re.findall(r"^#+ +(.*)$", prose, re.MULTILINE)]
    return {re.sub(r"[^\w -]", "", h.strip().lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_into_a_page_find_their_heading(page):
    targets = re.findall(r"\]\(<?([^)>\s]*\.md)?#([^)>\s]+)", page.read_text())
    lost = [f"{file}#{name}" for file, name in targets if name not in anchors(page.parent / file if file else page)]
    assert not lost, f"{relative(page)} links to {lost}"


def test_what_the_program_says_of_a_page_is_there():
    said = [
        m
        for f in (ROOT / "raydistill").rglob("*.py")
        for m in re.findall(r"docs/(\w[\w-]*\.md)(?:#([\w-]+))?", f.read_text())
    ]
    assert len(said) > 10
    assert not [
        f"{p}#{a}" for p, a in said if not (ROOT / "docs" / p).exists() or (a and a not in anchors(ROOT / "docs" / p))
    ]


def test_constraints_pin_every_direct_dependency_and_no_build():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines), "a package is pinned twice"
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{requirement} has no pin in constraints.txt"
        assert requirement.specifier.contains(pins[name]), f"{requirement} excludes the pinned {pins[name]}"
    tied = [f"{n}=={v}" for n, v in pins.items() if "+" in v or n.startswith(("nvidia-", "triton"))]
    assert not tied, f"pins that only one kind of machine can install: {tied}"
