"""A key that got another name is refused by the old one, unless it says nothing there, as in an older run's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydistill.config import load
from raydistill.config.loading import RENAMED
from raydistill.errors import BadInput


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
class TestOldNames:
    def test_the_line_names_the_new_one_and_following_it_helps(self, old: str, new: str) -> None:
        with pytest.raises(BadInput, match=f"^configuration key {old} is called {new} now; write {new}=5$") as refusal:
            load("quickstart", [f"{old}=5"])
        assert load("quickstart", [str(refusal.value).rpartition(" ")[2]]) == load("quickstart", [f"{new}=5"])

    def test_in_the_file_of_an_older_run_it_is_read_over(self, old: str, new: str, tmp_path: Path) -> None:
        text = load("quickstart").yaml()
        older = text.replace(f"  {new.rpartition('.')[2]}: null", f"  {old.rpartition('.')[2]}: null")
        assert older != text
        (tmp_path / "config.yaml").write_text(older)
        assert load(str(tmp_path / "config.yaml")).tree() == load("quickstart").tree() | {
            "run_dir": load(str(tmp_path / "config.yaml")).run_dir
        }
