"""The tables of docs/results and of the README, out of the committed cells.

    python benchmarks/results/pages.py            # writes them anew
    python benchmarks/results/pages.py --check    # exit code 1 if one of them is not what the cells say

A page is prose with blocks, `<!-- table: NAME -->` to `<!-- end of table -->`, which are written by this command; NAME
is an entry of pages.yaml, which has the command that makes the cells. A block holds that command, when, by which commit
and on what machine the cells were made and what they cost, and the tables with their intervals and differences.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(ROOT))

import contrasts  # noqa: E402
import headline  # noqa: E402

from raydistill.report.text import plural  # noqa: E402

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs" / "results").glob("*.md")))
BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
WIDTH = 130  # of a line of a command
MISSING = "Not computed yet."


@dataclass(frozen=True)
class Entry:
    """One of pages.yaml. `arguments` are those of the script that computes and prints the cells under `out`, of which
    its `files` are those that its table is of, or `file` is a table that a benchmark left. `computed`: when and by
    which commit, of cells that do not know it themselves."""

    script: str
    arguments: str
    cost: str
    computed: str = ""
    out: str = ""
    file: str = ""
    short: Mapping[str, Any] | None = None  # a table of a few rows: arguments of headline.table
    pieces: Mapping[str, Any] | None = None  # a table of some differences: those of contrasts.table

    @property
    def words(self) -> list[str]:
        return re.findall(r'"[^"]*"|\S+', self.arguments)

    @property
    def command(self) -> str:
        """As it is typed, in lines that end in a backslash."""
        lines = [f"python benchmarks/{self.script}"]
        for word in self.words:
            if len(lines[-1]) + len(word) + 3 > WIDTH:
                lines.append("   ")
            lines[-1] += f" {word}"
        return " \\\n".join(lines)

    def arguments_of(self, module: Any) -> argparse.Namespace:
        return module.arguments([*(w.strip('"') for w in self.words)])


def entries() -> dict[str, Entry]:
    return {name: Entry(**tree) for name, tree in yaml.safe_load((HERE / "pages.yaml").read_text()).items()}


def block(entry: Entry) -> str:
    """What stands between the markers."""
    if entry.file:
        table, cells = (ROOT / entry.file).read_text().strip(), []
    else:
        module = importlib.import_module(Path(entry.script).stem)
        args = entry.arguments_of(module)
        args.out = ROOT / entry.out
        cells = [json.loads(p.read_text()) for p in module.files(args)]
        table = written(entry, module, args)
    if entry.short or entry.pieces:
        return (table or MISSING) + "\n"
    known = [origin(entry, cells)] if cells or entry.file else []
    return "\n\n".join([f"```bash\n{entry.command}\n```", *known, table or MISSING]) + "\n"


def written(entry: Entry, module: Any, args: argparse.Namespace) -> str:
    """The table of a grid: all that its script prints, or what the entry takes of it."""
    if entry.short:
        return headline.table(module, args, **entry.short)
    return contrasts.table(module, args, entry.pieces) if entry.pieces else module.summary(args)


def origin(entry: Entry, cells: Sequence[Mapping[str, Any]]) -> str:
    """When, by which commit and on what machine its cells were made, and what it cost."""
    machines = sorted({c["machine"] for c in cells if "machine" in c})
    cells_of = [f"[cells](../../{entry.out})"] if entry.out else [f"[table](../../{entry.file})"]
    return "Made " + "; ".join([*dates(entry, cells), *machines, entry.cost, *cells_of]) + "."


def dates(entry: Entry, cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each date with its commits, in the order of time, those of a date as the cells come; `entry.computed` has it of
    cells that do not know. How many cells are whose is said where there are several commits."""
    of_date: dict[str, Counter[str]] = {}
    for stamp in (c["made"] for c in cells if "made" in c):
        of_date.setdefault(stamp["date"], Counter())[stamp["commit"]] += 1
    unknown = len(cells) - sum(sum(commits.values()) for commits in of_date.values())
    alone = sum(map(len, of_date.values())) + bool(unknown) < 2
    known = [entry.computed + ("" if alone else f" ({plural(unknown, 'cell')})")] if unknown or not cells else []
    for date, commits in sorted(of_date.items()):
        named = [commit if alone else f"{commit} ({plural(n, 'cell')})" for commit, n in commits.items()]
        known.append(f"{date}, {'commit' if len(named) == 1 else 'commits'} {', '.join(named)}")
    return known


def filled(text: str, known: Mapping[str, Entry]) -> str:
    """A page with its blocks written anew. Raises KeyError for a block that pages.yaml lacks."""
    return BLOCK.sub(lambda m: f"{m[1]}{block(known[m[2]])}{m[3]}", text)


def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--check", action="store_true", help="write nothing, say which pages differ")
    args = p.parse_args(argv)
    known, differ = entries(), []
    for page in PAGES:
        before = page.read_text()
        after = filled(before, known)
        if before != after:
            differ.append(page.relative_to(ROOT).as_posix())
            if not args.check:
                page.write_text(after)
    print(f"{'not what the cells say' if args.check else 'written'}: {', '.join(differ) or 'none'}")
    return 1 if args.check and differ else 0


if __name__ == "__main__":
    sys.exit(main())
