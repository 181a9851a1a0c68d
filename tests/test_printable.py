"""Names come from strangers: whatever they hold, a terminal, a table and a page show them as text in one line."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from samples import write_folder
from test_card import make_card
from test_report import between, panel, report, scores

from raydistill import cli
from raydistill.errors import BadInput, one_line, printable
from raydistill.progress import Progress, say
from raydistill.report.card import card
from raydistill.report.data import Judgement
from raydistill.report.page import render
from raydistill.sources.base import ClassInfo
from raydistill.stages.latents.encode import check_broken
from raydistill.store.artifact import Record
from raydistill.store.rundir import RunDir

# A line of its own, red, a title for the window, a C1 control, right to left, an invisible mark, half a character.
HOSTILE = "a\nerror: b\x1b[31mc\x1b]0;d\x07\x9be\u202ef\u200bg\udc80h"
SHOWN = r"a\nerror: b\x1b[31mc\x1b]0;d\x07\x9be\u202ef\u200bg\udc80h"


class TestText:
    def test_what_a_terminal_would_act_on_is_escaped(self) -> None:
        assert printable(HOSTILE) == SHOWN
        assert printable("\r\t\0\x7f\u2028\u2066\ufeff") == r"\r\t\x00\x7f\u2028\u2066\ufeff"

    @pytest.mark.parametrize(
        "text", ["Bär, 10 % \\n", "茶色の猫", "قط", "क्‍ष", "👩‍🔬", "e\u0301", "1\N{NO-BREAK SPACE}000"]
    )
    def test_letters_of_any_script_stay(self, text: str) -> None:
        assert printable(text) == text

    def test_an_error_is_one_printable_line(self) -> None:
        assert one_line(f"x\n  y {HOSTILE}") == f"x y {SHOWN}".replace(r"\n", " ")
        assert one_line("a\x1b") == r"a\x1b"


class TestTerminal:
    def test_news_of_a_stage_are_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        say(f"sample {HOSTILE}", f"made {HOSTILE}")
        assert capsys.readouterr().err == f"sample {SHOWN} made {SHOWN}\n"

    @pytest.mark.parametrize("tty", [False, True])
    def test_progress_too(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tty: bool) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: tty)
        with Progress(HOSTILE, "images", 2) as progress:
            progress.advance(2)
        err = capsys.readouterr().err
        assert SHOWN in err and err.count("\n") == 1 and "\x1b" not in err

    def test_class_names_are_escaped_in_the_first_line_and_in_an_error(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        name = "red\nerror: all is lost\x1b[2J"
        folder = write_folder(tmp_path / "images", {"train": 2, "val": 1})
        for split in ("train", "val"):
            (folder / split / "red").rename(folder / split / name)
        overrides = ["source.kind=imagefolder", f"source.path={folder}", f"run_dir={tmp_path / 'run'}"]
        assert cli.main(["sample", *overrides, "method=random", "ipc=5"]) == 2
        first, error = capsys.readouterr().err.splitlines()
        assert first.startswith("source ") and r"red\nerror: all is lost\x1b[2J 2" in first
        assert error.startswith("error: ipc=5 is more than")

    def test_an_unknown_class_is_escaped_in_the_error(self) -> None:
        assert one_line(BadInput(f"class {HOSTILE!r} is none")).count(r"\x1b") == 2


class TestFiles:
    def test_the_card_has_no_control_and_no_row_of_its_own(self) -> None:
        text = card(
            f"Set {HOSTILE}", "mgd3", 1, 0, [ClassInfo("n01", HOSTILE), ClassInfo("n|02\x00", "b")], 8, "parquet",
            None, {"about": HOSTILE}, {"images": HOSTILE},
        )  # fmt: skip
        assert "".join(text.split("\n")).isprintable()
        assert text.count("\n") == card(
            "Set", "mgd3", 1, 0, [ClassInfo("n01", "a"), ClassInfo("n02", "b")], 8, "parquet", None, {"about": "x"},
            {"images": "y"},
        ).count("\n")  # fmt: skip
        text.encode()
        front = yaml.safe_load(text.split("---\n")[1])
        assert front["pretty_name"].isprintable()

    def test_a_card_of_plain_names_is_as_it_was(self) -> None:
        assert all(line == printable(line) for line in make_card().split("\n"))

    def test_the_page_has_no_control(self) -> None:
        page = render(
            report(
                title=HOSTILE,
                method=HOSTILE,
                notes=(HOSTILE,),
                panels=(panel(0, 2, HOSTILE), panel(1, 2)),
                judgement=Judgement(
                    (replace(scores()[0], set=HOSTILE),), 0.5, (between(HOSTILE, "random", 0.06, 0.02),)
                ),
            )
        )
        assert all(line == printable(line) for line in page.split("\n")) and r"\x1b[31mc" in page
        page.encode()

    def test_the_quarantine_keeps_a_line_an_image(self, tmp_path: Path) -> None:
        meta = {"broken": [["a\tb\nc.png", "no\nimage"], ["d.png", "empty"]]}
        check_broken([Record("k", "f", 0, 0, "", "", "cpu", meta)], 100, 0.5, RunDir(str(tmp_path)))
        lines = (tmp_path / "logs" / "quarantine.tsv").read_text().splitlines()
        assert lines == [r"a\tb\nc.png" + "\t" + r"no\nimage", "d.png\tempty"]
